"""A data set whose order of batches depends only on a seed and the epoch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.keras_private import epoch_iterator, fit_internals
from mlflow_ckpt._model.training.data.describe_data import sampled_digest
from mlflow_ckpt.errors import InvalidArgumentError


class EpochDataset(keras.utils.PyDataset):  # type: ignore[misc]
    """A data set whose batches in an epoch are the same after a restart of the process.

        data = mlflow_ckpt.EpochDataset(x, y, batch_size=64, seed=0)
        model.fit(data, epochs=5, callbacks=[mlflow_ckpt.MlflowCheckpoint()])

    The order of an epoch is a function of seed and epoch. If training is resumed within an epoch,
    `MlflowCheckpoint` sets the first batch.

    Args:
        x: Samples along the first axis: an array, or a dictionary, list or tuple of arrays.
        y: Targets, likewise; None for no targets.
        sample_weight: One weight per sample; None for no weights.
        batch_size: Samples per batch; the last batch of an epoch may have fewer.
        seed: Seed of the order, at least 0.
        shuffle: Whether to shuffle the samples.

    Raises:
        InvalidArgumentError: If the arrays have no samples or different numbers of samples, or if
            `batch_size` or `seed` is too small or not an int.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        batch_size: int = 32,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        super().__init__()
        pair = (x,) if y is None else (x, y)
        self._arrays = pair if sample_weight is None else (x, y, sample_weight)
        self._leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(self._arrays)]
        self._arrays = keras.tree.pack_sequence_as(self._arrays, self._leaves)
        counts = sorted({leaf.shape[0] if leaf.ndim else 0 for leaf in self._leaves})
        if len(counts) != 1 or counts[0] == 0:
            raise InvalidArgumentError(
                "Expected arrays with the same number of samples, at least 1, along the first "
                f"axis. Received: {', '.join(str(count) for count in counts) or 'none'}"
            )
        _require_at_least(1, "batch_size", batch_size)
        _require_at_least(0, "seed", seed)
        self._samples = counts[0]
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self._epoch: int | None = None
        self._skipped = 0
        self._order: tuple[int, np.ndarray[Any, Any]] | None = None
        self._passed = False

    @classmethod
    def from_function(
        cls, dataset_fn: Callable[[int], Iterable[Any]], *, batches: int | None = None
    ) -> EpochDataset:
        """Create a data set from a function that returns the batches of an epoch.

        Args:
            dataset_fn: Called with the number of completed epochs (0, 1, …); returns an iterable of
                batches, such as a `tf.data.Dataset`, which must be the same for the same epoch.
                Derive the seed for shuffling from the epoch: `dataset.shuffle(n, seed=epoch)`.
            batches: Batches per epoch; required if the iterable has no `len()`.

        Raises:
            InvalidArgumentError: If the number of batches is unknown or less than 1.
        """
        return _FunctionDataset(dataset_fn, batches)

    @property
    def epoch(self) -> int | None:
        """Number of completed epochs; None before `begin` is called."""
        return self._epoch

    @property
    def batches(self) -> int:
        """Number of batches in a whole epoch."""
        return -(-self._samples // self.batch_size)

    @property
    def num_batches(self) -> int:
        """Number of batches in the current epoch, without those that are skipped."""
        return self.batches - self._skipped

    def __len__(self) -> int:
        """Return `num_batches`."""
        return self.num_batches

    def begin(self, epoch: int, batch: int = 0) -> None:
        """Begin an epoch.

        Args:
            epoch: Number of completed epochs.
            batch: Number of batches to skip.

        Raises:
            InvalidArgumentError: If `batch` is negative or leaves no batch.
        """
        if not 0 <= batch < self.batches:
            raise InvalidArgumentError(
                f"Expected a batch from 0 to {self.batches - 1}. Received: {batch}"
            )
        self._epoch, self._skipped = epoch, batch

    def on_epoch_begin(self) -> None:
        """Begin the epoch of the `fit` that uses the data set, unless a callback has."""
        running = fit_internals.running_epoch()
        if running is None or epoch_iterator.data_of(running[1])[1] is not self:
            return  # Keras inspects the data, or evaluates
        epoch, iterator = running
        if epoch != self._epoch:
            self.begin(epoch)
            epoch_iterator.expect_batches(iterator, self.num_batches)

    def describe(self) -> dict[str, Any]:
        """Return plain values by name that identify the data set."""
        return {
            "samples": self._samples,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "arrays": [f"{leaf.dtype.name} {list(leaf.shape[1:])}" for leaf in self._leaves],
            "digest": sampled_digest(self._leaves),
        }

    def __getitem__(self, index: int) -> Any:
        """Return a batch of the current epoch: (x,), (x, y) or (x, y, sample_weight)."""
        if not 0 <= index < self.num_batches:
            raise IndexError(index)
        self._notice_end(index)
        start = (self._skipped + index) * self.batch_size
        rows: Any = slice(start, start + self.batch_size)
        if self.shuffle:
            rows = self._permutation()[rows]
        return keras.tree.map_structure(lambda leaf: leaf[rows], self._arrays)

    def _permutation(self) -> np.ndarray[Any, Any]:
        epoch = self._epoch or 0
        if self._order is None or self._order[0] != epoch:
            # NumPy guarantees the stream of Philox, which takes seed and epoch as its key.
            bits = np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64))
            self._order = epoch, np.random.Generator(bits).permutation(self._samples)
        return self._order[1]

    def _notice_end(self, index: int) -> None:
        """Warn at the start of a second pass if `begin` was never called."""
        if self._epoch is None and self.shuffle:
            if self._passed and index == 0:
                self._passed = False
                warnings.warn(
                    "EpochDataset repeats the same order in every epoch, because it is not told "
                    "which epoch begins. Call begin(epoch) before each one.",
                    stacklevel=2,
                )
            self._passed = self._passed or (index == self.num_batches - 1 and index > 1)


