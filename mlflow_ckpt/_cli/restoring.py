"""Write the files of a checkpoint in the formats of stock Keras, and verify them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.fingerprint import WEIGHTS_ROLE, Fingerprint, read_fingerprint
from mlflow_ckpt._format.weights_file import damaged_tensors, has_assets
from mlflow_ckpt._tracking.find import OpenedCheckpoint
from mlflow_ckpt.errors import FingerprintMismatchError, InvalidArgumentError, UnsupportedModelError

if TYPE_CHECKING:
    import keras

FILES = {"keras": "model.keras", "h5": "model.h5", "saved_model": "saved_model"}


def write_full(
    opened: OpenedCheckpoint,
    staging: Path,
    file_format: str | None,
    custom_objects: Mapping[str, Any],
) -> int:
    """Write one file that holds everything, or a SavedModel.

    Args:
        opened: The checkpoint.
        staging: The directory to write to.
        file_format: `"keras"`, `"h5"` or `"saved_model"`; None keeps the saved one, byte for byte.
        custom_objects: Classes and functions by name.

    Returns:
        The number of tensors that equal the fingerprint.

    Raises:
        InvalidArgumentError: If the backend cannot make a SavedModel.
        FingerprintMismatchError: If the file does not hold what was saved.
        ModelError: If Keras cannot rebuild the model.
    """
    from mlflow_ckpt._model.capture import stock_save
    from mlflow_ckpt._model.rebuild import model_loader

    directory, manifest = opened.directory, opened.manifest
    file_format = file_format or str(manifest.full_format)
    # Rebuilding proves that the file works in this environment, not only that it is intact.
    model = model_loader.load_full(directory, manifest, custom_objects)
    path = staging / FILES[file_format]
    fingerprint = read_fingerprint(directory)
    if file_format == manifest.full_format:
        shutil.copyfile(directory / str(manifest.full_file), path)
    elif file_format == "saved_model":
        _export(model, path)
    else:
        stock_save.save_stock(model, path)
        _prove(path, fingerprint)
    return len(fingerprint.tensors)


def write_split(opened: OpenedCheckpoint, staging: Path, custom_objects: Mapping[str, Any]) -> int:
    """Write only the weights. Arguments, result and other errors as in `write_full`.

    Raises:
        UnsupportedModelError: If layers store files, which the split form does not hold.
    """
    from mlflow_ckpt._model.rebuild import model_loader

    directory, manifest = opened.directory, opened.manifest
    model = model_loader.load_split(directory, manifest, custom_objects)
    if manifest.full_format == "keras" and has_assets(directory / layout.FULL_KERAS):
        raise UnsupportedModelError(
            "The model has layers that store files besides their weights, such as an adapted "
            "vocabulary, which the split form does not hold. Restore it with --form full."
        )
    path = staging / layout.WEIGHTS
    if "split" in manifest.forms:
        shutil.copyfile(directory / layout.WEIGHTS, path)
    else:
        model.save_weights(path)
    weights = Fingerprint(read_fingerprint(directory).of_role(WEIGHTS_ROLE))
    _prove(path, weights)
    return len(weights.tensors)


def _export(model: keras.Model, path: Path) -> None:
    import keras

    if keras.config.backend() != "tensorflow":
        raise InvalidArgumentError(
            "A SavedModel can be made with Keras's TensorFlow backend only. Received: "
            f"{keras.config.backend()}. Set KERAS_BACKEND=tensorflow, or restore as --format keras."
        )
    model.export(path, format="tf_saved_model", verbose=False)


def _prove(path: Path, fingerprint: Fingerprint) -> None:
    """Raise unless the tensors in a file match a fingerprint."""
    differing = damaged_tensors(path, {t.name: t.digest for t in fingerprint.tensors})
    if differing:
        raise FingerprintMismatchError(
            f"{path.name} does not hold what was saved: {', '.join(differing[:5])} differ. "
            "Keras cannot store this model in that format; restore it as --format keras.",
            tensors=differing,
        )
