"""Describes a live model's architecture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import keras

from mlflow_ckpt._format.text import first_sentence
from mlflow_ckpt._model.files.model_config import layers_in
from mlflow_ckpt._model.keras_private import saving_code
from mlflow_ckpt.errors import UnsupportedModelError


def describe(model: keras.Model) -> dict[str, Any]:
    """Return a model's architecture, as `keras.models.model_from_json` takes it.

    Compile settings are left out, as the split form consists of architecture and weights only.

    Raises:
        UnsupportedModelError: If the model or one of its layers has no usable `get_config`.
    """
    try:
        with saving_code.sharing_objects():
            architecture: dict[str, Any] = json.loads(model.to_json())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UnsupportedModelError(
            f"The model {model.name!r} cannot be described: {first_sentence(error)} "
            f"{_advice(model)}"
        ) from error
    _drop(architecture, "compile_config")
    _number_shared_layers(architecture)
    return architecture


def _advice(model: keras.Model) -> str:
    """Return what makes a model describable that is not."""
    try:
        model.get_compile_config()
    except (NotImplementedError, TypeError, ValueError):
        return (
            "Pass registered functions and objects of registered classes to compile(), and no "
            "functools.partial."
        )
    return "Give the class a get_config() that returns its constructor's arguments."


def _drop(value: Any, key: str) -> None:
    """Remove a key from a description and all that it contains, in place."""
    if isinstance(value, dict):
        value.pop(key, None)
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, list)):
            _drop(item, key)


def _number_shared_layers(architecture: dict[str, Any]) -> None:
    """Number layers that the model holds in several places, in place.

    Keras identifies shared objects by their addresses, loses the mark of a layer that a wrapper
    described first, and also marks what need not be shared, such as dtype policies.
    """
    numbers: dict[str, int] = {}
    layers = list(layers_in(architecture))
    for layer in layers:
        if "shared_object_id" in layer:
            numbers.setdefault(_identity(layer), len(numbers) + 1)
    _drop(architecture, "shared_object_id")
    for layer in layers:
        if _identity(layer) in numbers:
            layer["shared_object_id"] = numbers[_identity(layer)]


def _identity(layer: Mapping[str, Any]) -> str:
    described = {key: layer.get(key) for key in ("class_name", "config", "build_config")}
    _drop(described := json.loads(json.dumps(described)), "shared_object_id")
    return json.dumps(described, sort_keys=True)
