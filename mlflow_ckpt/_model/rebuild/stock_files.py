"""Loads files of Keras's `ModelCheckpoint`: `.keras`, `.h5`, weights with an architecture."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras

from mlflow_ckpt._format.text import first_line
from mlflow_ckpt._format.untrusted import fields, json_text, regular_file, yaml_text
from mlflow_ckpt._format.untrusted.regular_file import require_regular
from mlflow_ckpt._format.untrusted.zip_archive import open_zip, read
from mlflow_ckpt._format.weights_file import open_weights, require_safe
from mlflow_ckpt._model.files import model_config
from mlflow_ckpt._model.keras_private import messages_of_keras
from mlflow_ckpt._model.rebuild import legacy_h5
from mlflow_ckpt._model.rebuild.guarded import build, guarded, load_weights, require_model
from mlflow_ckpt.errors import ModelLoadError, UnsafeFileError

CustomObjects = Mapping[str, Any] | None


def load(
    path: Path, custom_objects: CustomObjects, blueprint: Mapping[str, Any] | None = None
) -> tuple[keras.Model, str | None]:
    """Load as much of a file as possible, without running code that is stored in it.

    Returns:
        The model, and a phrase that says what could not be loaded; None if nothing is missing.

    Raises:
        ModelLoadError: If Keras cannot rebuild the model, or the architecture of weights is
            missing.
        UnsafeFileError: If the file leads elsewhere, or declares what it does not hold.
    """
    _refuse_other_formats(path)
    guarded(lambda: require_safe(path))
    if path.name.endswith(".weights.h5"):
        if blueprint is None:
            raise ModelLoadError(
                f"{path.name} holds only weights. Expected an architecture too: "
                "--architecture FILE (.json, .yaml or .keras)."
            )
        model = build(dict(blueprint), custom_objects)
        load_weights(model, path)
        return model, None
    if path.suffix == ".h5":
        return _load_h5(path, custom_objects)
    lost = _lost_from_archive(path)
    with messages_of_keras.ignoring_skipped_optimizer():
        model = guarded(
            lambda: keras.saving.load_model(
                path, custom_objects=custom_objects, compile=lost is None
            )
        )
    return require_model(model), lost


def _refuse_other_formats(path: Path) -> None:
    """Raise ModelLoadError if the file's format is not that of its name, or UnsafeFileError.

    Keras would report that the file does not exist.
    """
    size = require_regular(path, follow=True)
    is_archive = path.suffix == ".keras"
    if not (zipfile.is_zipfile(path) if is_archive else h5py.is_hdf5(path)):
        expected = "a zip archive" if is_archive else "an HDF5 file"
        raise ModelLoadError(
            f"{path.name} is not {expected}, as Keras writes it. Is it truncated or empty? "
            f"Received: {size} bytes"
        )


def read_blueprint(path: Path) -> dict[str, Any]:
    """Read an architecture from a `.json` or `.yaml` file or a `.keras` archive.

    Raises:
        ModelLoadError: If the file cannot be read or contains no architecture.
    """
    try:
        if path.suffix == ".keras":
            with open_zip(path, follow=True) as archive:
                text = read(archive, "config.json")
        else:
            text = regular_file.read(path, follow=True)
        if path.suffix in (".yaml", ".yml"):
            text = json.dumps(yaml_text.parse(text)).encode()
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ModelLoadError(f"{path} is not an architecture: {error}") from error
    blueprint = model_config.from_json(text)
    blueprint.pop("compile_config", None)
    return blueprint


def _lost_from_archive(path: Path) -> str | None:
    """Return a phrase that says which settings a `.keras` file lacks; None if it has all.

    After a model was saved as HDF5, as MLflow's callback does, Keras 3.15 writes archives without
    an optimizer, and loads them with RMSprop.
    """
    try:
        with open_zip(path, follow=True) as archive:
            settings = json_text.parse(read(archive, "config.json")).get("compile_config")
    except UnsafeFileError:
        raise
    except (OSError, AttributeError, KeyError, ValueError, zipfile.BadZipFile):
        return None  # Keras will report what is wrong
    if not isinstance(settings, dict) or "optimizer" in settings or "loss" not in settings:
        return None
    return "its compile settings and optimizer (the file does not say which optimizer it was)"


def _load_h5(path: Path, custom_objects: CustomObjects) -> tuple[keras.Model, str | None]:
    """Load legacy HDF5, whose optimizer Keras 3.15 restores without its variables."""
    model = guarded(
        lambda: keras.saving.load_model(path, custom_objects=custom_objects, compile=False)
    )
    with open_weights(path) as file:
        text = file.attrs.get("training_config")
        if text is None:
            return model, None
        try:
            with keras.saving.custom_object_scope(custom_objects or {}):
                guarded(lambda: _compile(model, _settings(text)))
            legacy_h5.fill_optimizer(model, file)
        except ModelLoadError as error:
            plain = keras.saving.load_model(path, custom_objects=custom_objects, compile=False)
            return plain, f"its compile settings and optimizer ({first_line(error)})"
    return model, None


def _settings(text: Any) -> dict[str, Any]:
    """Parse the compile settings in a legacy `.h5` file."""
    if not isinstance(text, (str, bytes)):
        raise ModelLoadError("its attribute training_config is not text")
    return fields.table(json_text.parse(text))


def _compile(model: keras.Model, config: dict[str, Any]) -> None:
    loss, metrics = config.get("loss"), config.get("metrics")
    optimizer = keras.optimizers.deserialize(config["optimizer_config"])
    model.compile(optimizer=optimizer, loss=_deserialized(loss), metrics=_deserialized(metrics))
    model.optimizer.build(model.trainable_variables)


def _deserialized(value: Any) -> Any:
    """Return losses and metrics as `compile` takes them: names, or deserialized objects."""
    if isinstance(value, dict) and "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    if isinstance(value, dict):
        return {key: _deserialized(item) for key, item in value.items()}
    if isinstance(value, list):
        flat = value[0] if len(value) == 1 and isinstance(value[0], list) else value
        return [_deserialized(item) for item in flat]
    return value
