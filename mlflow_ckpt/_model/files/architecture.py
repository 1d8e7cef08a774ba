"""A model's architecture as JSON and YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import keras
import yaml

from mlflow_ckpt.errors import ModelLoadError, UnsupportedModelError


def describe(model: keras.Model) -> dict[str, Any]:
    """Return the architecture that `keras.models.model_from_json` rebuilds the model from.

    Compile settings are left out: the split form is architecture and weights, nothing else.

    Raises:
        UnsupportedModelError: If the model or one of its layers cannot say its configuration.
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
    """Raise if Keras could not rebuild a model from this format, known before it has weights.

    Raises:
        UnsupportedModelError: For a subclassed model in HDF5.
    """
    class_name = architecture["class_name"]
    if full_format == "h5" and class_name not in ("Functional", "Sequential"):
        raise UnsupportedModelError(
            f"Keras cannot rebuild the subclassed model {class_name!r} from HDF5, which is for "
            "sequential and functional models. Save with full_format='keras'."
        )


def _drop_compile_settings(value: Any) -> None:
    """Remove compile settings in place: the model's own, and those of compiled submodels."""
    if isinstance(value, dict):
        value.pop("compile_config", None)
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, list)):
            _drop_compile_settings(item)


def to_json(architecture: Mapping[str, Any]) -> str:
    """Return the text of `architecture.json`."""
    return json.dumps(architecture, indent=2) + "\n"


def to_yaml(architecture: Mapping[str, Any]) -> str:
    """Return the text of `architecture.yaml`: the same mapping, for a safe loader."""
    text: str = yaml.safe_dump(dict(architecture), sort_keys=False)
    return text


def from_json(text: bytes) -> dict[str, Any]:
    """Read `architecture.json`.

    Raises:
        ModelLoadError: If it is not a JSON object.
    """
    try:
        content = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise ModelLoadError(f"architecture.json is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ModelLoadError("architecture.json holds no architecture. Expected an object.")
    return content


def first_line(error: Exception | str) -> str:
    """Return the first sentence-like line of an exception's text, ending in a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return line if line.endswith((".", "!", "?")) else f"{line.rstrip(':')}."
