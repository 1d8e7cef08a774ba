"""Loads legacy `.h5` models whole, which Keras 3.15 itself does not manage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from mlflow_ckpt.errors import ModelLoadError
from mlflow_ckpt.format import layout
from mlflow_ckpt.model.architecture import guarded

CustomObjects = Mapping[str, Any] | None


def load(path: Path, directory: Path, custom_objects: CustomObjects) -> keras.Model:
    """Load a legacy `.h5` model whole, which Keras 3.15 itself does not manage.

    Keras brings the optimizer back without variables and does not find metrics given by name, so
    the model is loaded uncompiled, compiled from the settings that the checkpoint keeps in a file
    of its own, and the optimizer's variables are put back in the order in which they were saved.
    """
    model = guarded(
        lambda: keras.saving.load_model(
            path, custom_objects=dict(custom_objects or {}), compile=False
        )
    )
    state = json.loads((directory / layout.TRAINING_STATE).read_text("utf-8"))
    config = state["compile_config"]
    if config is None:
        return model

    def compile_model() -> None:
        with keras.saving.custom_object_scope(dict(custom_objects or {})):
            model.compile_from_config(config)

    guarded(compile_model)
    if state["step"] > 0:
        with h5py.File(path, "r") as file:
            _fill_optimizer(model, file)
    return model


def _fill_optimizer(model: keras.Model, file: h5py.File) -> None:
    group = file.get("optimizer_weights")
    variables = model.optimizer.variables
    names = [] if group is None else _attribute_list(group, "weight_names")
    if len(names) != len(variables):
        raise ModelLoadError(
            f"The optimizer's state does not fit: the file holds {len(names)} variables, "
            f"{type(model.optimizer).__name__} has {len(variables)}."
        )
    for variable, name in zip(variables, names, strict=True):
        variable.assign(np.asarray(group[name]))


def _attribute_list(group: h5py.Group, name: str) -> list[str]:
    """Read a list of names that Keras splits over several attributes where it is long."""
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
