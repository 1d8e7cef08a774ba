"""Keras's `EpochIterator`: where a `fit` is in its data.

- `EpochIterator.data_adapter`, its class name and `py_dataset` identify the data. Fallback: arrays
  count as shuffled; an `EpochDataset` is not recognized.
- `EpochIterator._num_batches` and its adapter's `shuffle` serve `EpochDataset`. No fallback:
  `PrivateApiError` ends `fit`.
- `EpochIterator._get_iterator`, `_current_iterator`, `_steps_seen`, `_num_batches`,
  `steps_per_epoch` and TensorFlow's `_distributed_dataset` say where a training is in its data, and
  let it continue there. Fallback: the data counts as unknown, which resuming reports.
- `EpochIterator._enumerate_iterator` lets an epoch go on with its validation. No fallback.
- `_dataset` and `get_tf_dataset` of adapters let them read another data set. Fallback: the data
  counts as unknown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.keras_private import data_adapters
from mlflow_ckpt._model.keras_private.keras_version import PrivateApiError


class Iteration:
    """Keras's `EpochIterator`: where a `fit` is in its data.

    Args:
        iterator: The `EpochIterator`.

    Raises:
        AttributeError: If Keras has changed.
    """

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator
        self.adapter: Any = iterator.data_adapter
        self.original: Callable[[], Any] = iterator._get_iterator
        for name in ("_current_iterator", "_steps_seen", "_num_batches", "steps_per_epoch"):
            getattr(iterator, name)

    @property
    def kind(self) -> str:
        """Name of the adapter without its suffix, such as `"ArrayData"`."""
        return data_adapters.kind_of(self.adapter)

    @property
    def steps_per_epoch(self) -> int | None:
        """The argument of `fit`: with it, an epoch continues where the last one stopped."""
        steps: int | None = self._iterator.steps_per_epoch
        return steps

    @steps_per_epoch.setter
    def steps_per_epoch(self, steps: int) -> None:
        self._iterator.steps_per_epoch = steps

    @property
    def batches(self) -> int | None:
        """Number of batches in the data; None if unknown."""
        batches: int | None = self._iterator._num_batches
        return batches

    @batches.setter
    def batches(self, batches: int | None) -> None:
        self._iterator._num_batches = batches

    @property
    def is_open(self) -> bool:
        """Whether an iterator is kept from the last epoch."""
        return self._iterator._current_iterator is not None

    def hook(self, opening: Callable[[], Any]) -> None:
        """Have Keras call a function instead of `_get_iterator`."""
        self._iterator._get_iterator = opening

    def keep(self, iterator: Any, seen: int) -> None:
        """Have the next epoch continue an iterator, of which a number of batches were seen."""
        self._iterator._current_iterator = iterator
        self._iterator._steps_seen = seen

    @property
    def left_out(self) -> int:
        """Number of batches that the next epoch leaves out, all or none."""
        return left_out(self._iterator)

    @property
    def tensorflow_dataset(self) -> Any:
        """The `tf.data.Dataset` that TensorFlow trains on; None on another backend.

        Also None if it is distributed.
        """
        dataset = getattr(self._iterator, "_distributed_dataset", None)
        tf = sys.modules.get("tensorflow")
        return dataset if tf is not None and isinstance(dataset, tf.data.Dataset) else None

    @tensorflow_dataset.setter
    def tensorflow_dataset(self, dataset: Any) -> None:
        self._iterator._distributed_dataset = dataset

    def example(self) -> Any:
        """Return a batch of zeros like those that TensorFlow trains on; None elsewhere."""
        dataset = self.tensorflow_dataset
        if dataset is None:
            return None

        def zeros(spec: Any) -> np.ndarray[Any, Any] | None:
            if not hasattr(spec, "shape"):  # of an output without weights
                return None
            shape = [1 if size is None else size for size in spec.shape]
            return np.zeros(shape, keras.backend.standardize_dtype(spec.dtype))

        return keras.tree.map_structure(zeros, dataset.element_spec)

    def replace_dataset(self, dataset: Any) -> None:
        """Have the adapter for `tf.data`, or for Grain, read another data set of the same batches.

        On TensorFlow, it is for Grain only: `tensorflow_dataset` is what is read there.
        """
        self.adapter._dataset = dataset
        if self.tensorflow_dataset is not None:
            self.tensorflow_dataset = self.adapter.get_tf_dataset()

    @property
    def is_distributed(self) -> bool:
        """Whether TensorFlow distributes the data over several devices."""
        dataset = getattr(self._iterator, "_distributed_dataset", None)
        return dataset is not None and self.tensorflow_dataset is None


def data_of(iterator: Any) -> tuple[str, Any]:
    """Return the kind of an `EpochIterator`'s data, and its `PyDataset`, if it is one.

    The kind is `"arrays"`, `"shuffled arrays"`, `"PyDataset"` or the name of another adapter.
    """
    adapter = getattr(iterator, "data_adapter", None)
    kind = data_adapters.kind_of(adapter)
    if kind == "PyDataset":
        return kind, getattr(adapter, "py_dataset", None)
    if kind == "ArrayData":
        return ("shuffled arrays" if data_adapters.is_shuffled(adapter) else "arrays"), None
    return kind, None


def adapter_of(iterator: Any) -> Any:
    """Return the adapter through which an `EpochIterator` reads.

    Raises:
        AttributeError: If Keras has changed.
    """
    return iterator.data_adapter


def steps_per_epoch(iterator: Any) -> int | None:
    """Return the argument `steps_per_epoch` of `fit`; None without it, or if it is unknown."""
    steps: int | None = getattr(iterator, "steps_per_epoch", None)
    return steps


def expect_batches(iterator: Any, count: int) -> None:
    """Set the number of batches of the next epoch, and disable shuffling.

    By default, `fit` shuffles the batches of a `PyDataset` with Python's `random`.

    Raises:
        PrivateApiError: If the iterator or its adapter has changed.
    """
    adapter: Any = getattr(iterator, "data_adapter", None)
    if not (hasattr(iterator, "_num_batches") and hasattr(adapter, "shuffle")):
        raise PrivateApiError(f"{type(iterator).__name__} has no _num_batches, or no shuffle")
    iterator._num_batches = count
    adapter.shuffle = False


def leave_out_epoch(iterator: Any, batches: int) -> None:
    """Have the next epoch of `fit` read no data, and go on with its validation.

    Args:
        iterator: Keras's `EpochIterator`.
        batches: Number of batches of the epoch, which `left_out` returns until then.
    """
    iterator._enumerate_iterator  # noqa: B018 - fail now if Keras has changed

    def empty() -> Iterator[Any]:
        del iterator._enumerate_iterator
        return iter(())

    iterator._mlflow_ckpt_left_out = batches
    iterator._enumerate_iterator = empty


def left_out(iterator: Any) -> int:
    """Return the number of batches that the next epoch leaves out, all or none."""
    if "_enumerate_iterator" not in vars(iterator):
        return 0
    return int(iterator._mlflow_ckpt_left_out)
