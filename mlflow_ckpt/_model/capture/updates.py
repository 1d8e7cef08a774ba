"""Measures how far the weights moved since a training's previous checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlflow_ckpt._format.fingerprint import WEIGHTS_ROLE
from mlflow_ckpt._format.statistics import is_real
from mlflow_ckpt._model.files.captured import Tensor

# Elements processed together, so that they stay in the processor's cache.
_CHUNK = 1 << 15


@dataclass(frozen=True)
class Update:
    """The change of the weights between two checkpoints.

    Attributes:
        since: Name of the previous checkpoint.
        norms: Euclidean norms of the changes, by tensor name; without tensors whose norm is not
            finite, or whose shape or dtype changed.
    """

    since: str
    norms: Mapping[str, float] = field(default_factory=dict)


class Updates:
    """Measures updates between successive checkpoints; keeps a copy of the last one's weights."""

    def __init__(self) -> None:
        self._since: str | None = None
        self._weights: dict[str, np.ndarray[Any, Any]] = {}

    def measure(self, tensors: Iterable[Tensor], name: str) -> Update | None:
        """Measure how far the weights moved since the last checkpoint; None for the first one."""
        since, self._since = self._since, name
        before, self._weights = self._weights, {}
        norms = {}
        for tensor in tensors:
            if tensor.role != WEIGHTS_ROLE or not is_real(tensor.array.dtype):
                continue
            old = before.pop(tensor.name, None)
            if old is None or (old.shape, old.dtype) != (tensor.array.shape, tensor.array.dtype):
                old = tensor.array.copy()
            else:
                norm = _move(old, tensor.array)
                if math.isfinite(norm):
                    norms[tensor.name] = norm
            self._weights[tensor.name] = old
        return None if since is None else Update(since, norms)

    def forget(self) -> None:
        """Free the memory; the next checkpoint counts as the first."""
        self._since, self._weights = None, {}


def _move(old: np.ndarray[Any, Any], new: np.ndarray[Any, Any]) -> float:
    """Copy `new` over `old`; return the norm of the difference, computed in float64."""
    a, b = old.reshape(-1), np.ascontiguousarray(new).reshape(-1)
    scratch = np.empty(min(_CHUNK, a.size))
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, a.size, _CHUNK):
            piece, before = b[start : start + _CHUNK], a[start : start + _CHUNK]
            change = scratch[: piece.size]
            np.copyto(change, piece, casting="unsafe")
            change -= before.astype(np.float64, copy=False)
            # np.dot would start a thread on every core, where training runs.
            total += float(np.einsum("i,i->", change, change))
            before[...] = piece
    return math.sqrt(total) if total >= 0 else math.nan
