"""Python generators, which can only be read again from their beginning."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from mlflow_ckpt._model.keras_private import data_adapters
from mlflow_ckpt._model.keras_private.epoch_iterator import Iteration
from mlflow_ckpt._model.training.data.recent import RecentStates
from mlflow_ckpt._model.training.data.source import (
    REPLAY,
    CannotContinueError,
    Source,
    State,
    discard,
)

_END = object()


class PythonGenerator(Source):
    """A Python generator, on any backend.

    Args:
        iteration: Keras's iterator.
    """

    def __init__(self, iteration: Iteration) -> None:
        super().__init__(iteration)
        self._first, self._generator = data_adapters.generator_of(iteration.adapter)
        self._taken = self._before = 0
        self._recent = RecentStates(None)
        self._prepared: tuple[Iterator[Any], int] | None = None
        data_adapters.replace_generator(iteration.adapter, self._read)

    def open(self, number: int) -> Any:
        """Return the batches of a pass, and note how many the generator had yielded before it."""
        self._before = self._taken
        self._recent.forget()
        return self._iteration.original()

    def capture(self, batch: int) -> State:
        """Return how many batches the generator had yielded when the pass began."""
        return {"before": self._before}

    def capture_between(self) -> State:
        """Return how many batches the generator has yielded."""
        return {"before": self._taken}

    def own_random(self, batch: int) -> State:
        """Return the states of global generators that the data draw from, at a position.

        Keras reads generators ahead of the training.
        """
        return self._recent.random(batch)

    def prepare(self, state: State, batch: int, *, replay: bool) -> None:
        """Read the generator up to where the training was.

        Args:
            state: Holds `before`, the number of batches that were yielded before the pass.
            batch: Number of batches of the pass that were trained on.
            replay: Whether the user agreed to that.

        Raises:
            CannotContinueError: If the user did not, or if the generator ends before.
        """
        if not replay:
            raise CannotContinueError(f"a Python generator starts from its beginning; {REPLAY}")
        discard(self._rest(), state["before"])
        if batch:
            iterator = self._chain()
            discard(iterator, batch)
            self._prepared = iterator, batch
        self._before = state["before"]

    def reopen(self, number: int, state: State, batch: int) -> Any:
        """Return the rest of the pass, which `prepare` has read up to its position."""
        self._recent.forget()
        return self._iteration.original()

    def _chain(self) -> Iterator[Any]:
        """Return the batches of a pass."""
        # As Keras does: each pass begins with the batches that it has read in advance.
        return itertools.chain(self._first, self._rest())

    def _rest(self) -> Iterator[Any]:
        """Yield the generator's further batches, and count them."""
        for item in self._generator:
            self._taken += 1
            yield item

    def _read(self) -> Iterator[Any]:
        """Yield the batches of a pass."""
        (iterator, position), self._prepared = self._prepared or (self._chain(), 0), None
        while True:
            with self._recent.producing(position):
                item = next(iterator, _END)
            if item is _END:
                return
            position += 1
            yield item
