"""Tensors whose dtype differs from the given model's, which Keras's loader converts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import keras

from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.fingerprint import Fingerprint, TensorFingerprint
from mlflow_ckpt._format.weights_file import open_weights
from mlflow_ckpt._model.files.hdf5 import native

Tensors = Mapping[str, TensorFingerprint]
_FLOATS = ("float", "bfloat")
_INTEGERS = ("int", "uint", "bool")


def is_castable(own: TensorFingerprint, saved: TensorFingerprint) -> bool:
    """Whether the saved values can be converted to the dtype of the model's tensor.

    Floating-point values to integers cannot: hardly anything would be left of weights.
    """
    sources = _INTEGERS if own.dtype.startswith(_INTEGERS) else (*_FLOATS, *_INTEGERS)
    is_number = own.dtype.startswith((*_FLOATS, *_INTEGERS))
    return own.shape == saved.shape and is_number and saved.dtype.startswith(sources)


def cast_names(own: Tensors, saved: Tensors) -> tuple[str, ...]:
    """Return the names of the tensors that are converted."""
    both = (name for name in own if name in saved and own[name].dtype != saved[name].dtype)
    return tuple(name for name in both if is_castable(own[name], saved[name]))


def expected(saved: Fingerprint, own: Tensors, source: Path) -> Fingerprint:
    """Return the fingerprint of a model that was filled with converted tensors.

    Args:
        saved: The checkpoint's fingerprint.
        own: The tensors of the model.
        source: A `.keras` or `.weights.h5` file with the saved tensors.
    """
    names = cast_names(own, {tensor.name: tensor for tensor in saved.tensors})
    digests = converted_digests(source, [own[name] for name in names])
    return replace(
        saved,
        tensors=tuple(
            replace(tensor, dtype=own[tensor.name].dtype, digest=digests[tensor.name])
            if tensor.name in digests
            else tensor
            for tensor in saved.tensors
        ),
    )


def converted_digests(source: Path, tensors: Iterable[TensorFingerprint]) -> dict[str, Digest]:
    """Return the digests that a file's values have in the dtypes of a model's tensors, by name."""
    digests = {}
    with open_weights(source) as file:
        for tensor in tensors:
            # As `Variable.assign` does.
            value = keras.ops.convert_to_tensor(native(file[tensor.name]), dtype=tensor.dtype)
            digests[tensor.name] = Digest.of_array(keras.ops.convert_to_numpy(value))
    return digests


def described(names: Iterable[str], own: Tensors, saved: Tensors) -> Iterator[str]:
    """Describe conversions, one phrase for each pair of dtypes."""
    pairs = [(saved[name].dtype, own[name].dtype) for name in names]
    for before, now in dict.fromkeys(pairs):
        yield f"{pairs.count((before, now))} converted from {before} to {now}"
