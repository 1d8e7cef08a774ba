"""Trainings that follow each other, or run beside each other, in one process."""

from __future__ import annotations

import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import keras
import mlflow
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from mlflow_ckpt import MlflowCheckpoint
from mlflow_ckpt.errors import UnsupportedModelError
from tests.support.training import Metrics, Stop, StopError, fit, names, small_model
from tests.test_callback import NoConfig

on_disk = pytest.mark.usefixtures("local_store")
on_both = pytest.mark.usefixtures("store")


@on_disk
def test_a_model_that_was_trained_further_is_not_saved_into_the_run_that_broke_off() -> None:
    model = small_model()
    with (
        mlflow.start_run() as first,
        pytest.warns(UserWarning, match="trained further since"),
        MlflowCheckpoint() as ours,
    ):
        with pytest.raises(StopError):
            fit(model, ours, Stop())
        fit(model, epochs=3)
    assert names(first.info.run_id) == ["epoch_0001"]


@on_disk
def test_two_callbacks_in_one_training_put_the_signals_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    client = MlflowClient()
    experiment = client.get_run(mlflow.start_run().info.run_id).info.experiment_id
    mlflow.end_run()
    runs = [client.create_run(experiment).info.run_id for _ in range(2)]
    fit(small_model(), *(MlflowCheckpoint(run_id=run_id) for run_id in runs))
    for run_id in runs:
        assert names(run_id) == ["epoch_0001", "epoch_0002"]
    assert {number: signal.getsignal(number) for number in before} == before


@on_disk
def test_a_signal_to_a_later_training_of_somebody_else_is_not_held_back() -> None:
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the signal was held back")

    model = small_model()
    ours = MlflowCheckpoint()
    with mlflow.start_run():
        with pytest.raises(StopError):
            fit(model, ours, Stop())
        with pytest.raises(KeyboardInterrupt):
            fit(model, Interrupt())
        with pytest.warns(UserWarning, match="trained further since"), ours:
            pass


@on_disk
def test_a_model_that_is_refused_leaves_no_run_open() -> None:
    model = NoConfig(1)
    model.compile("adam", "mse", run_eagerly=True)
    with pytest.raises(UnsupportedModelError):
        fit(model, MlflowCheckpoint("loss"))
    assert mlflow.active_run() is None
    (run,) = mlflow.search_runs(output_format="list", max_results=1)
    assert run.info.status == "FAILED"


@on_both
def test_a_metric_that_mlflow_takes_no_name_of_goes_by_another() -> None:
    with (
        mlflow.start_run() as run,
        pytest.warns(
            UserWarning, match=r"rejects the metric name 'recall@10', so .* as 'recall_10'"
        ),
    ):
        fit(
            small_model(),
            Metrics("recall@10", [0.5, 0.6]),
            MlflowCheckpoint("recall@10", mode="max"),
        )
    logged = MlflowClient().get_run(run.info.run_id).data.metrics
    assert logged["recall_10"] == 0.6
    assert "loss" in logged
    assert mlflow_ckpt.get_checkpoint(run.info.run_id, "best").name == "epoch_0002"


def test_a_relative_database_is_found_from_any_directory(
    template_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").write_bytes(template_database.read_bytes())
    monkeypatch.chdir(tmp_path)
    from mlflow_ckpt._tracking.store import RunStore

    store = RunStore("0" * 32, "sqlite:///mlflow.db")
    assert store.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"


def train_in_thread(callback: MlflowCheckpoint) -> list[str]:
    """Train in another thread; return the warnings of ours."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = threading.Thread(target=fit, args=(small_model(), callback))
        thread.start()
        thread.join()
    return [str(w.message) for w in caught if "per thread" in str(w.message)]


@on_disk
def test_a_training_in_another_thread_says_where_it_logs() -> None:
    with mlflow.start_run() as active:
        (message,) = train_in_thread(MlflowCheckpoint())
        runs = mlflow.search_runs(output_format="list", max_results=2)
        (new,) = {run.info.run_id for run in runs} - {active.info.run_id}
        assert f"The run {active.info.run_id} is active in another thread" in message
        assert f"logs to a new run, {new}. " in message
        assert names(new) == ["epoch_0001", "epoch_0002"]
        assert train_in_thread(MlflowCheckpoint(run_id=active.info.run_id)) == []
        assert names(active.info.run_id) == ["epoch_0001", "epoch_0002"]
    assert train_in_thread(MlflowCheckpoint()) == [], "no run is active anywhere"
