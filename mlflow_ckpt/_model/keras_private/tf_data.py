"""`tf.data` pipelines: what they consist of, and the states of their iterators.

- `serialize_iterator` and `deserialize_iterator` of TensorFlow's `gen_dataset_ops`, and
  `_iterator_resource`, save iterators. Fallback: the data cannot be saved, which resuming reports.
- `_inputs`, `_dataset`, `_functions`, `_seed`, `_seed2`, `_buffer_size` and `_filename` of data
  sets, and the names of their classes and operations (`RANDOM`, `_PYTHON`), tell what a pipeline
  holds. Fallback: as above.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlflow_ckpt._model.keras_private import messages_of_keras

# The inputs that are the two seeds, by operation.
RANDOM = {
    "RandomDataset": (0, 1),
    "RandomDatasetV2": (0, 1),
    "ShuffleAndRepeatDataset": (2, 3),
    "ShuffleAndRepeatDatasetV2": (2, 3),
    "ShuffleDataset": (2, 3),
    "ShuffleDatasetV2": (2, 3),
    "ShuffleDatasetV3": (2, 3),
}
_PYTHON = {"EagerPyFunc", "PyFunc", "PyFuncStateless"}
_EXTERNAL_STATE_IGNORED, _EXTERNAL_STATE_REFUSED = 1, 2


# Data sets that leave out elements of another, by their place in it.
_PARTS = frozenset(("_SkipDataset", "_TakeDataset", "_ShardDataset", "_FilterDataset"))


def gen_dataset_ops() -> Any:
    """Return TensorFlow's module of the operations of data sets.

    Raises:
        KeyError: If TensorFlow has changed.
    """
    return sys.modules["tensorflow.python.ops.gen_dataset_ops"]


def serialize(iterator: Any) -> Any:
    """Return a `tf.data` iterator's state as a tensor. Concurrent work in it pauses meanwhile."""
    operations = gen_dataset_ops()
    return operations.serialize_iterator(
        iterator._iterator_resource, external_state_policy=_EXTERNAL_STATE_IGNORED
    )


def to_bytes(state: Any) -> np.ndarray[Any, Any]:
    """Return a state that `serialize` returned as bytes."""
    tf = sys.modules["tensorflow"]
    return np.frombuffer(tf.io.serialize_tensor(state).numpy(), dtype=np.uint8)


def deserialize(iterator: Any, state: np.ndarray[Any, Any]) -> None:
    """Restore the state of a `tf.data` iterator.

    Raises:
        Exception: TensorFlow's, if the state does not fit.
    """
    tf = sys.modules["tensorflow"]
    operations = gen_dataset_ops()
    tensor = tf.io.parse_tensor(state.tobytes(), tf.variant)
    operations.deserialize_iterator(iterator._iterator_resource, tensor)


def operations_in_functions(dataset: Any) -> set[str]:
    """Return the names of the operations in the functions of a pipeline."""
    found = set()
    for node in pipeline_nodes(dataset):
        for function in node._functions():
            graph = function.function.graph.as_graph_def()
            found |= {operation.op for operation in graph.node}
            for inner in graph.library.function:
                found |= {operation.op for operation in inner.node_def}
    return found


def saving_problem(dataset: Any) -> tuple[bool, str | None]:
    """Return whether a pipeline's iterators can be saved, and what is lost: a phrase, or None."""
    tf = sys.modules["tensorflow"]
    operations = gen_dataset_ops()
    found = operations_in_functions(dataset)
    if "GeneratorDataset" in found:
        return False, "it reads from a Python function (from_generator)"
    if found & _PYTHON:
        return True, "it calls a Python function (py_function or numpy_function)"
    nested = sorted(found & set(RANDOM))
    if nested:
        return True, f"it shuffles inside a function ({', '.join(nested)})"
    iterator = iter(dataset)
    try:
        operations.serialize_iterator(
            iterator._iterator_resource, external_state_policy=_EXTERNAL_STATE_REFUSED
        )
    except tf.errors.FailedPreconditionError as error:
        reason = messages_of_keras.operation_reason(error)
        return True, f"it has operations with a state of their own ({reason})"
    except tf.errors.UnimplementedError as error:
        reason = messages_of_keras.operation_reason(error)
        return False, f"tf.data cannot save its iterator ({reason})"
    return True, None


def pipeline_nodes(dataset: Any) -> Iterator[Any]:
    """Yield a `tf.data.Dataset` and all data sets that it reads from."""
    pending, seen = [dataset], set()
    while pending:
        node = pending.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            # Wrappers for options and types refer to the data set that they wrap.
            inner = getattr(node, "_dataset", None)
            pending += list(node._inputs()) + ([] if inner is None else [inner])


def seeds_of(dataset: Any) -> list[list[int]]:
    """Return the pair of seeds of each random data set in a pipeline; [0, 0] if it has none."""
    return [
        [int(node._seed), int(node._seed2)]
        for node in pipeline_nodes(dataset)
        if hasattr(node, "_seed2")
    ]


def is_dataset(value: Any) -> bool:
    """Whether a value is a `tf.data.Dataset`."""
    tf = sys.modules.get("tensorflow")
    return tf is not None and isinstance(value, tf.data.Dataset)


def reshuffles(dataset: Any) -> bool:
    """Whether a pipeline is shuffled in another order in each epoch, or in each process."""
    return any(
        bool(getattr(node, "_reshuffle_each_iteration", False)) or not (node._seed or node._seed2)
        for node in pipeline_nodes(dataset)
        if type(node).__name__ == "_ShuffleDataset"
    )


def splits_unseeded_shuffle(dataset: Any) -> bool:
    """Whether a pipeline is a part of data that were shuffled once, without a seed.

    Another part, to validate on, may come from the same shuffle: with a seed of its own, a copy of
    the pipeline would train on rows of that part.
    """
    nodes = list(pipeline_nodes(dataset))
    once = [
        node
        for node in nodes
        if type(node).__name__ == "_ShuffleDataset"
        and not (node._reshuffle_each_iteration or node._seed or node._seed2)
    ]
    return bool(once) and any(type(node).__name__ in _PARTS for node in nodes)


def buffered_bytes(dataset: Any) -> int:
    """Estimate the size of an iterator's state from the buffers of a pipeline."""
    total = 0
    for node in pipeline_nodes(dataset):
        name = type(node).__name__
        if name == "_ShuffleDataset":
            total += _bounded(int(node._buffer_size), node) * _element_bytes(node)
        elif name == "CacheDataset" and not node._filename.numpy():
            total += _bounded(1 << 62, node) * _element_bytes(node)
    return total


def _bounded(count: int, node: Any) -> int:
    cardinality = int(node._inputs()[0].cardinality())
    return min(count, cardinality) if cardinality >= 0 else min(count, 1 << 20)


def _element_bytes(node: Any) -> int:
    tf = sys.modules["tensorflow"]
    total = 0
    for spec in tf.nest.flatten(node.element_spec, expand_composites=True):
        shape = [1 if size is None else size for size in (spec.shape or [])]
        total += int(np.prod(shape, dtype=np.int64)) * max(getattr(spec.dtype, "size", 8) or 8, 1)
    return total
