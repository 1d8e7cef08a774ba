"""Loads models some of whose layers were quantized, or given LoRA adapters, after they were built.

The configuration of a layer has this, but that of a model class of one's own, or of a layer such as
`MultiHeadAttention`, has not: the model that is built from it lacks the adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras

from mlflow_ckpt._model.capture import structure
from mlflow_ckpt._model.capture.census import ADAPTATION
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._model.keras_private import layer_adapters, saving_code
from mlflow_ckpt._model.rebuild.guarded import guarded


def load(
    state: TrainingState,
    architecture: Callable[[], keras.Model],
    archive: Path,
    known: Mapping[str, Any] | None,
) -> keras.Model | None:
    """Load a model from a `.keras` archive; None if Keras itself can.

    Args:
        state: The training's state.
        architecture: Builds the model with fresh weights.
        archive: The archive.
        known: Classes and functions by name, to compile the model with; None to not compile it.
    """
    if not any(held["kind"] == ADAPTATION for held in state.state):
        return None
    model = architecture()
    if not adapt(model, state):
        return None

    def fill() -> None:
        if known is not None and state.compile_config is not None:
            with keras.saving.custom_object_scope(dict(known)):
                model.compile_from_config(state.compile_config)
        saving_code.load_archive_into(model, archive)

    guarded(fill)
    return model


def adapt(model: keras.Model, state: TrainingState) -> bool:
    """Adapt the layers of a new model as those of the saved one; return whether any was not."""
    wanted = [held for held in state.state if held["kind"] == ADAPTATION]
    lacking = [held for held in wanted if not _has(model, held)]
    for held in lacking:
        layer = structure.resolve(model, held["path"])
        guarded(partial(layer_adapters.adapt, layer, held["value"]))
    return bool(lacking)


def _has(model: keras.Model, held: Mapping[str, Any]) -> bool:
    """Whether a layer of a new model is adapted as the saved one was, or cannot be."""
    try:
        now = layer_adapters.adaptation_of(structure.resolve(model, held["path"])) or {}
    except structure.MissingPathError:
        return True
    return all(now.get(key) == held["value"][key] for key in ("quantized", "rank"))
