"""Rebuild objects from their configuration, with Keras's errors turned into clear ones."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import keras

from mlflow_ckpt._format.text import first_line
from mlflow_ckpt._format.weights_file import require_safe
from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt._model.files import model_config
from mlflow_ckpt._model.keras_private import keras_version, messages_of_keras, saving_code
from mlflow_ckpt.errors import ModelLoadError, UnknownObjectError, UnsafeFileError

T = TypeVar("T")
# Modules of Python that run commands or code, or change files.
_DANGEROUS = ("builtins", "os", "posix", "sys", "subprocess", "shutil", "importlib", "pickle")


def build(
    architecture: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
) -> keras.Model:
    """Build a model with fresh weights, uncompiled, under Keras's safe mode.

    Raises:
        UnknownObjectError: If it names a class or function that this process does not know.
        ModelLoadError: If Keras cannot build it for another reason.
    """
    known = known_objects(architecture, custom_objects)
    try:
        with saving_code.sharing_objects():
            model = guarded(
                lambda: keras.models.model_from_json(json.dumps(architecture), custom_objects=known)
            )
        return require_model(model)
    except UnknownObjectError:
        raise
    except ModelLoadError as error:
        raise explained(error, architecture) from error


def require_model(value: Any) -> keras.Model:
    """Return a model that Keras rebuilt, unless it is something else that Keras can describe.

    Raises:
        ModelLoadError: If it is.
    """
    if not isinstance(value, keras.Model):
        raise ModelLoadError(
            f"The file describes no model, but what Keras makes a {type(value).__name__} of."
        )
    return value


def explained(error: ModelLoadError, architecture: Mapping[str, Any]) -> ModelLoadError:
    """Return an error that names layers in several places, if the model has such layers."""
    shared = model_config.shared_layers(architecture)
    if not shared or isinstance(error, UnknownObjectError):
        return error
    return ModelLoadError(
        f"{error} The model holds the layer {', '.join(shared)} in several places (directly, and "
        "in a wrapper or a submodel), which Keras cannot always rebuild. Build the model with your "
        "code, and fill it: restore(model, …) or load_weights(model, …)."
    )


def known_objects(
    architecture: Mapping[str, Any], custom_objects: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return custom objects under the names by which Keras looks for them.

    Keras looks up registered objects as `package>name`; users pass them by name.
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


def _module_of_no_model(error: Exception, name: str) -> str | None:
    """Return the module of an unknown object if it is Python's own, such as `os`.

    Nobody's model is made of these. To pass such a function as a custom object would run it.
    """
    named = messages_of_keras.modules_named(error)
    for module in named:
        if module.partition(".")[0] in sys.stdlib_module_names:
            return module
    if any(named):
        return None
    # Older files name no modules.
    found = (m for m in _DANGEROUS if callable(getattr(sys.modules.get(m), name, None)))
    return next(found, None)


def _load_error(error: Exception) -> ModelLoadError:
    """Translate an error that Keras raised while rebuilding a model."""
    name = messages_of_keras.unknown_object(error)
    if name is not None:
        short = name.rpartition(">")[2]
        if module := _module_of_no_model(error, short):
            return UnknownObjectError(
                f"The file asks for {name!r} of the module {module!r}, which no model is made of, "
                "so it is not loaded. Ask who made the file before you do anything else with it.",
                name=name,
            )
        return UnknownObjectError(
            f"The architecture names {name!r}, which is not known here. Import the module that "
            "registers it, or pass it: custom_objects="
            f"{{{short!r}: {short}}} (mlflow-ckpt: --custom-objects MODULE).",
            name=name,
        )
    if messages_of_keras.is_unsafe(error):
        return ModelLoadError(
            "The model holds a Lambda layer or another object that runs stored code or reads files "
            "of its own choice, which Keras's safe mode refuses. If the model is yours, build it "
            "with your code, and fill it: restore(model, …) or load_weights(model, …)."
        )
    message = messages_of_keras.constructor_message(error)
    if message is None:
        message = f"{type(error).__name__}: {messages_of_keras.call_message(error)}"
    return ModelLoadError(f"Keras cannot rebuild the model: {first_line(message)}")


def guarded(action: Callable[[], T]) -> T:
    """Call code that may run constructors, and translate its errors."""
    keras_version.mention_untested_version()
    try:
        return action()
    except (MemoryError, ModelLoadError, UnsafeFileError):
        raise
    except zipfile.BadZipFile as error:
        raise ModelLoadError(f"The archive cannot be read: {error}.") from error
    except Exception as error:
        raise _load_error(error) from error


def load_weights(model: keras.Model, path: Path, *, skip_mismatch: bool = False) -> None:
    """Load a file of weights into a model, as Keras does.

    Keras takes a model that is never called, as only its submodels are, for one without weights.

    Raises:
        UnsafeFileError: If the file leads elsewhere, or declares what it does not hold.
        ModelLoadError: If Keras cannot load them.
    """
    guarded(lambda: require_safe(path))
    built = model.built
    try:
        model.built = introspection.has_weights(model)
        guarded(lambda: model.load_weights(path, skip_mismatch=skip_mismatch))
    finally:
        model.built = built