class _FunctionDataset(EpochDataset):
    """Batches from a function, epoch by epoch."""

    def __init__(self, dataset_fn: Callable[[int], Iterable[Any]], batches: int | None) -> None:
        keras.utils.PyDataset.__init__(self)
        self._function = dataset_fn
        self._epoch = None
        self._skipped = 0
        self.shuffle = False
        self._iterator: Iterator[Any] | None = None
        self._next = 0
        if batches is None:
            try:
                batches = len(dataset_fn(0))  # type: ignore[arg-type]
            except TypeError as error:
                raise InvalidArgumentError(
                    "The number of batches per epoch cannot be inferred from dataset_fn's result "
                    f"({error}). Pass batches=…."
                ) from error
        if batches < 1:
            raise InvalidArgumentError(f"Expected at least 1 batch. Received: {batches}")
        self._batches = batches

    @property
    def batches(self) -> int:
        return self._batches

    def begin(self, epoch: int, batch: int = 0) -> None:
        super().begin(epoch, batch)
        self._iterator = None

    def describe(self) -> dict[str, Any]:
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        return {"function": name, "batches": self._batches}

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.num_batches:
            raise IndexError(index)
        position = self._skipped + index
        if self._iterator is None or position < self._next:
            self._iterator = self._restart()
            self._next = 0
        while True:
            batch = next(self._iterator, None)
            if batch is None:
                raise ValueError(
                    f"dataset_fn({self._epoch or 0}) returned {self._next} batches. "
                    f"Expected {self._batches}."
                )
            self._next += 1
            if self._next > position:
                return keras.tree.map_structure(np.asarray, batch)

    def _restart(self) -> Iterator[Any]:
        dataset = self._function(self._epoch or 0)
        # A tf.data pipeline need not compute the batches that it skips.
        skip = getattr(dataset, "skip", None)
        if self._skipped and callable(skip):
            return self._padded(iter(skip(self._skipped)))
        return iter(dataset)

    def _padded(self, rest: Iterator[Any]) -> Iterator[Any]:
        """Yield an empty batch for each one that was skipped, then the rest."""
        for _ in range(self._skipped):
            yield ()
        yield from rest


def _require_at_least(least: int, name: str, value: Any) -> None:
    if not isinstance(value, int) or value < least:
        raise InvalidArgumentError(f"Expected {name} to be at least {least}. Received: {value!r}")
