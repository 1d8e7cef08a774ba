"""Checkpoints inside an epoch: `save_freq` in batches."""

from __future__ import annotations

from typing import Any

import keras
import mlflow
import numpy as np
import pytest

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt.errors import CheckpointExistsError

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")


def regression(optimizer: keras.optimizers.Optimizer | str = "adam", **options: int) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", **options)
    return model


def saved(run_id: str) -> list[tuple[str, int]]:
    checkpoints = mlflow_ckpt.list_checkpoints(run_id)
    return [(checkpoint.name, checkpoint.manifest.epoch) for checkpoint in checkpoints]


def test_a_save_on_the_last_batch_counts_the_epoch_as_completed(local_store: Store) -> None:
    callback = mlflow_ckpt.MlflowCheckpoint(monitor="loss", save_freq=2)
    with mlflow.start_run() as run:
        regression().fit(X, X[:, :1], batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    assert saved(run.info.run_id) == [
        ("step_00000002", 0),
        ("step_00000004", 1),
        ("step_00000006", 1),
        ("step_00000008", 2),
    ]


def test_accumulated_gradients_are_saved_when_they_make_a_step(local_store: Store) -> None:
    model = regression(keras.optimizers.Adam(gradient_accumulation_steps=4))
    callback = mlflow_ckpt.MlflowCheckpoint(monitor="loss", save_freq=2)
    with mlflow.start_run() as run:
        model.fit(X, X[:, :1], batch_size=2, verbose=0, callbacks=[callback])
    assert saved(run.info.run_id) == [("step_00000001", 0), ("step_00000002", 1)]


def test_a_model_that_counts_no_steps_is_told_so_once(local_store: Store) -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def build(self, shape):
            self.dense.build(shape)

        def call(self, x):
            return self.dense(x)

        def get_config(self):
            return {}

        def train_step(self, data):
            x, y = data
            return {"loss": keras.ops.mean((self(x) - y) ** 2)}

    model = Own()
    model.build((None, 4))
    model.compile("adam")
    callback = mlflow_ckpt.MlflowCheckpoint(monitor="loss", save_freq=1)
    x = np.zeros((70, 4), "float32")
    with mlflow.start_run() as run, pytest.warns(UserWarning, match="made no step in") as caught:
        model.fit(x, x[:, :1], batch_size=1, verbose=0, callbacks=[callback])
    assert saved(run.info.run_id) == []
    assert sum("made no step" in str(warning.message) for warning in caught) == 1


# A training that is refused does not wait for what its run has still to send.
@pytest.mark.filterwarnings("ignore:NOT EVERYTHING OF RUN")
def test_steps_that_the_run_holds_are_not_written_again(local_store: Store) -> None:
    def callback() -> mlflow_ckpt.MlflowCheckpoint:
        return mlflow_ckpt.MlflowCheckpoint(monitor="loss", save_freq=1)

    with mlflow.start_run() as run:
        regression().fit(X, X[:, :1], batch_size=8, verbose=0, callbacks=[callback()])
        back = mlflow_ckpt.load_model(run.info.run_id, "step:1")
        before = mlflow_ckpt.fingerprint(back).weights_digest
        with pytest.raises(CheckpointExistsError, match="up to step 2, but this training starts"):
            back.fit(X, X[:, :1], initial_epoch=1, epochs=2, verbose=0, callbacks=[callback()])
    assert mlflow_ckpt.fingerprint(back).weights_digest == before, "refused before its first step"


class Scores(keras.callbacks.Callback):
    """Replaces the validation's result, epoch by epoch."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs and "val_loss" in logs:
            logs["val_loss"] = self.values[epoch]


def best_by_validation(save_freq: int | str, *scores: float, **settings: Any) -> list[str]:
    """Train four batches an epoch; return the names of the checkpoints."""
    callback = mlflow_ckpt.MlflowCheckpoint(save_best_only=True, save_freq=save_freq)
    with mlflow.start_run() as run:
        regression().fit(
            X, X[:, :1], batch_size=4, epochs=len(scores), verbose=0,
            validation_data=(X, X[:, :1]), callbacks=[Scores(*scores), callback], **settings,
        )  # fmt: skip
    assert callback.best == min(scores)
    return [name for name, _ in saved(run.info.run_id)]


def test_the_best_by_validation_waits_for_the_validation(local_store: Store) -> None:
    assert best_by_validation(3, 3.0, 4.0, 2.0) == ["step_00000004", "step_00000012"]


def test_the_best_by_validation_waits_where_not_every_epoch_has_one(local_store: Store) -> None:
    scores, every_second = (9.0, 3.0, 9.0, 2.0), {"validation_freq": 2}
    assert best_by_validation(3, *scores, **every_second) == ["step_00000008", "step_00000016"]
    assert best_by_validation("epoch", *scores, **every_second) == ["epoch_0002", "epoch_0004"]


def test_a_checkpoint_that_waits_is_not_forgotten_on_resume(local_store: Store) -> None:
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 2:
                raise KeyboardInterrupt

    callback = mlflow_ckpt.MlflowCheckpoint(save_best_only=True, save_freq=2)
    data = {"batch_size": 4, "verbose": 0, "validation_data": (X, X[:, :1])}
    with mlflow.start_run() as run, pytest.raises(KeyboardInterrupt), callback:
        regression().fit(X, X[:, :1], **data, callbacks=[callback, Interrupt()])
    assert saved(run.info.run_id) == [("step_00000003", 0)]
    point = mlflow_ckpt.resume(run.info.run_id, in_place=True)
    point.model.fit(X, X[:, :1], **data, callbacks=point.callbacks)
    assert saved(run.info.run_id) == [("step_00000003", 0), ("step_00000004", 1)]


def test_without_validation_every_checkpoint_is_saved(local_store: Store) -> None:
    callback = mlflow_ckpt.MlflowCheckpoint(save_best_only=True, save_freq=3)
    with mlflow.start_run() as run, pytest.warns(UserWarning, match="every checkpoint is saved"):
        regression().fit(X, X[:, :1], batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    assert saved(run.info.run_id) == [("step_00000004", 1), ("step_00000008", 2)]


def test_batches_may_be_told_late_where_checkpoints_are_saved_by_epoch() -> None:
    """Keras's loop need not wait for the hook at each batch."""
    assert mlflow_ckpt.MlflowCheckpoint().async_safe
    assert not mlflow_ckpt.MlflowCheckpoint(save_freq=5).async_safe
