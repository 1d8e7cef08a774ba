"""Saves with Keras's own `save`: legacy HDF5, and the fallback if Keras's private API changed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras

from mlflow_ckpt._format.text import first_line
from mlflow_ckpt._format.weights_file import open_weights
from mlflow_ckpt._model.files.captured import Group
from mlflow_ckpt._model.files.hdf5 import LaidOutFile, laid_out, native
from mlflow_ckpt._model.keras_private import (
    compiled_model,
    keras_version,
    messages_of_keras,
    saving_code,
    trial_thread,
)
from mlflow_ckpt.errors import UnsupportedModelError


def warn_of_fallback(error: Exception) -> None:
    """Warn that saving falls back to Keras's public API, which is slower."""
    if trial_thread.is_apart():
        return  # the training has warned of it
    tested = " and ".join(keras_version.TESTED_WITH)
    warnings.warn(
        f"Keras {keras.__version__} saves models differently from Keras {tested}, which "
        f"this mlflow_ckpt was tested with ({error}); falling back to Keras's public API, which is "
        "slower.",
        stacklevel=3,
    )


def save_h5(model: keras.Model, workspace: Callable[[], Path]) -> Path | LaidOutFile:
    """Save a live model in the legacy HDF5 format, laid out in memory if possible.

    Args:
        model: A built model.
        workspace: Returns a directory for the file, used if it cannot be laid out in memory.

    Raises:
        UnsupportedModelError: If Keras cannot save this model in that format.
    """
    try:
        with laid_out() as (file, laid):
            saving_code.save_legacy_h5(model, file)
    except keras_version.PrivateApiError as error:
        warn_of_fallback(error)
        return save_stock(model, workspace() / "model.h5")
    except (NotImplementedError, TypeError, ValueError) as error:
        raise _unsupported(model, ".h5", error) from error
    finally:
        compiled_model.repair_compile_settings(model)
    return laid


def save_stock(model: keras.Model, path: Path) -> Path:
    """Save a live model with Keras's `save`, in the format of the suffix of `path`.

    Raises:
        UnsupportedModelError: If Keras cannot save this model in that format.
    """
    try:
        with messages_of_keras.ignoring_legacy_format():
            model.save(path)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise _unsupported(model, path.suffix, error) from error
    finally:
        compiled_model.repair_compile_settings(model)
    return path


def _unsupported(model: keras.Model, suffix: str, error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"Keras cannot save the model {model.name!r} as {suffix}: {first_line(error)}"
    )


def read_groups(archive: Path) -> list[Group]:
    """Read the groups from a file that Keras wrote, if they cannot be captured from the model."""
    groups: list[Group] = []

    def visit(path: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and path.rpartition("/")[2] == "vars":
            group = Group(path.rpartition("/vars")[0], item.attrs.get("name"))
            for key in sorted(item, key=lambda key: (len(key), key)):
                group.arrays[key] = native(item[key])
            groups.append(group)

    with open_weights(archive) as file:
        file.visititems(visit)
    return groups
