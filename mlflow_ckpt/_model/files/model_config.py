"""A model's architecture as JSON and YAML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import yaml

from mlflow_ckpt._format.architecture import parse_architecture
from mlflow_ckpt._format.text import first_line
from mlflow_ckpt._model import keras_private
from mlflow_ckpt.errors import IntegrityError, ModelLoadError, UnsupportedModelError


def describe(model: keras.Model) -> dict[str, Any]:
    """Return a model's architecture, as `keras.models.model_from_json` takes it.

    Compile settings are left out, as the split form consists of architecture and weights only.

    Raises:
        UnsupportedModelError: If the model or one of its layers has no usable `get_config`.
    """
    try:
        with keras_private.sharing_objects():
            architecture: dict[str, Any] = json.loads(model.to_json())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UnsupportedModelError(
            f"The model {model.name!r} cannot be described: {first_line(error)} "
            "Give the class a get_config() that returns its constructor's arguments."
        ) from error
    _drop(architecture, "compile_config")
    _number_shared_layers(architecture)
    return architecture


def require_format(architecture: Mapping[str, Any], full_format: str | None) -> None:
    """Check that Keras can rebuild the model from a format. The model need not have weights.

    Raises:
        UnsupportedModelError: If the model is subclassed and the format is HDF5.
    """
    class_name = architecture["class_name"]
    if full_format == "h5" and class_name not in ("Functional", "Sequential"):
        raise UnsupportedModelError(
            f"Keras cannot rebuild the subclassed model {class_name!r} from HDF5, which is for "
            "sequential and functional models. Save with full_format='keras'."
        )


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
    layers = list(_layers(architecture))
    for layer in layers:
        if "shared_object_id" in layer:
            numbers.setdefault(_identity(layer), len(numbers) + 1)
    _drop(architecture, "shared_object_id")
    for layer in layers:
        if _identity(layer) in numbers:
            layer["shared_object_id"] = numbers[_identity(layer)]


def shared_layers(architecture: Mapping[str, Any]) -> list[str]:
    """Return the names of the layers that a model holds in several places."""
    names = [
        str(layer["config"].get("name"))
        for layer in _layers(architecture)
        if "shared_object_id" in layer
    ]
    return list(dict.fromkeys(names))


def _layers(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the descriptions of built layers in a description, depth first."""
    if isinstance(value, dict):
        if "build_config" in value and isinstance(value.get("config"), dict):
            yield value
        for item in value.values():
            yield from _layers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _layers(item)


def _identity(layer: Mapping[str, Any]) -> str:
    described = {key: layer.get(key) for key in ("class_name", "config", "build_config")}
    _drop(described := json.loads(json.dumps(described)), "shared_object_id")
    return json.dumps(described, sort_keys=True)


def to_json(architecture: Mapping[str, Any]) -> str:
    """Return the text of `architecture.json`."""
    return json.dumps(architecture, indent=2) + "\n"


def to_yaml(architecture: Mapping[str, Any]) -> str:
    """Return the text of `architecture.yaml`, for `yaml.safe_load`."""
    text: str = yaml.safe_dump(dict(architecture), sort_keys=False)
    return text


def from_json(text: bytes) -> dict[str, Any]:
    """Parse the text of `architecture.json`, to build a model from it.

    Raises:
        ModelLoadError: If it is not a JSON object.
    """
    try:
        return parse_architecture(text)
    except IntegrityError as error:
        raise ModelLoadError(str(error)) from error
