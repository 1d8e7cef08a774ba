"""Converts a model's architecture to JSON and YAML, and back."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import keras
import yaml

from mlflow_ckpt._format.architecture import parse_architecture
from mlflow_ckpt._format.text import first_line
from mlflow_ckpt.errors import (
    IntegrityError,
    ModelLoadError,
    UnknownObjectError,
    UnsupportedModelError,
)

T = TypeVar("T")

_UNKNOWN = (
    re.compile(r"Could not locate (?:class|function) '(?P<name>[^']+)'"),
    re.compile(r"Unknown \w+(?: \w+)?: '(?P<name>[^']+)'"),
)


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


def build(
    architecture: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
) -> keras.Model:
    """Build an uncompiled model with fresh weights, in Keras's safe mode.

    Raises:
        UnknownObjectError: If a class or function is neither registered nor in `custom_objects`.
        ModelLoadError: If Keras cannot build the model for another reason.
    """
    objects = known_objects(architecture, custom_objects)
    return guarded(
        lambda: keras.models.model_from_json(json.dumps(architecture), custom_objects=objects)
    )


def known_objects(
    architecture: Mapping[str, Any], custom_objects: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return custom objects by the names under which Keras looks them up.

    Keras looks up registered objects as `package>name`; users pass them by their plain name.

    Args:
        architecture: The architecture, which contains the registered names.
        custom_objects: Objects by plain name.
    """
    objects = dict(custom_objects or {})
    if objects:
        for registered in _registered_names(architecture):
            name = registered.rpartition(">")[2]
            if name in objects:
                objects.setdefault(registered, objects[name])
    return objects


def _registered_names(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("registered_name"), str):
            yield value["registered_name"]
        for item in value.values():
            yield from _registered_names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _registered_names(item)


def load_error(error: Exception) -> ModelLoadError:
    """Convert an error that Keras raised while it rebuilt a model to one with a clear message.

    Keras calls constructors, its own and the user's, so the error may be of any class.
    """
    text = str(error)
    for pattern in _UNKNOWN:
        if match := pattern.search(text):
            name = match["name"]
            short = name.rpartition(">")[2]
            return UnknownObjectError(
                f"The architecture names {name!r}, which is not known here. Import the module that "
                "registers it, or pass it: custom_objects="
                f"{{{short!r}: {short}}} (mlflow-ckpt: --custom-objects MODULE).",
                name=name,
            )
    if "safe_mode" in text or "unsafe deserialization" in text or "arbitrary code" in text:
        return ModelLoadError(
            "The model holds a Lambda layer or another object that runs stored code, which Keras's "
            "safe mode refuses. Replace it by a registered layer, or, if you trust the run, call "
            "keras.config.enable_unsafe_deserialization() first."
        )
    # Keras appends a constructor's message to pages of configuration.
    _, wrapped, message = text.rpartition("Exception encountered: ")
    problem = first_line(message) if wrapped else f"{type(error).__name__}: {first_line(error)}"
    return ModelLoadError(f"Keras cannot rebuild the model: {problem}")


def guarded(action: Callable[[], T]) -> T:
    """Call a function that calls constructors, and convert its errors to `ModelLoadError`."""
    try:
        return action()
    except (MemoryError, ModelLoadError):
        raise
    except zipfile.BadZipFile as error:
        raise ModelLoadError(f"The archive cannot be read: {error}.") from error
    except Exception as error:
        raise load_error(error) from error
