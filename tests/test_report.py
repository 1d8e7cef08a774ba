"""The page that `mlflow-ckpt report` writes of real runs."""

from __future__ import annotations

from pathlib import Path

import mlflow

import mlflow_ckpt
from mlflow_ckpt import report
from mlflow_ckpt.tracking.store import RunStore
from tests.conftest import TrainedRun
from tests.support.cli import run
from tests.support.stores import Store


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


def test_published_page_is_no_checkpoint(store: Store) -> None:
    with mlflow.start_run() as started:
        mlflow.log_metric("loss", 1.0, step=1)
    report.publish(RunStore(started.info.run_id))
    files = [file.path for file in RunStore(started.info.run_id).list("checkpoints")]
    assert files == ["checkpoints/report.html"]
    assert mlflow_ckpt.list_checkpoints(started.info.run_id) == []
