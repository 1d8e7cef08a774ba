"""Loads what Keras's own `ModelCheckpoint` saved: `.keras`, `.h5`, weights with an architecture."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import yaml

from mlflow_ckpt._model import keras_private
from mlflow_ckpt._model.files import architecture
from mlflow_ckpt._model.rebuild import legacy_h5
from mlflow_ckpt._model.rebuild.guarded import build, guarded
from mlflow_ckpt.errors import ModelLoadError

CustomObjects = Mapping[str, Any] | None


def load(
    path: Path, custom_objects: CustomObjects, blueprint: Mapping[str, Any] | None = None
) -> tuple[keras.Model, str | None]:
    """Load a file whole, or what can be loaded of it. Code inside of the file does not run.

    Args:
        path: A `.keras`, `.h5` or `.weights.h5` file.
        custom_objects: Classes and functions by name.
        blueprint: For weights: the architecture.

    Returns:
        The model, and what of the file was not loaded, as a phrase; None if nothing.

    Raises:
        ModelLoadError: If Keras cannot rebuild the model.
    """
    _refuse_other_formats(path)
    if path.name.endswith(".weights.h5"):
        if blueprint is None:
            raise ModelLoadError(
                f"{path.name} holds weights alone. Expected an architecture beside it: "
                "--architecture FILE (.json, .yaml or .keras)."
            )
        model = build(dict(blueprint), custom_objects)
        guarded(lambda: model.load_weights(path))
        return model, None
    if path.suffix == ".h5":
        return _load_h5(path, custom_objects)
    lost = _lost_of_archive(path)
    with keras_private.ignoring_skipped_optimizer():
        model = guarded(
            lambda: keras.saving.load_model(
                path, custom_objects=custom_objects, compile=lost is None
            )
        )
    return model, lost


def _refuse_other_formats(path: Path) -> None:
    """Raise where a file is not what its name says: Keras would say that it is not there."""
    is_archive = path.suffix == ".keras"
    fits = zipfile.is_zipfile(path) if is_archive else h5py.is_hdf5(path)
    if not fits:
        expected = "a zip archive" if is_archive else "an HDF5 file"
        raise ModelLoadError(
            f"{path.name} is not {expected}, as Keras writes it. Is it cut off, or empty? "
            f"Received: {path.stat().st_size} bytes"
        )


def read_blueprint(path: Path) -> dict[str, Any]:
    """Read an architecture from `.json` or `.yaml`, or out of a `.keras` archive.

    Raises:
        ModelLoadError: If the file is none.
    """
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                text = archive.read("config.json")
        else:
            text = path.read_bytes()
        if path.suffix in (".yaml", ".yml"):
            text = json.dumps(yaml.safe_load(text)).encode()
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile, yaml.YAMLError) as error:
        raise ModelLoadError(f"{path} is no architecture: {error}") from error
    found = architecture.from_json(text)
    found.pop("compile_config", None)
    return found


def _lost_of_archive(path: Path) -> str | None:
    """Say what a `.keras` file does not tell, though the model had it.

    After a model was saved as HDF5, as MLflow's callback does, Keras 3.15 writes archives that name
    no optimizer, and loads them with RMSprop.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            settings = json.loads(archive.read("config.json")).get("compile_config")
    except (OSError, AttributeError, KeyError, ValueError, zipfile.BadZipFile):
        return None  # Keras will say what is wrong with it
    if not isinstance(settings, dict) or "optimizer" in settings or "loss" not in settings:
        return None
    return "its compile settings and optimizer (the file does not say which optimizer it was)"


def _load_h5(path: Path, custom_objects: CustomObjects) -> tuple[keras.Model, str | None]:
    """Load legacy HDF5, whose optimizer Keras 3.15 brings back without its variables."""
    model = guarded(
        lambda: keras.saving.load_model(path, custom_objects=custom_objects, compile=False)
    )
    with h5py.File(path, "r") as file:
        text = file.attrs.get("training_config")
        if text is None:
            return model, None
        try:
            with keras.saving.custom_object_scope(custom_objects or {}):
                guarded(lambda: _compile(model, json.loads(text)))
            legacy_h5.fill_optimizer(model, file)
        except ModelLoadError as error:
            plain = keras.saving.load_model(path, custom_objects=custom_objects, compile=False)
            return plain, f"its compile settings and optimizer ({architecture.first_line(error)})"
    return model, None


def _compile(model: keras.Model, config: dict[str, Any]) -> None:
    loss, metrics = config.get("loss"), config.get("metrics")
    optimizer = keras.optimizers.deserialize(config["optimizer_config"])
    model.compile(optimizer=optimizer, loss=_known(loss), metrics=_known(metrics))
    model.optimizer.build(model.trainable_variables)


def _known(value: Any) -> Any:
    """Return losses and metrics as `compile` takes them: by name, or rebuilt."""
    if isinstance(value, dict) and "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items()}
    if isinstance(value, list):
        flat = value[0] if len(value) == 1 and isinstance(value[0], list) else value
        return [_known(each) for each in flat]
    return value
