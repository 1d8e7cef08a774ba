"""All uses of Keras's and TensorFlow's private names that concern the data of `fit`.

- `EpochIterator._get_iterator`, `_current_iterator`, `_steps_seen`, `_num_batches`,
  `steps_per_epoch` and TensorFlow's `_distributed_dataset` say where a training is in its data, and
  let it continue there. Fallback: the data counts as unknown, which resuming reports.
- `EpochIterator._enumerate_iterator` lets an epoch go on with its validation. No fallback.
- Attributes of Keras's data adapters (`_inputs`, `_shuffle`, `_batch_size`, `_num_samples`,
  `py_dataset`, `shuffle`, `enqueuer`, `generator`, `_first_batches`, `_dataset`, `_dataloader`)
  identify the data and its order. Fallback: as above.
- `array_slicing.convert_to_sliceable` and its sparse wrapper build TensorFlow's batches from
  arrays. Fallback: as above.
- `serialize_iterator`, `deserialize_iterator` and `dataset_to_graph_v2` of TensorFlow, and names
  and inputs of its data sets' operations (`_RANDOM`), save iterators and repeat random orders.
  `_seed` and `_rng` of TensorFlow's `context` tell whether a training is repeatable.
  Fallback: the data cannot be saved, which resuming reports.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np

# The inputs that are the two seeds, by operation.
_RANDOM = {
    "RandomDataset": (0, 1),
    "RandomDatasetV2": (0, 1),
    "ShuffleAndRepeatDataset": (2, 3),
    "ShuffleAndRepeatDatasetV2": (2, 3),
    "ShuffleDataset": (2, 3),
    "ShuffleDatasetV2": (2, 3),
    "ShuffleDatasetV3": (2, 3),
}
# The input that is a generator of seeds, which a copy would share with its original.
_SEED_GENERATORS = {"RandomDatasetV2": 2, "ShuffleAndRepeatDatasetV2": 5, "ShuffleDatasetV3": 4}
_PYTHON = {"EagerPyFunc", "PyFunc", "PyFuncStateless"}
# A pipeline is not copied into a graph if its arrays are larger: a graph is limited to 2 GB.
_LARGEST_GRAPH = 1_000_000_000
_CALLS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_EXTERNAL_STATE_IGNORED, _EXTERNAL_STATE_REFUSED = 1, 2


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
        return type(self.adapter).__name__.removesuffix("Adapter")

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

        def zeros(spec: Any) -> np.ndarray[Any, Any]:
            shape = [1 if size is None else size for size in spec.shape]
            return np.zeros(shape, keras.backend.standardize_dtype(spec.dtype))

        return keras.tree.map_structure(zeros, dataset.element_spec)

    @property
    def is_distributed(self) -> bool:
        """Whether TensorFlow distributes the data over several devices."""
        dataset = getattr(self._iterator, "_distributed_dataset", None)
        return dataset is not None and self.tensorflow_dataset is None


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


class OrderedArrays:
    """Keras's pipeline for arrays on TensorFlow, with an order that is set for each epoch.

    Args:
        adapter: Keras's adapter for arrays.
    """

    def __init__(self, adapter: Any) -> None:
        from keras.src.trainers.data_adapters import array_slicing

        tf = sys.modules["tensorflow"]
        self._size, self._samples = int(adapter._batch_size), int(adapter._num_samples)
        self._sparse = array_slicing.TensorflowSparseWrapper
        self._slice_sparse = array_slicing.slice_tensorflow_sparse_wrapper
        inputs = array_slicing.convert_to_sliceable(adapter._inputs, target_backend="tensorflow")
        with tf.device("CPU:0"):
            self._order = tf.Variable(tf.range(self._samples, dtype=tf.int64), trainable=False)
            # As a data set of one element, the arrays are converted once.
            self._inputs = tf.data.Dataset.from_tensors(keras.tree.lists_to_tuples(inputs))
        self._whole = self._batches(0)

    def open(self, order: np.ndarray[Any, Any], skipped: int = 0) -> Any:
        """Return the batches of an epoch in an order of the samples, without the first ones."""
        self._order.assign(order)
        return self._batches(skipped) if skipped else self._whole

    def _batches(self, first: int) -> Any:
        tf = sys.modules["tensorflow"]
        count = -(-self._samples // self._size)
        dataset = tf.data.Dataset.zip(
            (tf.data.Dataset.range(first, count), self._inputs.repeat())
        ).map(self._batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        options = tf.data.Options()
        # As Keras does: optimizing would copy the arrays into a graph.
        options.experimental_optimization.apply_default_optimizations = False
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)

    def _batch(self, number: Any, inputs: Any) -> Any:
        tf = sys.modules["tensorflow"]
        start = number * self._size
        rows = self._order[start : tf.minimum(start + self._size, self._samples)]

        def take(leaf: Any) -> Any:
            if isinstance(leaf, self._sparse):
                return self._slice_sparse(leaf, rows)
            if isinstance(leaf, (list, tuple, dict)):
                return None
            return tf.gather(leaf, rows, axis=0) if tf.is_tensor(leaf) else leaf

        return keras.tree.traverse(take, inputs)


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


def replace_py_dataset(adapter: Any, view: Any) -> bool:
    """Have an adapter read a `PyDataset` through a view, in the view's order.

    Returns:
        Whether several workers read it.
    """
    adapter.py_dataset = view
    adapter.shuffle = False
    if adapter.enqueuer is not None:
        adapter.enqueuer.py_dataset = view
        adapter.enqueuer.shuffle = False
    return adapter.enqueuer is not None


def drop_left_over(adapter: Any) -> None:
    """Drop the batches that workers produced for a pass that was not read to its end."""
    if adapter.enqueuer is not None:
        ready = adapter.enqueuer.ready_queue
        while not ready.empty():
            ready.get_nowait()


def generator_of(adapter: Any) -> tuple[list[Any], Any]:
    """Return the batches that Keras has read from a generator in advance, and the generator."""
    parts = inspect.getclosurevars(adapter.generator).nonlocals
    return list(parts["batches"]), parts["generator"]


def source_of(adapter: Any) -> Any:
    """Return the object that the user passed to `fit`; None if unknown, or a generator."""
    found = (getattr(adapter, name, None) for name in ("py_dataset", "_dataset", "_dataloader"))
    source = next((item for item in found if item is not None), None)
    return getattr(source, "inner", source)


def loader_of(adapter: Any) -> Any:
    """Return the data loader of Keras's adapter for PyTorch's data loaders."""
    return adapter._dataloader


def grain_dataset(adapter: Any) -> Any:
    """Return the data set of Keras's adapter for Grain."""
    return adapter._dataset


