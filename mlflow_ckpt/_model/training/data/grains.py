"""Grain's data sets, whose iterators have a state."""

from __future__ import annotations

import sys
from typing import Any

import keras

from mlflow_ckpt._model.keras_private import data_adapters
from mlflow_ckpt._model.keras_private.epoch_iterator import Iteration
from mlflow_ckpt._model.training.data.object_state import decode, encode
from mlflow_ckpt._model.training.data.source import Opened, Source, State, discard


class GrainDataset(Source):
    """A data set or data loader of Grain, on any backend.

    On TensorFlow, Keras reads it ahead of the training, so that it is read again from where the
    pass began.

    Args:
        iteration: Keras's iterator.
    """

    def __init__(self, iteration: Iteration) -> None:
        super().__init__(iteration)
        self._reads_ahead = keras.config.backend() == "tensorflow"
        self._watched = _watched(data_adapters.dataset_of(iteration.adapter))
        iteration.replace_dataset(self._watched)

    def open(self, number: int) -> Any:
        """Return the batches of a pass, from a new iterator."""
        return self._iteration.original()

    def capture(self, batch: int) -> State:
        """Return the state of the iterator, which says where it is."""
        iterator = self._watched.current
        if iterator is None:
            return {"iterator": None}
        state = self._watched.begun if self._reads_ahead else iterator.get_state()
        return {"iterator": encode(state)}

    def capture_between(self) -> State:
        """Return no state: each pass has a new iterator."""
        return {}

    def prepare(self, state: State, batch: int, *, replay: bool) -> None:
        """Have the next pass continue the saved iterator, within a pass.

        Raises:
            Exception: Grain's, if the state does not fit.
        """
        if batch:
            self._watched.resume(decode(state["iterator"]))

    def reopen(self, number: int, state: State, batch: int) -> Any:
        """Return the rest of the pass, which `prepare` has set up.

        Raises:
            CannotContinueError: If the data have fewer batches.
        """
        if not self._reads_ahead:
            return self._iteration.original()
        iterator = iter(self._iteration.original())
        discard(iterator, batch)
        return Opened(iterator)


def _watched(dataset: Any) -> Any:
    """Return a Grain data set that keeps its newest iterator, and can continue one."""
    grain = sys.modules["grain"]

    class Loading(grain.DatasetIterator):  # type: ignore[name-defined,misc]
        """An iterator of a `DataLoader`, as one of a data set: Grain passes no other one on."""

        def __init__(self, iterator: Any) -> None:
            super().__init__()
            self._iterator = iterator

        def __next__(self) -> Any:
            return next(self._iterator)

        def get_state(self) -> Any:
            return self._iterator.get_state()

        def set_state(self, state: Any) -> None:
            self._iterator.set_state(state)

    def opened() -> Any:
        iterator = iter(dataset)
        return iterator if isinstance(iterator, grain.DatasetIterator) else Loading(iterator)

    class Watched(grain.IterDataset):  # type: ignore[name-defined,misc]
        """The same data, with its newest iterator as `current`, and the state it `begun` with."""

        def __init__(self) -> None:
            super().__init__()
            self.current: Any = None
            self.begun: Any = None
            self._rest: Any = None

        def resume(self, state: Any) -> None:
            """Have the next iterator continue where an earlier one had this state."""
            rest = opened()
            rest.set_state(state)
            self._rest = rest

        def __iter__(self) -> Any:
            self.current, self._rest = self._rest or opened(), None
            self.begun = self.current.get_state()
            return self.current

    return Watched()
