"""What Keras asks of its own ModelCheckpoint and BackupAndRestore, asked of MlflowCheckpoint.

Where the answer is another one, docs/saving.md says so.
"""

from __future__ import annotations

from typing import Any

import keras
import mlflow
import numpy as np
import pytest

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt import MlflowCheckpoint
from mlflow_ckpt.errors import CheckpointNotFoundError, InvalidArgumentError
from tests.support.training import BATCHES, Metrics, X, Y, fit, names, small_model

pytestmark = pytest.mark.usefixtures("local_store")
LOSSES = [0.5, 0.4, 0.6, 0.3]
FALLS_AND_RISES = ["epoch_0001", "epoch_0002", "epoch_0004"]
ALL = [f"epoch_{epoch:04d}" for epoch in (1, 2, 3, 4)]


def saved(
    metric: str, values: list[float], settings: dict[str, Any] | None = None, **arguments: Any
) -> list[str]:
    """Train for as many epochs as there are values of a metric; return what was saved."""
    callback = MlflowCheckpoint(metric, test_load=False, **arguments)
    with mlflow.start_run() as run:
        fit(
            small_model(),
            Metrics(metric, values),
            callback,
            **{"epochs": len(values), "validation_data": None, **(settings or {})},
        )
    return names(run.info.run_id)


@pytest.mark.parametrize(
    ("metric", "mode", "expected"),
    [
        ("val_loss", "auto", FALLS_AND_RISES),
        ("val_loss", "min", FALLS_AND_RISES),
        ("val_accuracy", "max", ["epoch_0001", "epoch_0003"]),
        ("val_accuracy", "auto", ["epoch_0001", "epoch_0003"]),
        ("val_auc", "auto", ["epoch_0001", "epoch_0003"]),
    ],
)
def test_only_the_best_is_saved(metric: str, mode: str, expected: list[str]) -> None:
    assert saved(metric, LOSSES, mode=mode, save_best_only=True) == expected


def test_without_save_best_only_every_epoch_is_saved() -> None:
    assert saved("val_loss", LOSSES) == ALL


def test_an_unknown_mode_is_taken_for_auto() -> None:
    with pytest.warns(UserWarning, match="'auto' is used"):
        assert saved("val_loss", LOSSES, mode="unknown", save_best_only=True) == FALLS_AND_RISES


def test_a_number_of_batches_is_counted_across_epochs() -> None:
    steps = saved("loss", LOSSES, save_freq=2 * BATCHES - 1)
    assert steps == [f"step_{step:08d}" for step in (5, 10)]


@pytest.mark.parametrize("save_freq", ["epoch", 1, 3])
def test_a_save_freq_that_is_valid(save_freq: str | int) -> None:
    MlflowCheckpoint(save_freq=save_freq)


@pytest.mark.parametrize("save_freq", ["invalid_save_freq", 0, -1, 0.5])
def test_a_save_freq_that_is_not(save_freq: Any) -> None:
    with pytest.raises(ValueError, match="Unrecognized save_freq"):
        MlflowCheckpoint(save_freq=save_freq)


@pytest.mark.parametrize(
    ("metric", "mode", "threshold", "expected"),
    [
        ("val_loss", "auto", 0.45, ["epoch_0002", "epoch_0004"]),
        ("val_loss", "min", 0.0, []),
        ("val_loss", "auto", 0.0, []),
        ("val_accuracy", "max", 0.55, ["epoch_0003"]),
        ("val_accuracy", "auto", 1.0, []),
        ("val_auc", "auto", 1.0, []),
    ],
)
def test_the_first_best_must_beat_a_threshold(
    metric: str, mode: str, threshold: float, expected: list[str]
) -> None:
    settings: dict[str, Any] = {"mode": mode, "initial_value_threshold": threshold}
    assert saved(metric, LOSSES, save_best_only=True, **settings) == expected


