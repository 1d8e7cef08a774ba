"""Copies of `tf.data` pipelines with other seeds, which repeat random orders.

- `_as_serialized_graph` (the operation `dataset_to_graph_v2`) and `_tensors` of data sets,
  `_VariantDataset` of `dataset_ops`, `dummy_seed_generator` of `gen_dataset_ops`, and the names and
  inputs of the operations of data sets (`tf_data.RANDOM`, `_SEED_GENERATORS`) repeat random orders.
  Fallback: the data cannot be saved, which resuming reports.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlflow_ckpt._model.keras_private import tf_data

# The input that is a generator of seeds, which a copy would share with its original.
_SEED_GENERATORS = {"RandomDatasetV2": 2, "ShuffleAndRepeatDatasetV2": 5, "ShuffleDatasetV3": 4}

# A pipeline is not copied into a graph if its arrays are larger: a graph is limited to 2 GB.
_LARGEST_GRAPH = 1_000_000_000


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
    random_nodes = [node for node in graph.node if node.op in tf_data.RANDOM]
    names = [[node.input[i] for i in tf_data.RANDOM[node.op]] for node in random_nodes]
    seeds = [list(pair) for pair in choose([[_constant(nodes[n]) for n in pair] for pair in names])]
    operations = tf_data.gen_dataset_ops()
    # A node may serve several operations: give each pair nodes of its own.
    values: dict[str, Any] = {}
    for number, (node, pair) in enumerate(zip(random_nodes, seeds, strict=True)):
        for place, seed in zip(tf_data.RANDOM[node.op], pair, strict=True):
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
    copied = data_sets._VariantDataset(variant, dataset.element_spec)
    # TensorFlow forgets the functions of a pipeline that nobody holds, and the copy needs them.
    copied.of = dataset
    return copied, seeds


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
    return [
        tensor
        for node in tf_data.pipeline_nodes(dataset)
        for tensor in getattr(node, "_tensors", [])
    ]


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
