"""Loads complete legacy `.h5` models, which Keras 3.15 does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from mlflow_ckpt._format.weights_file import open_weights
from mlflow_ckpt.errors import ModelLoadError


def fill(model: keras.Model, path: Path, *, fresh: bool) -> None:
    """Load the optimizer's variables from a legacy `.h5` file into a compiled model.

    Keras restores the optimizer without variables, so they are assigned in the order in which they
    were saved.

    Args:
        model: The model, with its weights.
        path: The file.
        fresh: Whether the optimizer may have been saved before it was built.

    Raises:
        ModelLoadError: If the file does not fit the model.
    """
    if getattr(model, "optimizer", None) is None:
        return
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    with open_weights(path) as file:
        fill_optimizer(model, file, fresh=fresh)


def fill_optimizer(model: keras.Model, file: h5py.File, *, fresh: bool = False) -> None:
    """Load the optimizer's variables from an open legacy `.h5` file into a compiled model.

    Args:
        model: The model, whose optimizer is built.
        file: The file.
        fresh: Whether the optimizer may have been saved before it was built.

    Raises:
        ModelLoadError: If the number of variables differs, or one is not as the model's.
    """
    group = file.get("optimizer_weights")
    if group is not None and not isinstance(group, h5py.Group):
        raise ModelLoadError("The file's optimizer_weights are no group, as Keras writes it.")
    variables = model.optimizer.variables
    names = [] if group is None else _attribute_list(group, "weight_names")
    if fresh and len(names) < len(variables):
        return  # saved before it was built
    if len(names) != len(variables):
        raise ModelLoadError(
            f"The optimizer's state does not fit: the file holds {len(names)} variables, "
            f"{type(model.optimizer).__name__} has {len(variables)}."
        )
    values = [
        _tensor(group, name, variable) for variable, name in zip(variables, names, strict=True)
    ]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _tensor(group: h5py.Group, name: str, variable: keras.Variable) -> np.ndarray[Any, Any]:
    """Read the value of a variable, which must be of its shape."""
    inside = not name.startswith("/") and not {"", ".", ".."} & set(name.split("/"))
    stored = group.get(name) if inside else None
    if not isinstance(stored, h5py.Dataset) or stored.shape != tuple(variable.shape):
        raise ModelLoadError(
            f"The optimizer's state does not fit: the file holds no tensor {name!r} of the shape "
            f"{list(variable.shape)} for {variable.path}."
        )
    return np.asarray(stored)


def _attribute_list(group: h5py.Group, name: str) -> list[str]:
    """Read a list of names, which Keras splits over several attributes if it is long."""
    if name in group.attrs:
        parts = [group.attrs[name]]
    else:
        numbered = [f"{name}{index}" for index in range(len(group.attrs))]
        parts = [group.attrs[key] for key in numbered if key in group.attrs]
    return [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        for part in parts
        for value in np.atleast_1d(part)
    ]
