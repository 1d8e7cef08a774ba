"""Detects MLflow's own callbacks in a training, added by autolog or by the user."""

from __future__ import annotations

from collections.abc import Iterable

import keras

_LOGGING = "MlflowCallback"
_SAVING = "MlflowModelCheckpointCallback"

DUPLICATE = (
    "MLflow's own checkpoint callback is active too, so every checkpoint is saved twice, once "
    "while training waits. Disable it: mlflow.tensorflow.autolog("
    "checkpoint=False), or MlflowModelCheckpointCallback among the callbacks."
)


def logs_epochs(callbacks: Iterable[keras.callbacks.Callback]) -> bool:
    """Whether one of MLflow's callbacks logs the metrics of every epoch to the active run."""
    return any(_is(c, _LOGGING) and getattr(c, "log_every_epoch", False) for c in callbacks)


def logs_steps(callbacks: Iterable[keras.callbacks.Callback]) -> bool:
    """Whether one of MLflow's callbacks logs metrics to the active run, every few steps."""
    return any(_is(c, _LOGGING) and getattr(c, "log_every_n_steps", None) for c in callbacks)


def saves(callbacks: Iterable[keras.callbacks.Callback]) -> bool:
    """Whether one of MLflow's callbacks saves checkpoints as well."""
    return any(_is(callback, _SAVING) for callback in callbacks)


def _is(callback: keras.callbacks.Callback, name: str) -> bool:
    # By name, because mlflow.tensorflow imports TensorFlow whatever the backend.
    return any(
        kind.__name__ == name and kind.__module__.startswith("mlflow.")
        for kind in type(callback).__mro__
    )
