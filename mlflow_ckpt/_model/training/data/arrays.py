"""Arrays on TensorFlow, whose order is a function of a recorded seed and the number of the pass.

The state of TensorFlow's iterator would not do: it holds the whole order, and says nothing about
the next epoch, which TensorFlow shuffles from a generator that cannot be read.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from mlflow_ckpt._model.keras_private import data_adapters, global_generators
from mlflow_ckpt._model.keras_private.epoch_iterator import Iteration
from mlflow_ckpt._model.keras_private.ordered_arrays import OrderedArrays
from mlflow_ckpt._model.training.data.source import Source, State, order_of


class TensorFlowArrays(Source):
    """Arrays that TensorFlow trains on.

    Args:
        iteration: Keras's iterator.
        step: The model's step. If TensorFlow has a global seed, the seed is derived from both.
    """

    def __init__(self, iteration: Iteration, step: int) -> None:
        super().__init__(iteration)
        self._shuffle = data_adapters.shuffle_of(iteration.adapter)
        self._samples, self._size = data_adapters.batching_of(iteration.adapter)
        self._seed = _seed(step)
        self._arrays: OrderedArrays | None = None

    def open(self, number: int) -> Any:
        """Return the batches of a pass, in the order that follows from the seed and its number."""
        if not self._shuffle:
            return self._iteration.original()
        return self._pipeline().open(self._order(number))

    def open_unused(self) -> Any:
        """Return Keras's own batches, without drawing an order."""
        return self._iteration.original()

    def reopen(self, number: int, state: State, batch: int) -> Any:
        """Return the rest of a pass: all batches but the first `batch`."""
        if not self._shuffle:
            return self._iteration.original().skip(batch)
        return self._pipeline().open(self._order(number), batch)

    def prepare(self, state: State, batch: int, *, replay: bool) -> None:
        """Take over the seed of the saved training, with which all its orders are known."""
        self._seed = int(state["seed"])

    def capture(self, batch: int) -> State:
        """Return the seed, an int from 0 to 2**64 - 1: the rest follows from the position."""
        return {"seed": self._seed}

    def capture_between(self) -> State:
        """Return the same as `capture`."""
        return {"seed": self._seed}

    def _order(self, number: int) -> np.ndarray[Any, Any]:
        """Return the order of the samples in a pass: int64 indices, shape (samples,)."""
        size = self._size if self._shuffle == "batch" else None
        return order_of(self._seed, number, self._samples, size)

    def _pipeline(self) -> OrderedArrays:
        """Return the pipeline that replaces Keras's, created when it is first needed."""
        if self._arrays is None:
            # Keras's own pipeline has converted the arrays too: give that memory back.
            self._iteration.tensorflow_dataset = None
            self._arrays = OrderedArrays(self._iteration.adapter)
            self._iteration.tensorflow_dataset = self._arrays.open(np.arange(self._samples))
        return self._arrays


def _seed(step: int) -> int:
    """Return a seed: random, unless TensorFlow's global seed makes the training repeatable."""
    given = global_generators.tensorflow_seed()
    if given is None:
        # From the operating system: nobody's generator is drawn from.
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
    digest = hashlib.sha256(f"{given} {step}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
