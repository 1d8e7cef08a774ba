"""The page that `mlflow-ckpt report` writes of real runs."""

from __future__ import annotations

from pathlib import Path

import keras
import mlflow
import pytest

import mlflow_ckpt
from mlflow_ckpt import report
from mlflow_ckpt.tracking.store import RunStore
from tests.conftest import TrainedRun
from tests.support.cli import run
from tests.support.stores import Store
from tests.support.training import fit, small_model, trained


def test_page_of_a_trained_run(trained_run: TrainedRun, tmp_path: Path) -> None:
    file, uri = tmp_path / "page.html", trained_run.store.uri
    result = run(
        "report", trained_run.run_id, trained_run.run_id, "-o", file, "--tracking-uri", uri
    )
    assert result.exit_code == 0, result.output
    page = file.read_text(encoding="utf-8")
    assert f"{trained_run.model.layers[0].name}/kernel" in page
    assert "histogram, latest checkpoint" in page
    assert "#010f" not in page
    assert len(page) < 2_000_000
    again = run("report", trained_run.run_id, "-o", file, "--tracking-uri", uri)
    assert again.exit_code == 6
    assert file.read_text(encoding="utf-8") == page


def test_run_with_a_hostile_name_and_no_checkpoints(store: Store, tmp_path: Path) -> None:
    with mlflow.start_run(run_name="<script>alert(1)</script>") as started:
        pass
    result = run("report", started.info.run_id, "-o", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "The run has no checkpoints" in page
    assert "No metrics were logged" in page


def test_the_callback_publishes_it_when_training_has_ended(store: Store) -> None:
    run_id = trained(epochs=2, report=True)
    with_page = mlflow.artifacts.load_text(f"runs:/{run_id}/checkpoints/report.html")
    assert "hidden/kernel" in with_page
    # Points of all epochs: two of the loss, and a tick for each checkpoint.
    assert "2 checkpoints" in with_page
    assert [found.name for found in mlflow_ckpt.list_checkpoints(run_id)] == [
        "epoch_0001",
        "epoch_0002",
    ]


def test_a_report_that_cannot_be_made_fails_no_training(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("no pen")

    monkeypatch.setattr(report, "publish", refuse)
    with pytest.warns(UserWarning, match=r"report could not be made: ValueError: no pen Try again"):
        run_id = trained(epochs=1, report=True)
    assert mlflow.get_run(run_id).info.status == "FINISHED"


def test_nan_dead_and_frozen_weights_are_called_out(local_store: Store, tmp_path: Path) -> None:
    model = small_model()
    model.get_layer("head").trainable = False
    model.get_layer("head").bias.assign([0.0])
    model.compile("sgd", "mse", run_eagerly=True)

    class Spoil(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            if epoch == 1:
                model.get_layer("hidden").bias.assign([float("nan")] * 3)

    with mlflow.start_run() as started, pytest.warns(UserWarning, match="DIVERGED"):
        fit(model, Spoil(), mlflow_ckpt.MlflowCheckpoint(), epochs=2)
    result = run("report", started.info.run_id, "-o", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "hidden/bias: NaN from epoch 2" in page
    assert "head/bias: dead, all zeros" in page


def test_published_page_is_no_checkpoint(store: Store) -> None:
    with mlflow.start_run() as started:
        mlflow.log_metric("loss", 1.0, step=1)
    report.publish(RunStore(started.info.run_id))
    files = [file.path for file in RunStore(started.info.run_id).list("checkpoints")]
    assert files == ["checkpoints/report.html"]
    assert mlflow_ckpt.list_checkpoints(started.info.run_id) == []
