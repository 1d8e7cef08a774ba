"""Batches in an order that depends on nothing but a seed and the epoch."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from mlflow_ckpt.errors import InvalidArgumentError

# So many rows, spread evenly, tell one data set from another.
_SAMPLED_ROWS = 1024


class EpochDataset(keras.utils.PyDataset):  # type: ignore[misc]
    """Gives `fit` the same batches in epoch 3, whether or not the process was restarted.

        data = mlflow_ckpt.EpochDataset(x, y, batch_size=64, seed=0)
        model.fit(data, epochs=5, callbacks=[mlflow_ckpt.MlflowCheckpoint()])

    Each epoch's order comes from (seed, epoch) alone. `MlflowCheckpoint` tells the data set which
    epoch begins, and, in a training that was resumed inside an epoch, with which batch.

    Args:
        x: Samples along the first axis: an array, or a dictionary, list or tuple of them.
        y: Targets, likewise; None for none.
        sample_weight: One weight a sample; None for none.
        batch_size: Samples a batch; the last one of an epoch may have fewer.
        seed: Which of the orders.
        shuffle: Whether to shuffle, or to give the samples in their own order.

    Raises:
        InvalidArgumentError: If the arrays have no samples or different numbers of them.
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
        given = (x,) if y is None else (x, y)
        self._arrays = given if sample_weight is None else (x, y, sample_weight)
        self._leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(self._arrays)]
        self._arrays = keras.tree.pack_sequence_as(self._arrays, self._leaves)
        counts = sorted({leaf.shape[0] if leaf.ndim else 0 for leaf in self._leaves})
        if len(counts) != 1 or counts[0] == 0:
            raise InvalidArgumentError(
                "Expected arrays with the same number of samples, at least 1, along the first "
                f"axis. Received: {', '.join(str(count) for count in counts) or 'none'}"
            )
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InvalidArgumentError(
                f"Expected batch_size to be at least 1. Received: {batch_size!r}"
            )
        if not isinstance(seed, int) or seed < 0:
            raise InvalidArgumentError(f"Expected seed to be at least 0. Received: {seed!r}")
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
        """Make a data set of a function that gives the batches of an epoch.

        Args:
            dataset_fn: Called with the number of completed epochs (0, 1, …); returns a
                `tf.data.Dataset`, or anything that can be iterated, of batches: always the same
                ones for the same epoch. Shuffle with a seed made of the epoch:
                `dataset.shuffle(n, seed=epoch)`.
            batches: Batches an epoch; needed where `len()` of what it returns does not tell.

        Raises:
            InvalidArgumentError: If the number of batches cannot be told.
        """
        return _FunctionDataset(dataset_fn, batches)

    @property
    def epoch(self) -> int | None:
        """The epoch whose batches it gives: completed epochs; None if nobody told it."""
        return self._epoch

    @property
    def batches(self) -> int:
        """Batches of a whole epoch."""
        return -(-self._samples // self.batch_size)

    @property
    def num_batches(self) -> int:
        """Batches of the epoch at hand: fewer where it begins inside."""
        return self.batches - self._skipped

    def __len__(self) -> int:
        """Return the same."""
        return self.num_batches

    def begin(self, epoch: int, batch: int = 0) -> None:
        """Go to an epoch.

        Args:
            epoch: Number of completed epochs.
            batch: Number of batches of that epoch to leave out.

        Raises:
            InvalidArgumentError: If the epoch has no batch after these.
        """
        if not 0 <= batch < self.batches:
            raise InvalidArgumentError(
                f"Expected a batch from 0 to {self.batches - 1}. Received: {batch}"
            )
        self._epoch, self._skipped = epoch, batch

    def describe(self) -> dict[str, Any]:
        """Return what tells this data set from another, plain values by name."""
        return {
            "samples": self._samples,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "arrays": [f"{leaf.dtype.name} {list(leaf.shape[1:])}" for leaf in self._leaves],
            "digest": _sampled_digest(self._leaves),
        }

    def __getitem__(self, index: int) -> Any:
        """Return a batch of the epoch at hand: (x,), (x, y) or (x, y, sample_weight)."""
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
            # Philox: NumPy promises its streams, and a key of its own for every epoch.
            bits = np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64))
            self._order = epoch, np.random.Generator(bits).permutation(self._samples)
        return self._order[1]

    def _notice_end(self, index: int) -> None:
        if self._epoch is None and self.shuffle:
            if self._passed and index == 0:
                self._passed = False
                warnings.warn(
                    "EpochDataset gives the same order in every epoch, because nobody tells it "
                    "which one begins. Add mlflow_ckpt.MlflowCheckpoint() to fit's callbacks.",
                    stacklevel=2,
                )
            self._passed = self._passed or (index == self.num_batches - 1 and index > 1)


class _FunctionDataset(EpochDataset):
    """Batches that a function gives, epoch by epoch."""

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
                    "The number of batches an epoch cannot be told from what dataset_fn returns "
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
        wanted = self._skipped + index
        if self._iterator is None or wanted < self._next:
            self._iterator = self._started()
            self._next = 0
        while True:
            batch = next(self._iterator, None)
            if batch is None:
                raise ValueError(
                    f"dataset_fn({self._epoch or 0}) gave {self._next} batches. "
                    f"Expected {self._batches}."
                )
            self._next += 1
            if self._next > wanted:
                return keras.tree.map_structure(np.asarray, batch)

    def _started(self) -> Iterator[Any]:
        given = self._function(self._epoch or 0)
        # A tf.data pipeline does not compute what it skips at its end.
        skip = getattr(given, "skip", None)
        if self._skipped and callable(skip):
            return self._counting(iter(skip(self._skipped)))
        return iter(given)

    def _counting(self, rest: Iterator[Any]) -> Iterator[Any]:
        for _ in range(self._skipped):
            yield ()
        yield from rest


def _sampled_digest(leaves: list[np.ndarray[Any, Any]]) -> str:
    sha256 = hashlib.sha256()
    for leaf in leaves:
        rows = np.linspace(0, len(leaf) - 1, min(len(leaf), _SAMPLED_ROWS)).astype(np.int64)
        sample = np.ascontiguousarray(leaf[rows])
        if sample.dtype.hasobject:
            sha256.update(repr(sample.tolist()).encode())
        else:
            sha256.update(sample.view(np.uint8).data if sample.ndim else sample.tobytes())
    return f"sha256:{sha256.hexdigest()}"
