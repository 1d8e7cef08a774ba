"""Inspects a live model: step, seed generators, layers, fingerprint."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.fingerprint import Fingerprint, architecture_digest
from mlflow_ckpt._model.capture import describing, stock_save
from mlflow_ckpt._model.capture.buffers import Buffers
from mlflow_ckpt._model.files.captured import CapturedState, mark_optimizers, tensors_of
from mlflow_ckpt._model.keras_private import capturing, keras_version, optimizer_internals
from mlflow_ckpt.errors import UnsupportedModelError

# Prefix of the seed generators' arrays in training_state.npz.
SEEDS = "seed_generators/"


def fingerprint(model: keras.Model) -> Fingerprint:
    """Fingerprint a live model's tensors, and its architecture if that can be described.

    Raises:
        UnsupportedModelError: If the model is not built.
    """
    tensors = fingerprint_tensors(model).tensors
    try:
        described = describing.describe(model)
    except UnsupportedModelError:
        return Fingerprint(tensors)
    return Fingerprint(tensors, architecture_digest(described))


def fingerprint_tensors(model: keras.Model) -> Fingerprint:
    """Fingerprint a live model's tensors, without its architecture.

    Raises:
        UnsupportedModelError: If the model is not built.
    """
    require_built(model)
    try:
        groups = capturing.capture_groups(model, Buffers().copy)
    except keras_version.PrivateApiError as error:
        stock_save.warn_of_fallback(error)
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as directory:
            path = Path(directory) / layout.WEIGHTS
            model.save_weights(path)
            groups = stock_save.read_groups(path)
    mark_optimizers(model, groups)
    tensors = tensors_of(groups, readable_names(model))
    return Fingerprint(tuple(tensor.fingerprint() for tensor in tensors))


def require_built(model: keras.Model) -> None:
    """Check that the model has weights.

    Raises:
        UnsupportedModelError: If the model is not built.
    """
    if not has_weights(model):
        raise UnsupportedModelError(
            f"The model {model.name!r} has no weights yet. Expected a built model: "
            "call it on data, fit it, or give it an Input."
        )


def has_weights(model: keras.Model) -> bool:
    """Whether a model is built, or its parts are.

    A model whose `train_step` calls its submodels is never built itself, as it is never called.
    """
    return bool(model.built or (model.weights and all(part.built for part in layers_of(model))))


def is_compiled(model: keras.Model) -> bool:
    """Whether `compile` was called on the model."""
    return bool(getattr(model, "compiled", False))


def step_of(model: keras.Model) -> int:
    """Return `optimizer.iterations`, or 0 for a model without an optimizer."""
    optimizer = getattr(model, "optimizer", None)
    return 0 if optimizer is None else int(keras.ops.convert_to_numpy(optimizer.iterations))


def seed_variables(model: keras.Model) -> dict[str, Any]:
    """Return the states of seed generators: variables that are neither weights nor optimizer state.

    They are named by position, because their own names change when a model is reloaded.
    """
    weights = {id(weight) for weight in model.weights}
    others = [variable for variable in model.variables if id(variable) not in weights]
    return {f"{SEEDS}{index}": variable for index, variable in enumerate(others)}


def seed_states(model: keras.Model) -> dict[str, np.ndarray[Any, Any]]:
    """Return host copies of the seed generators' states."""
    return {
        name: np.array(keras.ops.convert_to_numpy(variable), copy=True)
        for name, variable in seed_variables(model).items()
    }


def saved_variables(model: keras.Model, captured: CapturedState | None) -> list[Any]:
    """Return the variables that Keras's files, or the seed generators' states, give back.

    Args:
        model: The model.
        captured: The state that was captured from it; None if Keras's `save` was used.
    """
    if captured is not None:
        return [*captured.handed_over, *seed_variables(model).values()]
    return [*model.variables, *getattr(getattr(model, "optimizer", None), "variables", [])]


def layers_of(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the distinct layers of a model and its submodels."""
    layers: dict[int, keras.layers.Layer] = {}
    for layer in getattr(model, "layers", []):
        inside = layers_of(layer) if isinstance(layer, keras.Model) else []
        layers |= {id(item): item for item in (layer, *inside)}
    return list(layers.values())


def readable_names(model: keras.Model) -> dict[str, str]:
    """Return readable names of variables without a name in the weights file, by their path."""
    # The optimizer prefixes variables with the model's name, but not in a reloaded model.
    return {
        path: name.removeprefix(f"{model.name}_")
        for path, name in optimizer_internals.variable_names(model).items()
    }
