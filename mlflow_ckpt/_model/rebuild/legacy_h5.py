"""Loads complete legacy `.h5` models, which Keras 3.15 does not."""

from __future__ import annotations

from pathlib import Path

import h5py
import keras
import numpy as np

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
    with h5py.File(path, "r") as file:
        fill_optimizer(model, file, fresh=fresh)


def fill_optimizer(model: keras.Model, file: h5py.File, *, fresh: bool = False) -> None:
    """Load the optimizer's variables from an open legacy `.h5` file into a compiled model.

    Args:
        model: The model, whose optimizer is built.
        file: The file.
        fresh: Whether the optimizer may have been saved before it was built.

    Raises:
        ModelLoadError: If the number of variables differs.
    """
    group = file.get("optimizer_weights")
    variables = model.optimizer.variables
    names = [] if group is None else _attribute_list(group, "weight_names")
    if fresh and len(names) < len(variables):
        return  # saved before it was built
    if len(names) != len(variables):
        raise ModelLoadError(
            f"The optimizer's state does not fit: the file holds {len(names)} variables, "
            f"{type(model.optimizer).__name__} has {len(variables)}."
        )
    for variable, name in zip(variables, names, strict=True):
        variable.assign(np.asarray(group[name]))


def _attribute_list(group: h5py.Group, name: str) -> list[str]:
    """Read a list of names, which Keras splits over several attributes if it is long."""
    if name in group.attrs:
        parts = [group.attrs[name]]
    else:
        numbered = [f"{name}{index}" for index in range(len(group.attrs))]
        parts = [group.attrs[key] for key in numbered if key in group.attrs]
    return [
        value.decode() if isinstance(value, bytes) else str(value)
        for part in parts
        for value in part
    ]
