"""What a source of data must do to be continued in another process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mlflow_ckpt._model.keras_private.epoch_iterator import Iteration
from mlflow_ckpt._model.training import random_state

State = dict[str, Any]
REPLAY = "resume(…, replay_data=True) reads and discards the batches that were trained on"


class Opened:
    """An iterable that returns an iterator which is already in use."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        iterator: Iterator[Any] = self._iterator
        return iterator


class CannotContinueError(Exception):
    """The data cannot continue where they were; the text is a phrase that says why."""


class Source:
    """Data of `fit`, read pass by pass: usually, a pass is an epoch.

    This class repeats a pass: it restores the random generators from which its order was drawn,
    reads it from its beginning, and discards the batches that were trained on.

    Args:
        iteration: Keras's iterator.

    Attributes:
        problem: Phrase that says why the data cannot be the same again; None if they can.
        replayable: Whether they are the same after all if they are read again.
    """

    def __init__(self, iteration: Iteration) -> None:
        self.problem: str | None = None
        self.replayable = False
        self._iteration = iteration
        self._start: State | None = None

    def begin_pass(self, number: int) -> None:
        """Prepare a pass, before Keras notifies the data that an epoch begins.

        Args:
            number: Number of the pass: 0 for the first one of the training.
        """

    def open(self, number: int) -> Any:
        """Return an iterable of the batches of a pass.

        Args:
            number: Number of the pass, as in `begin_pass`.
        """
        self._start = {"random": random_state.capture(), **self.extras()}
        return self._iteration.original()

    def open_unused(self) -> Any:
        """Return the iterable that Keras opens at the end of an epoch and never reads."""
        return self._iteration.original()

    def extras(self) -> State:
        """Return further state that the order of a pass depends on."""
        return {}

    def restore_extras(self, state: Mapping[str, Any]) -> None:
        """Restore what `extras` returned."""

    def capture(self, batch: int) -> State:
        """Capture the state within a pass.

        Args:
            batch: Number of batches of the pass that were trained on, at least 1.

        Returns:
            Plain values and arrays, as `_format.values.pack` takes them, for `prepare` and
            `reopen` in another process. Here: `start`, the random states when the pass began, and
            `now`, what `extras` returns.
        """
        return {"start": self._start, "now": self.extras()}

    def capture_between(self) -> State:
        """Capture the state between two passes."""
        return {"now": self.extras()}

    def end_epoch(self) -> None:
        """Do what must be done in every epoch, whether it is saved or not."""

    def own_random(self, batch: int) -> State:
        """Return the states of those random generators that only the data draw from.

        Args:
            batch: Number of batches of the pass that were trained on.

        Returns:
            States by the names that `random_state.capture` gives them, as they were before the
            next batch was produced; empty if the data are not produced ahead of the training.
        """
        return {}

    def prepare(self, state: State, batch: int, *, replay: bool) -> None:
        """Check that the data can continue, and restore the state between two passes.

        Args:
            state: What `capture` returned, or `capture_between`.
            batch: Number of batches of the pass that were trained on; 0 between two passes.
            replay: Whether to read data again from their beginning if necessary.

        Raises:
            CannotContinueError: If they cannot.
        """
        if batch and state.get("start") is None:
            raise CannotContinueError("the checkpoint does not say how their order began")
        if not batch:
            self.restore_extras(state.get("now") or {})

    def reopen(self, number: int, state: State, batch: int) -> Any:
        """Return the rest of a pass, after `prepare`.

        Args:
            number: Number of the pass, as in `begin_pass`.
            state: What `capture` returned.
            batch: Number of batches of the pass that were trained on, at least 1.

        Raises:
            CannotContinueError: If the data have fewer batches.
        """
        start = state["start"]
        random_state.restore(start["random"])
        self.restore_extras(start)
        self._start = start
        iterator = iter(self._iteration.original())
        discard(iterator, batch)
        self.restore_extras(state["now"])
        return Opened(iterator)


def discard(iterator: Iterator[Any], count: int) -> None:
    """Read and discard batches.

    Raises:
        CannotContinueError: If there are fewer.
    """
    for done in range(count):
        try:
            next(iterator)
        except StopIteration:
            raise CannotContinueError(f"they end after {done} of {count} batches") from None


def order_of(seed: int, number: int, samples: int, size: int | None) -> np.ndarray[Any, Any]:
    """Return a random order of samples that depends on a seed and the number of a pass.

    Args:
        seed: A seed from 0 to 2**64 - 1.
        number: Number of the pass.
        samples: Number of samples.
        size: Samples per batch, to shuffle only within batches; None to shuffle all.

    Returns:
        Indices of the samples: int64, of shape (samples,).
    """
    bits = np.random.Philox(key=np.array([seed, number], dtype=np.uint64))
    generator = np.random.Generator(bits)
    if size is None:
        return generator.permutation(samples)
    whole = samples - samples % size
    order = np.arange(samples)
    order[:whole] = generator.permuted(order[:whole].reshape(-1, size), axis=1).reshape(-1)
    generator.shuffle(order[whole:])
    return order
