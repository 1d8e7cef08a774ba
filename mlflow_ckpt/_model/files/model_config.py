"""A model's architecture as JSON and YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import keras
import yaml

from mlflow_ckpt._format.architecture import parse_architecture
from mlflow_ckpt._format.text import first_line
from mlflow_ckpt.errors import IntegrityError, ModelLoadError, UnsupportedModelError


def describe(model: keras.Model) -> dict[str, Any]:
    """Return a model's architecture, as `keras.models.model_from_json` takes it.

    Compile settings are left out, as the split form consists of architecture and weights only.

    Raises:
        UnsupportedModelError: If the model or one of its layers has no usable `get_config`.
    """
    try:
        architecture: dict[str, Any] = json.loads(model.to_json())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UnsupportedModelError(
            f"The model {model.name!r} cannot be described: {first_line(error)} "
            "Give the class a get_config() that returns its constructor's arguments."
        ) from error
    _drop_compile_settings(architecture)
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


def _drop_compile_settings(value: Any) -> None:
    """Remove the compile settings of the model and its submodels, in place."""
    if isinstance(value, dict):
        value.pop("compile_config", None)
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, list)):
            _drop_compile_settings(item)


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