def test_a_metric_that_is_not_available_is_warned_of_and_all_is_saved() -> None:
    """Keras's callback saves nothing then."""
    with pytest.warns(UserWarning, match="'unknown' was not reported"), mlflow.start_run() as run:
        fit(small_model(), MlflowCheckpoint("unknown", save_best_only=True))
    assert names(run.info.run_id) == ["epoch_0001", "epoch_0002"]


def test_a_metric_of_unknown_direction_must_be_told() -> None:
    """Keras's callback takes the lowest value for the best."""
    with pytest.raises(InvalidArgumentError, match="Pass mode='min' or mode='max'"):
        saved("score", LOSSES, save_best_only=True)


def test_what_was_saved_loads_and_evaluates_as_the_model_did() -> None:
    model = small_model()
    with mlflow.start_run() as run:
        fit(model, MlflowCheckpoint("loss", forms=("full", "split")))
    expected = model.evaluate(X, Y, verbose=0)
    again, twin = mlflow_ckpt.load_model(run.info.run_id), small_model()
    mlflow_ckpt.load_weights(twin, run.info.run_id)
    assert again.evaluate(X, Y, verbose=0) == expected
    assert twin.evaluate(X, Y, verbose=0) == expected


class InterruptError(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    """Breaks the training off after a step, or after an epoch."""

    def __init__(self, step: int | None = None, epoch: int | None = None) -> None:
        super().__init__()
        self.step, self.epoch = step, epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if int(self.model.optimizer.iterations.numpy()) == self.step:
            raise InterruptError

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.epoch:
            raise InterruptError


def interrupted(interrupt: Interrupt, **arguments: Any) -> tuple[str, list[Any]]:
    """Train until the interruption; return the run, and the weights as they were then."""
    model, callback = small_model(), MlflowCheckpoint("loss", **arguments)
    with mlflow.start_run() as run, pytest.raises(InterruptError), callback:
        fit(model, interrupt, callback, epochs=4, validation_data=None)
    return str(run.info.run_id), [weight.numpy() for weight in model.weights]


@pytest.mark.parametrize(
    ("interrupt", "arguments", "initial"),
    [
        (Interrupt(step=BATCHES + 2), {"save_freq": 2}, (1, 2)),
        (Interrupt(epoch=2), {}, (2, 0)),
    ],
    ids=["by step", "by epoch"],
)
def test_an_interrupted_training_goes_on_where_it_was(
    interrupt: Interrupt, arguments: dict[str, Any], initial: tuple[int, int]
) -> None:
    run_id, weights = interrupted(interrupt, **arguments)
    point = mlflow_ckpt.resume(run_id, in_place=True)
    assert (point.initial_epoch, point.initial_batch) == initial
    for expected, weight in zip(weights, point.model.weights, strict=True):
        assert np.array_equal(expected, weight.numpy())
    fit(point.model, *point.callbacks, initial_epoch=initial[0], epochs=4, validation_data=None)
    whole = small_model()
    fit(whole, MlflowCheckpoint("loss", test_load=False), epochs=4, validation_data=None)
    for expected, weight in zip(whole.weights, point.model.weights, strict=True):
        assert np.array_equal(expected.numpy(), weight.numpy())


def test_a_damaged_backup_is_passed_over(local_store: Store) -> None:
    run_id, _ = interrupted(Interrupt(epoch=2))
    directory = local_store.checkpoint_directory(run_id, "epoch_0002")
    (directory / "data" / "model.keras").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="Resuming from epoch_0001, the newest valid checkpoint"):
        assert mlflow_ckpt.resume(run_id).initial_epoch == 1


def test_without_a_backup_there_is_nothing_to_resume() -> None:
    """Keras's callback begins anew then."""
    with mlflow.start_run() as run:
        pass
    with pytest.raises(CheckpointNotFoundError):
        mlflow_ckpt.resume(run.info.run_id)


def test_the_place_of_a_backup_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match="run_id"):
        MlflowCheckpoint(run_id="")
