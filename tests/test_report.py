"""The page that `mlflow-ckpt report` writes of real runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from mlflow.entities import Metric

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt import _report
from mlflow_ckpt._format.fingerprint import Fingerprint
from mlflow_ckpt._report import gathering
from mlflow_ckpt._report import page as page_module
from mlflow_ckpt._saving import group
from mlflow_ckpt._tracking.store import RunStore
from tests.conftest import TrainedRun
from tests.support.checkpoints import flip_byte, save_run
from tests.support.cli import run
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
    assert "2 checkpoints" in with_page
    assert "<h3>loss</h3>" in with_page
    assert "RUNNING" not in with_page
    assert [checkpoint.name for checkpoint in mlflow_ckpt.list_checkpoints(run_id)] == [
        "epoch_0001",
        "epoch_0002",
    ]


def test_a_report_that_cannot_be_made_fails_no_training(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("no pen")

    monkeypatch.setattr(_report, "publish", refuse)
    with pytest.warns(
        UserWarning, match=r"report could not be created: ValueError: no pen Try again"
    ):
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
    assert "frozen on purpose, as their layers are not trainable: head" in page
    assert "head/kernel: frozen" not in page


def page_of(tmp_path: Path, *runs: str) -> str:
    file = tmp_path / "page.html"
    result = run("report", *runs, "-o", file, "--overwrite")
    assert result.exit_code == 0, result.output
    return file.read_text(encoding="utf-8")


def test_a_tensor_that_training_does_not_move(local_store: Store, tmp_path: Path) -> None:
    class PutBack(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            model.get_layer("hidden").kernel.assign(kernel)

    model = small_model()
    kernel = model.get_layer("hidden").kernel.numpy()
    with mlflow.start_run() as started:
        fit(model, PutBack(), mlflow_ckpt.MlflowCheckpoint(), epochs=3)
    page = page_of(tmp_path, started.info.run_id)
    assert "hidden/kernel: frozen, unchanged from epoch 1 to 3" in page
    assert "head/kernel: frozen" not in page


def test_it_shows_how_far_weights_moved(local_store: Store, tmp_path: Path) -> None:
    one = page_of(tmp_path, trained(epochs=1))
    assert "relative update since the last checkpoint" not in one
    run_id = trained(epochs=2)
    page = page_of(tmp_path, run_id)
    assert page.count("relative update since the last checkpoint") == 4
    tensors = RunStore(run_id).read("checkpoints/epoch_0002/fingerprint.json")
    assert tensors is not None
    moved = Fingerprint.from_json(tensors).tensors[0].update_norm
    assert f"{moved:.4g}</td>" in page


def test_the_axes_count_what_the_run_counts(local_store: Store, tmp_path: Path) -> None:
    inside = page_of(tmp_path, trained(epochs=1, save_freq=1, monitor="loss"))
    assert ">epoch</text>" not in inside
    run_id = trained(epochs=2)
    with mlflow.start_run(run_id=run_id):
        for batch in range(30):
            mlflow.log_metric("of_each_batch", 1 / (batch + 1), step=batch)
        mlflow.log_metric("weights/hidden/kernel/norm", 1.0, step=1)
    page = page_of(tmp_path, run_id)
    assert ">epoch</text>" in page
    assert "<h3>of_each_batch</h3>" in page
    assert "<h3>weights/" not in page, "drawn from the fingerprints"


def test_two_runs_of_different_architectures(local_store: Store, tmp_path: Path) -> None:
    one, other = (trained(small_model(units=units), epochs=1) for units in (3, 5))
    page = page_of(tmp_path, one, other)
    assert "Architectures: what differs" in page
    assert "<td>hidden</td><td>changed config.units</td><td>3</td><td>5</td>" in page
    assert "what differs" not in page_of(tmp_path, one, one)


def test_what_is_left_out_is_said(
    local_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = trained(epochs=4)
    monkeypatch.setattr(gathering, "MOST_FINGERPRINTS", 2)
    monkeypatch.setattr(gathering, "MOST_DRAWN", 3)
    monkeypatch.setattr(gathering, "MOST_METRICS", 1)
    page = page_of(tmp_path, run_id)
    assert "Weight statistics are of 2 of 4 checkpoints, spread evenly." in page
    assert "Charts of weights are of the 3 largest of 4 tensors." in page
    assert "Curves are of the first 1 of 4 metrics." in page
    monkeypatch.setattr(page_module, "MOST_BYTES_OF_CHARTS", 50_000)
    assert "Charts of weights are of the 1 largest of 4 tensors." in page_of(tmp_path, run_id)


@pytest.mark.parametrize("spoil", [Path.unlink, flip_byte])
def test_a_fingerprint_that_is_not_the_saved_one_is_named(
    spoil: Callable[[Path], None], local_store: Store, tmp_path: Path
) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    spoil(local_store.checkpoint_directory(run_id, "epoch_0001") / "fingerprint.json")
    assert (
        ">Weights of a checkpoint are left out: fingerprint.json of epoch_0001 is missing or was "
        f"altered. See what else is: mlflow-ckpt verify ckpt:/{run_id}/epoch_0001<"
    ) in page_of(tmp_path, run_id)


def test_by_itself_it_is_drawn_after_long_trainings(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def has_page(run_id: str) -> bool:
        return RunStore(run_id).read("checkpoints/report.html") is not None

    assert not has_page(trained(epochs=1))
    monkeypatch.setattr(group, "_LONG_SECONDS", 0)
    assert has_page(trained(epochs=1))
    assert not has_page(trained(epochs=1, report=False))


@pytest.mark.long
def test_300_tensors_100_checkpoints_and_400_points_fit_into_two_megabytes(
    local_store: Store, tmp_path: Path
) -> None:
    layers = [keras.layers.Dense(2) for _ in range(150)]
    model = keras.Sequential([keras.Input((2,)), *layers, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((8, 2), "float32")
    with mlflow.start_run() as started:
        checkpoints = mlflow_ckpt.MlflowCheckpoint(monitor="loss", forms=("split",), report=True)
        model.fit(x, x[:, :1], epochs=100, verbose=0, callbacks=[checkpoints])
    run_id = started.info.run_id
    published = RunStore(run_id).read("checkpoints/report.html")
    assert published is not None
    assert len(published) < 2_000_000
    points = [Metric("accuracy", 1 - 1 / (step + 1), 0, step) for step in range(400)]
    mlflow.MlflowClient().log_batch(run_id, metrics=points)
    assert len(page_of(tmp_path, run_id, run_id).encode()) < 2_000_000


def test_published_page_is_no_checkpoint(store: Store) -> None:
    with mlflow.start_run() as started:
        mlflow.log_metric("loss", 1.0, step=1)
    _report.publish(RunStore(started.info.run_id))
    files = [file.path for file in RunStore(started.info.run_id).list("checkpoints")]
    assert files == ["checkpoints/report.html"]
    assert mlflow_ckpt.list_checkpoints(started.info.run_id) == []
