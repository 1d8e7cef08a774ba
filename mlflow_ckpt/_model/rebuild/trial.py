"""Loads a checkpoint on trial, as another process would, apart from the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._model import keras_private
from mlflow_ckpt._model.capture import code
from mlflow_ckpt._model.rebuild import model_loader
from mlflow_ckpt.errors import MlflowCkptError, UnknownObjectError

_Load = Callable[[Path, Manifest, Mapping[str, Any]], keras.Model]


@dataclass(frozen=True)
class Conditions:
    """What loading depends on in the process that trains.

    Attributes:
        settings: Keras's settings of the training thread.
        objects: The user's classes and functions in the model, by name.
    """

    settings: Mapping[str, Any]
    objects: Mapping[str, Any]

    @classmethod
    def of(cls, model: keras.Model) -> Conditions:
        """Return the conditions of the current thread, which trains the model."""
        return cls(
            keras_private.thread_settings(),
            {item.__name__: item for item in code.used_by(model)},
        )


def try_loading(directory: Path, manifest: Manifest, conditions: Conditions) -> str | None:
    """Load a checkpoint without effect on the training; return what is wrong, as sentences.

    Must not run on the thread that trains.

    Args:
        directory: The checkpoint's files.
        manifest: Its manifest.
        conditions: As on the training thread.

    Returns:
        What does not load, why, and what does; None if all loads.
    """
    loaders = {"full": model_loader.load_full, "split": model_loader.load_split}
    with keras_private.apart_from_training(conditions.settings):
        needed: dict[str, Any] = {}
        form = "full" if manifest.full_file is not None else "split"
        error = _error_of(loaders[form], directory, manifest, conditions, needed)
        if error is None:
            return _ask_for(manifest, needed) if needed else None
        whole = "will not load"
        other = ""
        if form == "full":
            needed.clear()
            if _error_of(model_loader.load_split, directory, manifest, conditions, needed) is None:
                whole = "will not load with its compile settings and optimizer"
                other = (
                    " load_model(…, form='split') loads the rest."
                    if not needed
                    else f" load_model(…, form='split', {_custom_objects(needed)}) loads the rest."
                )
        if "restore(model" in str(error):  # it says already what loads
            return f"{manifest.name} {whole}. {error}"
        return (
            f"{manifest.name} {whole}. {error}{other} To resume, build and compile the model with "
            "the same code, and call restore(model, …)."
        )


def _error_of(
    load: _Load,
    directory: Path,
    manifest: Manifest,
    conditions: Conditions,
    needed: dict[str, Any],
) -> MlflowCkptError | None:
    """Load with as few custom objects as possible, which are added to `needed`."""
    while True:
        try:
            load(directory, manifest, needed)
        except UnknownObjectError as error:
            name = error.name.rpartition(">")[2]
            if name in needed or name not in conditions.objects:
                return error
            needed[name] = conditions.objects[name]
        except MlflowCkptError as error:
            return error
        else:
            return None


def _ask_for(manifest: Manifest, needed: Mapping[str, Any]) -> str:
    return (
        f"{manifest.name} loads only with {_custom_objects(needed)}, because Keras finds these by "
        "name: register them with keras.saving.register_keras_serializable, or pass them to "
        "load_model and resume."
    )


def _custom_objects(needed: Mapping[str, Any]) -> str:
    pairs = ", ".join(f"{name!r}: {name}" for name in needed)
    return f"custom_objects={{{pairs}}}"
