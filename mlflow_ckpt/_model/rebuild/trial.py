"""Loads a checkpoint on trial, as another process would, apart from the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._model.capture import census, code
from mlflow_ckpt._model.keras_private import trial_thread
from mlflow_ckpt._model.rebuild import model_loader
from mlflow_ckpt._model.rebuild.put_back import PutBack
from mlflow_ckpt.errors import MlflowCkptError, UnknownObjectError

_Load = Callable[..., keras.Model]


@dataclass(frozen=True)
class Conditions:
    """What loading depends on in the process that trains.

    Attributes:
        settings: Keras's settings of the training thread.
        objects: The user's classes and functions in the model, by name.
        shared: All that the model consists of, by id: a rebuilt model may use some of it, such as a
            generator of the user's module, which must stay as it is.
    """

    settings: Mapping[str, Any]
    objects: Mapping[str, Any]
    shared: Mapping[int, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: keras.Model) -> Conditions:
        """Return the conditions of the current thread, which trains the model."""
        return cls(
            trial_thread.thread_settings(),
            {item.__name__: item for item in code.used_by(model)},
            census.survey(model).by_id(),
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
    loaders: dict[str, _Load] = {"full": model_loader.load_full, "split": model_loader.load_split}
    with trial_thread.apart_from_training(conditions.settings):
        needed: dict[str, Any] = {}
        lost: list[str] = []
        form = "full" if manifest.full_file is not None else "split"
        error = _error_of(loaders[form], directory, manifest, conditions, needed, lost)
        if error is None:
            sentences = [_ask_for(manifest, needed)] if needed else []
            if lost:
                sentences.append(f"{manifest.name} does not load as it was: {'; '.join(lost)}.")
            return " ".join(sentences) or None
        whole = "will not load"
        other = ""
        if form == "full":
            needed.clear()
            split = model_loader.load_split
            if _error_of(split, directory, manifest, conditions, needed, lost) is None:
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
    lost: list[str],
) -> MlflowCkptError | None:
    """Load with as few custom objects as possible, which are added to `needed`.

    Phrases that describe state which could not be put back are added to `lost`.
    """
    while True:
        put_back = PutBack(conditions.shared)
        try:
            load(directory, manifest, needed, put_back=put_back)
        except UnknownObjectError as error:
            name = error.name.rpartition(">")[2]
            if name in needed or name not in conditions.objects:
                return error
            needed[name] = conditions.objects[name]
        except MlflowCkptError as error:
            return error
        else:
            lost += put_back.lost
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