def replace_grain_dataset(iteration: Iteration, dataset: Any) -> None:
    """Have an adapter for Grain read another data set of the same batches."""
    iteration.adapter._dataset = dataset
    if iteration.tensorflow_dataset is not None:
        iteration.tensorflow_dataset = iteration.adapter.get_tf_dataset()


def tensorflow_seed() -> tuple[int, int] | None:
    """Return the seed given to `tf.random.set_seed`, and the number of calls since; None without.

    Nothing is drawn from TensorFlow's generator.
    """
    module = sys.modules.get("tensorflow.python.eager.context")
    context = None if module is None else module.context()
    if context is None or context._seed is None or context._rng is None:
        return None
    # Setting a seed creates another generator.
    count = _CALLS.get(context._rng, 0)
    _CALLS[context._rng] = count + 1
    return int(context._seed), count


def serialize(iterator: Any) -> Any:
    """Return a `tf.data` iterator's state as a tensor. Concurrent work in it pauses meanwhile."""
    operations = sys.modules["tensorflow.python.ops.gen_dataset_ops"]
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
    operations = sys.modules["tensorflow.python.ops.gen_dataset_ops"]
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
    operations = sys.modules["tensorflow.python.ops.gen_dataset_ops"]
    found = operations_in_functions(dataset)
    if "GeneratorDataset" in found:
        return False, "it reads from a Python function (from_generator)"
    if found & _PYTHON:
        return True, "it calls a Python function (py_function or numpy_function)"
    nested = sorted(found & set(_RANDOM))
    if nested:
        return True, f"it shuffles inside a function ({', '.join(nested)})"
    iterator = iter(dataset)
    try:
        operations.serialize_iterator(
            iterator._iterator_resource, external_state_policy=_EXTERNAL_STATE_REFUSED
        )
    except tf.errors.FailedPreconditionError as error:
        return True, f"it has operations with a state of their own ({_reason(error)})"
    except tf.errors.UnimplementedError as error:
        return False, f"tf.data cannot save its iterator ({_reason(error)})"
    return True, None


def _reason(error: Any) -> str:
    text = str(getattr(error, "message", error)).partition("\n")[0]
    return text.partition(" [Op:")[0].partition("{{")[0].strip().rstrip(".") or type(error).__name__


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


