"""Descriptive statistics of a tensor, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlflow_ckpt._format.untrusted import fields

# Elements processed together: enough for NumPy to be fast, few enough for the cache.
_CHUNK = 1 << 15


@dataclass(frozen=True)
class Statistics:
    """Statistics over the finite elements of a tensor; None if it has none.

    Attributes:
        mean: Arithmetic mean.
        std: Population standard deviation.
        min: Smallest element.
        max: Largest element.
        norm: Euclidean norm.
        nan_count: Number of NaN elements.
        inf_count: Number of infinite elements.
    """

    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    norm: float | None
    nan_count: int
    inf_count: int

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Statistics:
        """Parse the statistics in a tensor's entry of `fingerprint.json`."""

        def number(key: str) -> float | None:
            return fields.optional(fields.number, entry[key])

        return cls(
            mean=number("mean"),
            std=number("std"),
            min=number("min"),
            max=number("max"),
            norm=number("norm"),
            nan_count=fields.count(entry["nan_count"]),
            inf_count=fields.count(entry["inf_count"]),
        )


class StatisticsAccumulator:
    """Computes the statistics of a tensor piece by piece, in float64 and in one pass.

    Args:
        dtype: Dtype of the elements; those that are not real, such as complex, are ignored.

    Source:
        Mean and variance of pieces are merged as in Chan, Golub and LeVeque (1983), which avoids
        cancellation where the mean is large relative to the deviation.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._real = is_real(dtype)
        # NumPy finds the extremes of these at memory speed; smaller floats are widened first.
        self._plain = dtype.kind in "biu" or dtype in (np.float32, np.float64)
        self._scratch = np.empty(0)
        self._count = self._nans = self._infs = 0
        self._mean = self._spread = 0.0
        self._low, self._high = math.inf, -math.inf

    def update(self, flat: np.ndarray[Any, Any]) -> None:
        """Add the next elements, a one-dimensional array."""
        if self._real:
            for start in range(0, flat.size, _CHUNK):
                self._add(flat[start : start + _CHUNK])

    def _add(self, piece: np.ndarray[Any, Any]) -> None:
        if self._scratch.size < piece.size:
            self._scratch = np.empty(piece.size)
        chunk = self._scratch[: piece.size]
        # Signalling NaNs raise a flag; values near the largest float64 overflow when squared, and
        # the result is None.
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(chunk, piece, casting="unsafe")
            compared = piece if self._plain else chunk
            low, high = float(compared.min()), float(compared.max())
            # NaN and infinity show in the extremes, so finite pieces need no further check.
            if not (math.isfinite(low) and math.isfinite(high)):
                self._nans += int(np.isnan(chunk).sum())
                self._infs += int(np.isinf(chunk).sum())
                chunk = chunk[np.isfinite(chunk)]
                if not chunk.size:
                    return
                low, high = float(chunk.min()), float(chunk.max())
            self._merge(chunk)
        self._low, self._high = min(self._low, low), max(self._high, high)

    def _merge(self, chunk: np.ndarray[Any, Any]) -> None:
        mean = float(chunk.mean())
        chunk -= mean
        total = self._count + chunk.size
        delta = mean - self._mean
        # This order avoids a product as large as the number of elements squared.
        # np.dot would start a thread on every core, where training runs.
        self._spread += float(np.einsum("i,i->", chunk, chunk))
        self._spread += delta * delta * (self._count / total) * chunk.size
        self._mean += delta * (chunk.size / total)
        self._count = total

    def result(self) -> Statistics:
        """Return the statistics of all elements added so far."""
        if not self._count:
            return Statistics(None, None, None, None, None, self._nans, self._infs)
        variance = self._spread / self._count
        squares = self._spread + self._count * self._mean * self._mean
        return Statistics(
            mean=_finite(self._mean),
            std=_finite(math.sqrt(variance) if variance >= 0 else math.nan),
            min=self._low,
            max=self._high,
            norm=_finite(math.sqrt(squares) if squares >= 0 else math.nan),
            nan_count=self._nans,
            inf_count=self._infs,
        )


def statistics(array: np.ndarray[Any, Any]) -> Statistics:
    """Compute statistics in float64, in one pass.

    Args:
        array: Any shape; real or boolean dtype (statistics of others, such as complex, are None).
    """
    accumulator = StatisticsAccumulator(array.dtype)
    accumulator.update(np.ascontiguousarray(array).reshape(-1))
    return accumulator.result()


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether statistics can be computed for a dtype: its elements are real numbers."""
    # bfloat16 and float8 are of NumPy's kind "V" but convert to float64.
    return dtype.kind in "biuf" or (
        dtype.kind == "V" and dtype.names is None and dtype.name != f"void{8 * dtype.itemsize}"
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
