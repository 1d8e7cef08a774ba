"""A `PyDataset` of the user's own: its order, its position, and its own state."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.keras_private import data_adapters
from mlflow_ckpt._model.keras_private.epoch_iterator import Iteration
from mlflow_ckpt._model.training.data.object_state import ObjectState
from mlflow_ckpt._model.training.data.recent import RecentStates
from mlflow_ckpt._model.training.data.source import CannotContinueError, Source, State


class View(keras.utils.PyDataset):  # type: ignore[misc]
    """A `PyDataset` in a given order and without its first batches.

    Worker processes get a copy of it, so it holds nothing that cannot be copied.

    Args:
        inner: The user's data set.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(
            workers=inner.workers,
            use_multiprocessing=inner.use_multiprocessing,
            max_queue_size=inner.max_queue_size,
        )
        self.inner = inner
        self.order: list[int] | None = None
        self.skipped = 0
        self.begun = False

    @property
    def num_batches(self) -> int | None:
        """Number of batches that are left; None if there is no end."""
        whole = self.inner.num_batches if self.order is None else len(self.order)
        return None if whole is None else whole - self.skipped

    def __getitem__(self, index: int) -> Any:
        position = self.skipped + index
        return self.inner[position if self.order is None else self.order[position]]

    def on_epoch_begin(self) -> None:
        """Notify the user's data set, unless this epoch had begun before."""
        begun, self.begun = self.begun, False
        if not begun:
            self.inner.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Notify the user's data set."""
        self.inner.on_epoch_end()


class _RecordingView(View):
    """A view that is read by one thread, ahead of the training: it remembers random states."""

    def __init__(self, inner: Any, recent: RecentStates) -> None:
        super().__init__(inner)
        self._recent = recent

    def __getitem__(self, index: int) -> Any:
        with self._recent.producing(self.skipped + index):
            return super().__getitem__(index)


class OwnPyDataset(Source):
    """A `PyDataset` of the user's own class, on any backend.

    Keras draws its order from Python's generator when it is first read. Here, it is drawn in the
    same way when the epoch begins, so that it is known.

    Args:
        iteration: Keras's iterator.
    """

    def __init__(self, iteration: Iteration) -> None:
        super().__init__(iteration)
        adapter = iteration.adapter
        self._inner = data_adapters.py_dataset_of(adapter)
        self._shuffle = bool(data_adapters.shuffle_of(adapter))
        self._state = ObjectState(self._inner)
        self._recent = RecentStates(self._state)
        has_workers = data_adapters.has_workers(adapter)
        self._view = View(self._inner) if has_workers else _RecordingView(self._inner, self._recent)
        data_adapters.replace_py_dataset(adapter, self._view)
        if has_workers and iteration.steps_per_epoch is not None:
            self.problem = (
                "a PyDataset with workers starts anew in each epoch of steps_per_epoch batches, "
                "with batches left over from the last one"
            )
        self._pending: State | None = None

    def begin_pass(self, number: int) -> None:
        """Draw the order of a pass, or take that of the pass which is continued.

        It is drawn from Python's global generator, as Keras does, if `fit` shuffles.
        """
        self._recent.forget()
        # Batches that Keras has left from another pass would be read first.
        data_adapters.drop_left_over(self._iteration.adapter)
        pending, self._pending = self._pending, None
        if pending is not None:
            order = pending["order"]
            self._view.order = None if order is None else [int(i) for i in order]
            return
        self._view.skipped = 0
        batches = self._inner.num_batches
        self._view.order = None
        if self._shuffle and batches is not None:
            self._view.order = list(range(batches))
            random.shuffle(self._view.order)

    def open(self, number: int) -> Any:
        """Return the batches of a pass, through the view."""
        return self._iteration.original()

    def capture(self, batch: int) -> State:
        """Capture the order of the pass, and the data set's own state.

        Returns:
            `order`, the indices of batches (int64, of shape (batches,); None if `fit` does not
            shuffle), and `object`, the state of the data set. If one thread reads ahead of the
            training, its random generators and numbers are those before the next batch.
        """
        order = self._view.order
        state, unsaved = self._state.capture()
        self._name(unsaved)
        state.update(self._recent.generators(batch))
        return {
            "order": None if order is None else np.array(order, dtype=np.int64),
            "object": state,
        }

    def capture_between(self) -> State:
        """Capture the data set's own state."""
        state, unsaved = self._state.capture()
        self._name(unsaved)
        return {"object": state}

    def _name(self, unsaved: list[str]) -> None:
        """Note attributes that changed and cannot be saved.

        Args:
            unsaved: Their paths.
        """
        if unsaved:
            self.problem = (
                f"attributes of {type(self._inner).__name__} changed and cannot be saved "
                f"({', '.join(unsaved[:3])}): give it get_state and set_state"
            )

    def own_random(self, batch: int) -> State:
        """Return the states of global generators that the data draw from, at a position.

        Empty if workers read the data set: their states are not known.
        """
        return self._recent.random(batch)

    def prepare(self, state: State, batch: int, *, replay: bool) -> None:
        """Restore the data set's own state, and keep the order of the pass for `begin_pass`.

        Raises:
            CannotContinueError: If the data set has another number of batches.
            Exception: Whatever the data set's own state function raises.
        """
        self._state.restore(state["object"])
        if batch:
            batches = self._inner.num_batches
            if state["order"] is not None and len(state["order"]) != batches:
                raise CannotContinueError(
                    f"the PyDataset had {len(state['order'])} batches and has {batches}"
                )
            self._pending = state
            self._view.skipped, self._view.begun = batch, True

    def reopen(self, number: int, state: State, batch: int) -> Any:
        """Return the rest of the pass: the view skips what was trained on."""
        return self._iteration.original()
