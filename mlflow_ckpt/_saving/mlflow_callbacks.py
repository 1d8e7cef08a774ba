"""MLflow's own callbacks in the same training: from autolog, or put there by the user."""

from __future__ import annotations

from collections.abc import Iterable

import keras

_LOGGING = "MlflowCallback"
_SAVING = "MlflowModelCheckpointCallback"

DUPLICATE = (
    "MLflow's own checkpoint callback takes part in the training as well, so every checkpoint is "
    "saved twice, once while training waits. Leave it out: mlflow.tensorflow.autolog("
    "checkpoint=False), or MlflowModelCheckpointCallback among the callbacks."
)


def logs_epochs(callbacks: Iterable[keras.callbacks.Callback]) -> bool:
    """Whether one of MLflow's callbacks logs the metrics of each epoch to the active run."""
    return any(
        _is(each, _LOGGING) and getattr(each, "log_every_epoch", False) for each in callbacks
    )


def saves(callbacks: Iterable[keras.callbacks.Callback]) -> bool:
    """Whether one of MLflow's callbacks saves checkpoints as well."""
    return any(_is(each, _SAVING) for each in callbacks)


def _is(callback: keras.callbacks.Callback, name: str) -> bool:
    # By name: mlflow.tensorflow imports TensorFlow, whatever the backend.
    return any(
        kind.__name__ == name and kind.__module__.startswith("mlflow.")
        for kind in type(callback).__mro__
    )
