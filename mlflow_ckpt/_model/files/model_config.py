"""A model's architecture as JSON and YAML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mlflow_ckpt._format.architecture import parse_architecture
from mlflow_ckpt.errors import (
    IntegrityError,
    ModelLoadError,
    UnsupportedModelError,
)


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


def shared_layers(architecture: Mapping[str, Any]) -> list[str]:
    """Return the names of the layers that a model holds in several places."""
    names = [
        str(layer["config"].get("name"))
        for layer in layers_in(architecture)
        if "shared_object_id" in layer
    ]
    return list(dict.fromkeys(names))


def layers_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the descriptions of built layers in a description, depth first."""
    if isinstance(value, dict):
        if "build_config" in value and isinstance(value.get("config"), dict):
            yield value
        for item in value.values():
            yield from layers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from layers_in(item)


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
