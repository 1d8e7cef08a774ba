"""A training that takes a fraction of a second."""

from __future__ import annotations

import os
from typing import Any

import keras
import mlflow
import numpy as np

import mlflow_ckpt

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(24, 4)).astype("float32")
Y = (X[:, :1] - X[:, 1:2]).astype("float32")
BATCH = 8
BATCHES = len(X) // BATCH


def new_run() -> str:
    """Create an empty run in MLflow's current experiment, and return its id."""
    run = mlflow.MlflowClient().create_run(os.environ["MLFLOW_EXPERIMENT_ID"])
    return str(run.info.run_id)


def small_model(units: int = 3, outputs: int = 1, **settings: Any) -> keras.Model:
    """Return a compiled model of two layers, the same at every call."""
    keras.utils.set_random_seed(11)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(units, activation="tanh", name="hidden"),
            keras.layers.Dense(outputs, name="head"),
        ]
    )
    # Tracing a graph takes longer than these few steps.
    settings = {"loss": "mse", "metrics": ["mae"], "run_eagerly": True, **settings}
    model.compile(**{"optimizer": keras.optimizers.SGD(0.05, momentum=0.5), **settings})
    return model


def fit(model: keras.Model, *callbacks: keras.callbacks.Callback, **settings: Any) -> None:
    """Train for two epochs of three batches, with validation."""
    model.fit(
        X,
        Y,
        **{
            "batch_size": BATCH,
            "epochs": 2,
            "verbose": 0,
            "validation_data": (X, Y),
            "validation_batch_size": len(X),
            "callbacks": list(callbacks),
            **settings,
        },
    )


def trained(model: keras.Model | None = None, *, epochs: int = 2, **arguments: Any) -> str:
    """Train a model in a new run, and return the run's id."""
    with mlflow.start_run() as run:
        fit(model or small_model(), mlflow_ckpt.MlflowCheckpoint(**arguments), epochs=epochs)
    return str(run.info.run_id)


class Metrics(keras.callbacks.Callback):
    """Replaces the metrics that Keras reports, epoch by epoch."""

    def __init__(self, name: str, values: list[float]) -> None:
        super().__init__()
        self.name = name
        self.values = values

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs is not None
        logs[self.name] = self.values[epoch]


class StopError(Exception):
    """What `Stop` raises."""


class Stop(keras.callbacks.Callback):
    """Raises an exception when the second epoch begins."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise StopError


def names(run_id: str) -> list[str]:
    """Return the names of a run's checkpoints, oldest first."""
    return [checkpoint.name for checkpoint in mlflow_ckpt.list_checkpoints(run_id)]
