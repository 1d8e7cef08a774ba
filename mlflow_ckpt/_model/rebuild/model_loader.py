"""Rebuilds a model from a verified checkpoint's directory."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.fingerprint import OPTIMIZER_ROLE, WEIGHTS_ROLE, read_fingerprint
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.weights_file import open_weights
from mlflow_ckpt._model import keras_private
from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt._model.files import model_config
from mlflow_ckpt._model.rebuild import legacy_h5
from mlflow_ckpt._model.rebuild.guarded import build, guarded, known_objects
from mlflow_ckpt._model.rebuild.proof import check_fingerprint
from mlflow_ckpt.errors import FormNotFoundError, ModelLoadError

CustomObjects = Mapping[str, Any] | None


def load_full(directory: Path, manifest: Manifest, custom_objects: CustomObjects) -> keras.Model:
    """Rebuild architecture, weights, optimizer and compile settings.

    Raises:
        FormNotFoundError: If the checkpoint has no full form.
        ModelLoadError: If Keras cannot rebuild the model.
        FingerprintMismatchError: If a tensor differs from the saved one.
    """
    if manifest.full_file is None:
        raise FormNotFoundError(
            f"The checkpoint {manifest.name} holds the split form only. "
            "Load it with form='split', or save with forms=('full', 'split').",
            available=manifest.forms,
        )
    with _saved_policy(directory):
        model = _load_compiled(directory, manifest, custom_objects)
    for variable, value in saved_seeds(model, directory):
        variable.assign(value)
    check_fingerprint(
        model, directory, roles=(WEIGHTS_ROLE, OPTIMIZER_ROLE), fresh_optimizer=manifest.step == 0
    )
    return model


@contextmanager
def _saved_policy(directory: Path) -> Iterator[None]:
    """Set Keras's global dtype policy to that of the saved model, within the context.

    Keras does not save it, but `compile` uses it: otherwise a mixed-precision model would lose the
    state of its optimizer, including the loss scale.
    """
    before = keras.config.dtype_policy()
    policy = json.loads((directory / layout.TRAINING_STATE).read_text("utf-8")).get("dtype_policy")
    if policy is None:
        scaled = any(t.variable == "dynamic_scale" for t in read_fingerprint(directory).tensors)
        policy = "mixed_float16" if scaled else before.name
    if policy == before.name:
        yield
        return
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _load_compiled(
    directory: Path, manifest: Manifest, custom_objects: CustomObjects
) -> keras.Model:
    path = directory / str(manifest.full_file)
    if manifest.full_format == "h5":
        model = load_architecture(directory, custom_objects)
        known = known_objects(_read_architecture(directory), custom_objects)
        with keras.saving.custom_object_scope(known):
            legacy_h5.fill(model, path, directory)
    else:
        with keras_private.ignoring_skipped_optimizer():
            model = _load_archive(path, directory, custom_objects, compiled=True)
    return model


def load_split(directory: Path, manifest: Manifest, custom_objects: CustomObjects) -> keras.Model:
    """Rebuild an uncompiled model from architecture and weights.

    Raises:
        ModelLoadError: If Keras cannot rebuild the model.
        FingerprintMismatchError: If a weight differs from the saved one.
    """
    if "split" not in manifest.forms and manifest.full_format == "keras":
        # The archive also contains files of layers, such as an adapted vocabulary.
        path = directory / layout.FULL_KERAS
        model = _load_archive(path, directory, custom_objects, compiled=False)
    else:
        model = load_architecture(directory, custom_objects)
        with weights_path(directory, manifest, custom_objects) as path:
            guarded(lambda: model.load_weights(path))
    check_fingerprint(model, directory, roles=(WEIGHTS_ROLE,))
    return model


def load_architecture(directory: Path, custom_objects: CustomObjects) -> keras.Model:
    """Build an uncompiled model with fresh weights.

    Raises:
        ModelLoadError: If Keras cannot build it.
    """
    return build(_read_architecture(directory), custom_objects)


@contextmanager
def weights_path(
    directory: Path, manifest: Manifest, custom_objects: CustomObjects
) -> Iterator[Path]:
    """Yield the path of a `.weights.h5` file, converted from the full form if necessary.

    Raises:
        ModelLoadError: If the full form is legacy HDF5 and Keras cannot build the model.
    """
    if "split" in manifest.forms:
        yield directory / layout.WEIGHTS
        return
    with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary:
        target = Path(temporary) / layout.WEIGHTS
        if manifest.full_format == "keras":
            _extract_weights(directory / layout.FULL_KERAS, target)
        else:
            # Legacy HDF5 identifies tensors by position only; the model has their names.
            model = load_architecture(directory, custom_objects)
            guarded(lambda: model.load_weights(directory / layout.FULL_H5))
            model.save_weights(target)
        yield target


def _load_archive(
    path: Path, directory: Path, custom_objects: CustomObjects, *, compiled: bool
) -> keras.Model:
    known = known_objects(_read_architecture(directory), custom_objects)
    return guarded(lambda: keras.saving.load_model(path, custom_objects=known, compile=compiled))


def _read_architecture(directory: Path) -> dict[str, Any]:
    return model_config.from_json((directory / layout.ARCHITECTURE_JSON).read_bytes())


def _extract_weights(archive: Path, target: Path) -> None:
    with open_weights(archive) as source, h5py.File(target, "w") as file:
        for name in source:
            if name != OPTIMIZER_ROLE:
                source.copy(name, file)


def saved_seeds(model: keras.Model, directory: Path) -> list[tuple[keras.Variable, Any]]:
    """Return a model's seed generators and their saved states, which Keras's files lack.

    Raises:
        ModelLoadError: If the model's seed generators differ from the saved ones, or the file
            cannot be read.
    """
    path = directory / layout.TRAINING_ARRAYS
    if not path.is_file():
        return []
    variables = introspection.seed_variables(model)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            saved = {name: arrays[name] for name in arrays if name.startswith(introspection.SEEDS)}
    except (EOFError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ModelLoadError(f"{path.name} cannot be read: {error}.") from error
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    if shapes != {name: array.shape for name, array in saved.items()}:
        raise ModelLoadError(
            f"The model's seed generators differ from the saved ones: expected {len(saved)}. "
            f"Received: {len(variables)}. A custom layer creates them outside of __init__ and "
            "build; load with form='split' if only inference matters."
        )
    return [(variable, saved[name]) for name, variable in variables.items()]
