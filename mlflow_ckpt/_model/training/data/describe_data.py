"""Describes the data and the arguments of a `fit`, to name what differs when it is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.keras_private import data_adapters, epoch_iterator, tf_data

# Number of evenly spread rows that identify an array.
_SAMPLED_ROWS = 1024
# Arguments of `fit` that change what is trained on, or what is recorded with an epoch.
_PLAIN = (
    "shuffle",
    "steps_per_epoch",
    "validation_freq",
    "validation_split",
    "validation_steps",
)
_DATA = ("class_weight", "sample_weight", "validation_data")


def describe_data(iterator: Any) -> dict[str, Any] | None:
    """Return plain values by name that identify the data of Keras's iterator; None if unknown."""
    try:
        return _describe(epoch_iterator.adapter_of(iterator))
    except Exception:  # noqa: BLE001 - an object of the user's may raise anything
        return None


def _describe(adapter: Any) -> dict[str, Any]:
    """Describe the data of one of Keras's adapters; raise whatever they do."""
    kind = data_adapters.kind_of(adapter)
    described: dict[str, Any] = {"kind": kind}
    if kind == "ArrayData":
        samples, size = data_adapters.batching_of(adapter)
        described |= {"samples": samples, "batch_size": size}
        described |= describe_arrays(data_adapters.arrays_of(adapter))
        return described
    data = data_adapters.source_of(adapter)
    if data is not None:
        described["class"] = type(data).__qualname__
    if kind == "TFData" or hasattr(data, "element_spec"):
        described["class"] = "tf.data.Dataset"
        described["elements"] = [str(spec) for spec in keras.tree.flatten(data.element_spec)]
    if kind != "GeneratorData":
        described["batches"], described["batch_size"] = data_adapters.lengths_of(adapter)
    return described


def describe_arguments(variables: Mapping[str, Any]) -> dict[str, Any] | None:
    """Describe the arguments of `fit` by name, given its local variables; None if unknown."""
    if not all(name in variables for name in (*_PLAIN, *_DATA)):
        return None
    described: dict[str, Any] = {name: variables[name] for name in _PLAIN}
    weights = variables["class_weight"]
    described["class_weight"] = (
        None if weights is None else {str(key): float(weights[key]) for key in sorted(weights)}
    )
    split = bool(variables["validation_split"])
    for name in ("sample_weight", "validation_data"):
        # What a split leaves is known from the split and the data.
        value = None if split and name == "validation_data" else variables[name]
        described[name] = None if value is None else _described_argument(value)
    return described


def _described_argument(value: Any) -> Any:
    """Describe arrays by their rows, and anything else by its class and its seeds."""
    if tf_data.is_dataset(value):
        return {"class": type(value).__qualname__, "seeds": str(tf_data.seeds_of(value))}
    try:
        leaves = [leaf for leaf in keras.tree.flatten(value) if leaf is not None]
        if all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves):
            return describe_arrays(value)
    except Exception:  # noqa: BLE001 - an object of the user's may raise anything
        return {"class": type(value).__qualname__}
    return {"class": type(value).__qualname__}


def describe_arrays(arrays: Any) -> dict[str, Any]:
    """Return the types of arrays, and a digest of some of their rows."""
    leaves = [leaf for leaf in keras.tree.flatten(arrays) if leaf is not None]
    described = [f"{_dtype(leaf)} {[int(size) for size in leaf.shape]}" for leaf in leaves]
    return {"arrays": described, "digest": sampled_digest(leaves)}


def _dtype(leaf: Any) -> str:
    """Return the name of an array's dtype, such as `float32`, whichever library it is from."""
    dtype = getattr(leaf, "dtype", None)
    return str(getattr(dtype, "name", dtype)).removeprefix("torch.")


def sampled_digest(leaves: Sequence[Any]) -> str:
    """Return a digest of up to 1,024 rows of each array; sparse ones and the like are left out."""
    sha256 = hashlib.sha256()
    for leaf in leaves:
        if not hasattr(leaf, "__array__"):
            continue
        rows = np.linspace(0, len(leaf) - 1, min(len(leaf), _SAMPLED_ROWS)).astype(np.int64)
        whole = leaf if isinstance(leaf, np.ndarray) else keras.ops.convert_to_numpy(leaf)
        sample = np.ascontiguousarray(whole[rows])
        if sample.dtype.hasobject:
            sha256.update(repr(sample.tolist()).encode())
        else:
            sha256.update(sample.view(np.uint8).data if sample.ndim else sample.tobytes())
    return f"sha256:{sha256.hexdigest()}"