def with_seeds(
    dataset: Any, choose: Callable[[list[list[int]]], Sequence[Sequence[int]]]
) -> tuple[Any, list[list[int]]]:
    """Return a copy of a pipeline whose random data sets have other seeds, and those seeds.

    Only random data sets outside of functions are changed. The arrays of the pipeline are shared.

    Args:
        dataset: A `tf.data.Dataset`.
        choose: Called with the pairs of seeds in the graph's order; returns the new ones.

    Raises:
        ValueError: If the pipeline holds too much data.
        Exception: TensorFlow's, if it cannot be copied.
    """
    tf = sys.modules["tensorflow"]
    graph = _graph_of(dataset)
    nodes = {node.name: node for node in graph.node}
    random_nodes = [node for node in graph.node if node.op in _RANDOM]
    names = [[node.input[i] for i in _RANDOM[node.op]] for node in random_nodes]
    seeds = [list(pair) for pair in choose([[_constant(nodes[n]) for n in pair] for pair in names])]
    operations = sys.modules["tensorflow.python.ops.gen_dataset_ops"]
    # A node may serve several operations: give each pair nodes of its own.
    values: dict[str, Any] = {}
    for number, (node, pair) in enumerate(zip(random_nodes, seeds, strict=True)):
        for place, seed in zip(_RANDOM[node.op], pair, strict=True):
            name = f"seed_{number}_{place}"
            node.input[place] = name
            graph.node.add(name=name, op="Const")
            values[name] = tf.constant(seed, tf.int64)
        place = _SEED_GENERATORS.get(node.op, -1)
        if place >= 0:
            name = f"seed_generator_{number}"
            node.input[place] = name
            graph.node.add(name=name, op="Const")
            values[name] = operations.dummy_seed_generator()
    values.update(_large_constants(graph, dataset, values))
    variant = _run(graph, values)
    data_sets = sys.modules["tensorflow.python.data.ops.dataset_ops"]
    return data_sets._VariantDataset(variant, dataset.element_spec), seeds


def _graph_of(dataset: Any) -> Any:
    tf = sys.modules["tensorflow"]
    size = sum(
        int(tensor.shape.num_elements() or 0) * tensor.dtype.size
        for tensor in _tensors_of(dataset)
        if tensor.dtype.size
    )
    if size > _LARGEST_GRAPH:
        raise ValueError(f"it holds {size / 1e9:.1f} GB of arrays")
    policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    graph = tf.compat.v1.GraphDef()
    graph.ParseFromString(dataset._as_serialized_graph(external_state_policy=policy).numpy())
    return graph


def _tensors_of(dataset: Any) -> list[Any]:
    return [tensor for node in pipeline_nodes(dataset) for tensor in getattr(node, "_tensors", [])]


def _constant(node: Any) -> int:
    return int(sys.modules["tensorflow"].make_ndarray(node.attr["value"].tensor))


def _large_constants(graph: Any, dataset: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays in a graph by name: the pipeline's own tensors where they are the same."""
    tf = sys.modules["tensorflow"]
    own = _tensors_of(dataset)
    found = {}
    for node in graph.node:
        if node.op != "Const" or node.name in known or node.ByteSize() < 1 << 14:
            continue
        value = tf.make_ndarray(node.attr["value"].tensor)
        same = (
            tensor
            for tensor in own
            if tuple(tensor.shape) == value.shape and np.array_equal(tensor.numpy(), value)
        )
        tensor = next(same, None)
        found[node.name] = tf.constant(value) if tensor is None else tensor
    return found


def _run(graph: Any, values: dict[str, Any]) -> Any:
    """Run a data set's graph with some of its nodes replaced by values."""
    tf = sys.modules["tensorflow"]
    result = next(node.input[0] for node in graph.node if node.op == "_Retval")
    kept = [node for node in graph.node if node.name not in values and node.op != "_Retval"]
    reduced = tf.compat.v1.GraphDef()
    reduced.library.CopyFrom(graph.library)
    reduced.versions.CopyFrom(graph.versions)
    reduced.node.extend(kept)

    def create() -> Any:
        inputs = {f"{name}:0": tf.identity(value) for name, value in values.items()}
        returned = [result if ":" in result else f"{result}:0"]
        return tf.graph_util.import_graph_def(
            reduced, input_map=inputs, return_elements=returned, name="repeatable"
        )[0]

    with tf.device("CPU:0"):
        return tf.function(create, autograph=False).get_concrete_function()()
