"""Random states before each of the last batches that were produced ahead of the training."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mlflow_ckpt._model.training import random_state
from mlflow_ckpt._model.training.data.object_state import ObjectState

# Data are produced at most this many batches ahead.
_KEPT = 512


class RecentStates:
    """Remembers the random states with which each batch was produced.

    On TensorFlow, Keras reads Python data ahead of the training. A random generator that the data
    draw from is then further than the training.

    Args:
        item: State of the object that produces the batches; None if it has none.
    """

    def __init__(self, item: ObjectState | None) -> None:
        self._item = item
        self._before: OrderedDict[int, tuple[dict[str, Any], dict[str, Any]]] = OrderedDict()
        self._after: tuple[int, tuple[dict[str, Any], dict[str, Any]]] | None = None
        self._drawn: set[str] = set()
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Begin a pass."""
        with self._lock:
            self._before.clear()
            self._after = None

    @contextmanager
    def producing(self, position: int) -> Iterator[None]:
        """Remember the states before and after a batch is produced."""
        before = self._now()
        yield
        after = self._now()
        drawn = {name for name in before[0] if not _same(before[0][name], after[0].get(name))}
        with self._lock:
            self._drawn |= drawn
            self._before[position] = before
            self._after = position + 1, after
            while len(self._before) > _KEPT:
                self._before.popitem(last=False)

    def random(self, position: int) -> dict[str, Any]:
        """Return the states of those global generators that the data draw from, at a position."""
        found = self._find(position)
        return {} if found is None else {name: found[0][name] for name in self._drawn}

    def generators(self, position: int) -> dict[str, Any]:
        """Return the states of the object's own generators at a position."""
        found = self._find(position)
        return {} if found is None else found[1]

    def _find(self, position: int) -> Any:
        """Return the global and the own states before a batch; None if they are not kept."""
        with self._lock:
            if position in self._before:
                return self._before[position]
            if self._after is not None and self._after[0] == position:
                return self._after[1]
        return None

    def _now(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the current states: of global generators, and of the object's own."""
        own = {} if self._item is None else self._item.capture_generators()
        return random_state.capture_drawn(), own


def _same(one: Any, other: Any) -> bool:
    """Whether two states are equal, array by array."""
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return all(_same(left, right) for left, right in zip(one, other, strict=True))
    return bool(one == other)
