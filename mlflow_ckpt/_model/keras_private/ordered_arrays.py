"""Keras's pipeline for arrays on TensorFlow, in a given order.

- `array_slicing.convert_to_sliceable` and its sparse wrapper build TensorFlow's batches from
  arrays. Fallback: the data counts as unknown, which resuming reports.
"""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np


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
