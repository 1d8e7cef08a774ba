"""A model's architecture as JSON and YAML, and back."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import keras
import yaml

from mlflow_ckpt.errors import ModelLoadError, UnknownObjectError, UnsupportedModelError

T = TypeVar("T")

_UNKNOWN = (
    re.compile(r"Could not locate (?:class|function) '(?P<name>[^']+)'"),
    re.compile(r"Unknown \w+(?: \w+)?: '(?P<name>[^']+)'"),
)


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


def build(
    architecture: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
) -> keras.Model:
    """Build a model with fresh weights, uncompiled, under Keras's safe mode.

    Raises:
        UnknownObjectError: If it names a class or function that this process does not know.
        ModelLoadError: If Keras cannot build it for another reason.
    """
    known = known_objects(architecture, custom_objects)
    return guarded(
        lambda: keras.models.model_from_json(json.dumps(architecture), custom_objects=known)
    )


def known_objects(
    architecture: Mapping[str, Any], custom_objects: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return custom objects under the names by which Keras looks for them.

    An object that was registered is looked for as `package>name`; people pass it by its name.

    Args:
        architecture: Says which registered names there are.
        custom_objects: Objects by name, as people pass them.
    """
    known = dict(custom_objects or {})
    if known:
        for registered in _registered_names(architecture):
            name = registered.rpartition(">")[2]
            if name in known:
                known.setdefault(registered, known[name])
    return known


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
    """Turn what Keras raised while it rebuilt a model into one clear sentence.

    Keras deserializes by calling constructors, its own and users', so any exception may come.
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
    # Keras puts what a constructor said behind pages of configuration.
    _, wrapped, said = text.rpartition("Exception encountered: ")
    problem = first_line(said) if wrapped else f"{type(error).__name__}: {first_line(error)}"
    return ModelLoadError(f"Keras cannot rebuild the model: {problem}")


def guarded(action: Callable[[], T]) -> T:
    """Run what calls constructors (Keras's, users'), which may raise anything."""
    try:
        return action()
    except (MemoryError, ModelLoadError):
        raise
    except zipfile.BadZipFile as error:
        raise ModelLoadError(f"The archive cannot be read: {error}.") from error
    except Exception as error:
        raise load_error(error) from error


def first_line(error: Exception | str) -> str:
    """Return the first sentence-like line of an exception's text, ending in a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return line if line.endswith((".", "!", "?")) else f"{line.rstrip(':')}."
