"""Rebuilds a model from a verified checkpoint's directory."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import h5py
import keras
import numpy as np

from mlflow_ckpt.errors import (
    FormNotFoundError,
)
from mlflow_ckpt.format import layout
from mlflow_ckpt.format.fingerprint import OPTIMIZER_ROLE, WEIGHTS_ROLE
from mlflow_ckpt.format.manifest import Manifest
from mlflow_ckpt.format.weights_file import open_weights
from mlflow_ckpt.model import architecture, legacy_h5, snapshot
from mlflow_ckpt.model.architecture import guarded
from mlflow_ckpt.model.proof import check_fingerprint

T = TypeVar("T")
CustomObjects = Mapping[str, Any] | None


def load_full(directory: Path, manifest: Manifest, custom_objects: CustomObjects) -> keras.Model:
    """Rebuild architecture, weights, optimizer and compile settings.

    Raises:
        FormNotFoundError: If the checkpoint was saved without the full form.
        ModelLoadError: If Keras cannot rebuild the model.
        FingerprintMismatchError: If a tensor is not the one that was saved.
    """
    if manifest.full_file is None:
        raise FormNotFoundError(
            f"The checkpoint {manifest.name} holds the split form only. "
            "Load it with form='split', or save with forms=('full', 'split').",
            available=manifest.forms,
        )
    path = directory / manifest.full_file
    if manifest.full_format == "h5":
        model = legacy_h5.load(path, directory, custom_objects)
    else:
        with warnings.catch_warnings():
            # Keras says that it skipped a fresh optimizer; what it should not skip, the
            # fingerprint tells.
            warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
            model = guarded(
                lambda: keras.saving.load_model(path, custom_objects=dict(custom_objects or {}))
            )
    _restore_seeds(model, directory)
    check_fingerprint(
        model,
        directory,
        roles=(WEIGHTS_ROLE, OPTIMIZER_ROLE),
        fresh_optimizer=manifest.step == 0,
    )
    return model


def load_split(directory: Path, manifest: Manifest, custom_objects: CustomObjects) -> keras.Model:
    """Rebuild the architecture and fill in the weights; the model is not compiled.

    Raises:
        ModelLoadError: If Keras cannot rebuild the model.
        FingerprintMismatchError: If a weight is not the one that was saved.
    """
    if "split" not in manifest.forms and manifest.full_format == "keras":
        # The archive also holds what layers keep in files, such as an adapted vocabulary.
        archive = directory / layout.FULL_KERAS
        model = guarded(
            lambda: keras.saving.load_model(
                archive, custom_objects=dict(custom_objects or {}), compile=False
            )
        )
    else:
        model = load_architecture(directory, custom_objects)
        with weights_path(directory, manifest) as path:
            guarded(lambda: model.load_weights(path))
    check_fingerprint(model, directory, roles=(WEIGHTS_ROLE,))
    return model


def load_architecture(directory: Path, custom_objects: CustomObjects) -> keras.Model:
    """Build the model with fresh weights, uncompiled.

    Raises:
        ModelLoadError: If Keras cannot build it.
    """
    text = (directory / layout.ARCHITECTURE_JSON).read_text("utf-8")
    return architecture.build(architecture.from_json(text), custom_objects)


def weights_path(directory: Path, manifest: Manifest) -> AbstractContextManager[Path]:
    """Give a file that `Model.load_weights` takes, made from the full form if need be."""
    if "split" in manifest.forms:
        return nullcontext(directory / layout.WEIGHTS)
    if manifest.full_format == "h5":
        return nullcontext(directory / layout.FULL_H5)
    return _ExtractedWeights(directory / layout.FULL_KERAS)


class _ExtractedWeights(AbstractContextManager[Path]):
    """The weights file inside a `.keras` archive, in a temporary directory."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Path:
        self._temporary = tempfile.TemporaryDirectory(prefix="mlflow_ckpt_")
        target = Path(self._temporary.name) / layout.WEIGHTS
        with open_weights(self._archive) as source, h5py.File(target, "w") as file:
            for name, value in source.attrs.items():
                file.attrs[name] = value
            for name in source:
                if name != OPTIMIZER_ROLE:
                    source.copy(name, file)
        return target

    def __exit__(self, *_: object) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()


def _restore_seeds(model: keras.Model, directory: Path) -> None:
    path = directory / layout.TRAINING_ARRAYS
    if not path.is_file():
        return
    with np.load(path, allow_pickle=False) as arrays:
        for name, variable in snapshot.seed_variables(model).items():
            if name in arrays and arrays[name].shape == tuple(variable.shape):
                variable.assign(arrays[name])
