"""Keras's adapters, through which `fit` reads its data.

- Attributes of Keras's data adapters (`_inputs`, `_shuffle`, `_batch_size`, `_num_samples`,
  `py_dataset`, `shuffle`, `enqueuer`, `generator` with its closure's `batches` and `generator`,
  `_dataset`, `_dataloader`, `num_batches`, `batch_size`), and the names of their classes, identify
  the data and its order. Fallback: the data counts as unknown, which resuming reports, and arrays
  count as shuffled.
- Attributes of `PyDataset` (`PY_DATASET_SETTINGS`) are no state of the user's. Fallback: if they
  change, they are saved with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

# Attributes in which Keras keeps the arguments of a `PyDataset`.
PY_DATASET_SETTINGS = frozenset({"_workers", "_use_multiprocessing", "_max_queue_size"})


def kind_of(adapter: Any) -> str:
    """Return the name of an adapter's class without its suffix, such as `"ArrayData"`."""
    return type(adapter).__name__.removesuffix("Adapter")


def is_shuffled(adapter: Any) -> bool:
    """Whether Keras's adapter for arrays shuffles them; True if unknown."""
    return bool(getattr(adapter, "_shuffle", True))


def arrays_of(adapter: Any) -> Any:
    """Return the arrays of Keras's adapter for arrays."""
    return adapter._inputs


def shuffle_of(adapter: Any) -> bool | str:
    """Return the argument `shuffle` of `fit`, as the adapter has it."""
    shuffle: bool | str = getattr(adapter, "shuffle", getattr(adapter, "_shuffle", False))
    return shuffle


def batching_of(adapter: Any) -> tuple[int, int]:
    """Return the numbers of samples and of samples per batch of Keras's adapter for arrays."""
    return int(adapter._num_samples), int(adapter._batch_size)


def lengths_of(adapter: Any) -> tuple[int | None, int | None]:
    """Return the numbers of batches and of samples per batch; None where they are unknown."""
    return adapter.num_batches, adapter.batch_size


def py_dataset_of(adapter: Any) -> Any:
    """Return the `PyDataset` of Keras's adapter for them."""
    return adapter.py_dataset


def has_workers(adapter: Any) -> bool:
    """Whether several workers read a `PyDataset`."""
    return adapter.enqueuer is not None


def replace_py_dataset(adapter: Any, view: Any) -> None:
    """Have an adapter read a `PyDataset` through a view, in the view's order."""
    adapter.py_dataset = view
    adapter.shuffle = False
    if has_workers(adapter):
        adapter.enqueuer.py_dataset = view
        adapter.enqueuer.shuffle = False


def drop_left_over(adapter: Any) -> None:
    """Drop the batches that workers produced for a pass that was not read to its end."""
    if has_workers(adapter):
        ready = adapter.enqueuer.ready_queue
        while not ready.empty():
            ready.get_nowait()


def generator_of(adapter: Any) -> tuple[list[Any], Any]:
    """Return the batches that Keras has read from a generator in advance, and the generator."""
    parts = inspect.getclosurevars(adapter.generator).nonlocals
    return list(parts["batches"]), parts["generator"]


def replace_generator(adapter: Any, read: Callable[[], Iterator[Any]]) -> None:
    """Have an adapter read the batches of each pass from a function instead of the generator."""
    adapter.generator = read


def source_of(adapter: Any) -> Any:
    """Return the object that the user passed to `fit`; None if unknown, or a generator."""
    found = (getattr(adapter, name, None) for name in ("py_dataset", "_dataset", "_dataloader"))
    source = next((item for item in found if item is not None), None)
    return getattr(source, "inner", source)


def loader_of(adapter: Any) -> Any:
    """Return the data loader of Keras's adapter for PyTorch's data loaders."""
    return adapter._dataloader


def dataset_of(adapter: Any) -> Any:
    """Return the data set of Keras's adapter for `tf.data`, or for Grain."""
    return adapter._dataset
