"""`tf.data` pipelines: their iterator's state is saved, or the pipeline is read again.

A pipeline that is shuffled without a seed is replaced by a copy with seeds, which are saved. With
them, the state of TensorFlow's own iterator continues its order, in this pass and in the next ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.keras_private import data_adapters, tf_data, tf_data_seeds
from mlflow_ckpt._model.keras_private.epoch_iterator import Iteration
from mlflow_ckpt._model.training.data.source import (
    REPLAY,
    CannotContinueError,
    Opened,
    Source,
    State,
    discard,
)

Seeds = list[list[int]]
# Names of the states of iterators: at the start of the pass, at its position, of the next pass's
# iterator before it is created, and after.
_SAVED = frozenset({"first", "iterator", "next", "opened"})


class LateBytes:
    """The bytes of an iterator's state, computed when they are written."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return tf_data.to_bytes(self._state)


class Iterated:
    """A pipeline for Keras's adapter, whose iterators a `Pipeline` creates."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def __iter__(self) -> Iterator[Any]:
        return self._pipeline.iterate()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline.dataset, name)


class Pipeline(Source):
    """A `tf.data.Dataset`, on any backend.

    Args:
        iteration: Keras's iterator.
        limit: Largest estimated state of an iterator, in bytes, that is saved within a pass.

    Attributes:
        dataset: The data set that is read.
    """

    def __init__(self, iteration: Iteration, limit: int) -> None:
        super().__init__(iteration)
        self._on_tensorflow = keras.config.backend() == "tensorflow"
        self.dataset = (
            iteration.tensorflow_dataset
            if self._on_tensorflow
            else data_adapters.dataset_of(iteration.adapter)
        )
        self._recorded = tf_data.seeds_of(self.dataset)
        self._seeds: Seeds | None = None
        self._created = 0
        self._current: Any = None
        self._rest: Any = None
        self._probe: Any = None
        self._first: Any = None
        # Reading again takes longer than restoring, but a huge buffer makes a huge checkpoint.
        self._huge = tf_data.buffered_bytes(self.dataset) > limit
        # An iterator that has reached its end, known or not, has lost all other state.
        # On PyTorch, Keras has read the next batch when callbacks are told of it.
        self._reads_ahead = keras.config.backend() == "torch"
        self._needs_first = self._huge or self._reads_ahead or int(self.dataset.cardinality()) < 0
        self._read = self._position = 0
        self._can_save, lost = tf_data.saving_problem(self.dataset)
        if tf_data.splits_unseeded_shuffle(self.dataset):
            self.problem = (
                "the tf.data pipeline is a part of data that are shuffled once, without a seed, so "
                "that a later process has other parts: pass shuffle(…, seed=…)"
            )
        elif any(not any(pair) for pair in self._recorded):
            self._reseed(_random_where_none)
        if lost is not None:
            self.problem = f"the tf.data pipeline cannot be saved: {lost}"
            self.replayable = not self._can_save
        if not self._on_tensorflow:
            iteration.replace_dataset(Iterated(self))

    def _reseed(self, choose: Any) -> None:
        """Replace the pipeline by a copy with other seeds; if it cannot be copied, say so.

        Args:
            choose: Called with the pairs of seeds in the pipeline; returns the new ones.
        """
        try:
            self.dataset, self._seeds = tf_data_seeds.with_seeds(self.dataset, choose)
        except Exception as error:  # noqa: BLE001 - TensorFlow's, of many kinds
            reason = str(error).partition("\n")[0]
            self.problem = (
                "the tf.data pipeline is shuffled without a seed, and cannot be given one "
                f"({reason}): pass shuffle(…, seed=…)"
            )

    def iterate(self) -> Iterator[Any]:
        """Return a new iterator, or the one that continues a pass."""
        self._current, self._rest, self._probe = self._rest or self._new(), None, None
        if self._needs_first and self._can_save and self._first is None:
            self._first = tf_data.serialize(self._current)
        iterator: Iterator[Any] = self._current
        return self._counted(iterator) if self._reads_ahead else iterator

    def _counted(self, iterator: Iterator[Any]) -> Iterator[Any]:
        """Count the batches that are read, in the pass that an iterator begins or continues."""
        self._read, self._position = self._position, 0
        for batch in iterator:
            self._read += 1
            yield batch

    def _new(self) -> Any:
        """Return a new iterator from the beginning of a pass."""
        # Each iterator advances the generators of the shuffles, so they are counted.
        self._created += 1
        return iter(self.dataset)

    def open(self, number: int) -> Any:
        """Return the batches of a pass, from a new iterator."""
        self._first = None
        return Opened(self.iterate()) if self._on_tensorflow else self._iteration.original()

    def open_unused(self) -> Any:
        """Return a new iterator, which counts although Keras reads nothing from it."""
        return Opened(self._new()) if self._on_tensorflow else self._iteration.original()

    def end_epoch(self) -> None:
        """Create an iterator that shows where the next pass begins, unless this one continues."""
        # The iterator at its end no longer says where the shuffles' generators are.
        if self._probe is None and not self._continues():
            self._probe = self._new()

    def _continues(self) -> bool:
        """Whether the next epoch continues an iterator."""
        return self._iteration.steps_per_epoch is not None and self._iteration.is_open

    def capture(self, batch: int) -> State:
        """Capture the state within a pass.

        Returns:
            The seeds, the number of iterators created, and as `iterator` the state of the current
            one. If that is over the limit, `first` instead: its state at the start of the pass,
            from which it is read again. `first` is there too if the number of batches is unknown.
        """
        if not self._can_save or self._current is None:
            return self._described()
        is_ahead = self._reads_ahead and self._read != batch and self._first is not None
        if self._huge or is_ahead:
            return self._described(first=LateBytes(self._first))
        state = self._saved("iterator", self._current)
        return state if self._first is None else {**state, "first": LateBytes(self._first)}

    def _saved(self, name: str, iterator: Any) -> State:
        """Return the description with the state of an iterator, under a name.

        Only the description if TensorFlow cannot save it; `problem` then says why.
        """
        try:
            return self._described(**{name: LateBytes(tf_data.serialize(iterator))})
        except Exception as error:  # noqa: BLE001 - TensorFlow's, of many kinds
            reason = str(getattr(error, "message", error)).partition("\n")[0]
            self._can_save = False
            self.problem = f"the tf.data pipeline cannot be saved ({reason})"
            return self._described()

    def capture_between(self) -> State:
        """Capture the state between two passes.

        Returns:
            The seeds and the number of iterators created, and the state of an iterator: `opened`,
            of the current one, if the next epoch continues it (with `steps_per_epoch`); otherwise
            `next`, of one that is created to show where the next pass begins.
        """
        if not self._can_save:
            return self._described()
        if self._continues() and self._current is not None:
            return self._saved("opened", self._current)
        if self._probe is None:
            self._probe = self._new()
        return self._saved("next", self._probe)

    def _described(self, **state: Any) -> State:
        """Return what identifies the orders of the pipeline, with further states.

        Args:
            state: States of iterators, by name.
        """
        described = {
            "recorded": self._recorded,
            "seeds": self._seeds,
            "created": self._created,
        }
        return {**described, **state}

    def prepare(self, state: State, batch: int, *, replay: bool) -> None:
        """Give the pipeline the saved seeds, and restore the iterator between two passes.

        Without a saved iterator, as many are created as before, so that seeds of shuffles advance.

        Raises:
            CannotContinueError: If no state was saved and `replay` is false, if the pipeline has
                another number of random stages, or if an iterator's state does not fit it.
        """
        if not batch and not self._recorded and not self._can_save:
            return  # a pass starts from its beginning anyway
        if not (self._can_save and set(state) & _SAVED) and not replay:
            raise CannotContinueError(f"{self.problem}; {REPLAY}")
        self._repeat_seeds(state)
        if not set(state) & _SAVED:
            for _ in range(state["created"] - (1 if batch else 0)):
                self._new()
        elif not batch and "next" in state:
            self._probe = self._restored(state["next"])
        elif not batch and "opened" in state:
            self._rest = self._restored(state["opened"])

    def _repeat_seeds(self, state: State) -> None:
        """Give the pipeline the seeds that it had.

        Raises:
            CannotContinueError: If it has another number of random stages.
        """
        saved, now = state["recorded"], self._recorded
        if len(saved) != len(now):
            raise CannotContinueError(
                f"the tf.data pipeline had {len(saved)} random stages and has {len(now)}"
            )
        if state["seeds"] is not None:
            self._reseed(lambda _: state["seeds"])
        elif saved != now:
            pairs = {tuple(new): old for new, old in zip(now, saved, strict=True)}
            self._reseed(lambda found: [pairs[tuple(pair)] for pair in found])
        self._recorded = saved

    def reopen(self, number: int, state: State, batch: int) -> Any:
        """Return the rest of a pass: from the saved iterator, or by reading up to its position.

        Raises:
            CannotContinueError: If the state does not fit, or if there are fewer batches.
        """
        self._position = batch
        if "iterator" in state:
            if "first" in state:
                self._restored(state["first"])
            self._rest = self._restored(state["iterator"])
        else:
            self._rest = self._restored(state["first"]) if "first" in state else self._new()
            self._first = tf_data.serialize(self._rest) if "first" in state else None
            discard(self._rest, batch)
        return Opened(self.iterate()) if self._on_tensorflow else self._iteration.original()

    def _restored(self, state: np.ndarray[Any, Any]) -> Any:
        """Return a new iterator with a saved state.

        Args:
            state: The bytes that `LateBytes` computed: uint8, of shape (bytes,).

        Raises:
            CannotContinueError: If the state does not fit.
        """
        iterator = self._new()
        try:
            tf_data.deserialize(iterator, state)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise CannotContinueError(
                f"the tf.data pipeline differs from the saved one ({reason})"
            ) from error
        return iterator


def _random_where_none(pairs: Sequence[Sequence[int]]) -> Seeds:
    """Return random seeds where there are none, without drawing from anyone's generator."""
    return [
        list(pair)
        if any(pair)
        else [int(word) for word in np.random.SeedSequence().generate_state(2, np.uint64) >> 1]
        for pair in pairs
    ]
