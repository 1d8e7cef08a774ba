"""Descriptive statistics of a tensor, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Elements looked at together: large enough for NumPy's speed, small enough to stay in cache.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Statistics:
    """Statistics over the finite elements of a tensor; all None where it has none.

    Attributes:
        mean: Arithmetic mean.
        std: Population standard deviation.
        min: Smallest element.
        max: Largest element.
        norm: Euclidean norm.
        nan_count: Elements that are NaN.
        inf_count: Elements that are infinite.
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
        """Read the statistics out of a tensor's entry in `fingerprint.json`."""

        def number(key: str) -> float | None:
            return None if entry[key] is None else float(entry[key])

        return cls(
            mean=number("mean"),
            std=number("std"),
            min=number("min"),
            max=number("max"),
            norm=number("norm"),
            nan_count=int(entry["nan_count"]),
            inf_count=int(entry["inf_count"]),
        )


def statistics(array: np.ndarray[Any, Any]) -> Statistics:
    """Compute statistics in float64, in one pass.

    Args:
        array: Any shape; a real or boolean dtype (others, such as complex, have no statistics).

    Source:
        Mean and variance of chunks are merged as in Chan, Golub and LeVeque (1983), which does not
        cancel where the mean is large beside the deviation.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    count = nans = infs = 0
    mean = spread = squares = 0.0
    low, high = math.inf, -math.inf
    if not _is_real(flat.dtype):
        return Statistics(None, None, None, None, None, 0, 0)
    for start in range(0, flat.size, _CHUNK):
        with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN
            chunk = flat[start : start + _CHUNK].astype(np.float64)
        finite = np.isfinite(chunk)
        if not finite.all():
            nans += int(np.isnan(chunk).sum())
            infs += int(np.isinf(chunk).sum())
            chunk = chunk[finite]
            if not chunk.size:
                continue
        # Values near the largest float64 overflow when squared: the result is Inf, said as None.
        with np.errstate(over="ignore", invalid="ignore"):
            chunk_mean = float(chunk.mean())
            deviation = chunk - chunk_mean
            chunk_spread = float(np.dot(deviation, deviation))
            squares += float(np.dot(chunk, chunk))
            delta = chunk_mean - mean
            total = count + chunk.size
            mean += delta * chunk.size / total
            spread += chunk_spread + delta * delta * count * chunk.size / total
        count = total
        low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
    if not count:
        return Statistics(None, None, None, None, None, nans, infs)
    return Statistics(
        mean=_finite(mean),
        std=_finite(math.sqrt(spread / count) if spread >= 0 else math.nan),
        min=low,
        max=high,
        norm=_finite(math.sqrt(squares)),
        nan_count=nans,
        inf_count=infs,
    )


def _is_real(dtype: np.dtype[Any]) -> bool:
    # bfloat16 and float8 are of NumPy's kind "V" but convert to float64.
    return dtype.kind in "biuf" or (
        dtype.kind == "V" and dtype.names is None and dtype.name != f"void{8 * dtype.itemsize}"
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
