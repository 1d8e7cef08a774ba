"""What a person sees of a run's checkpoints on MLflow's pages, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import mlflow
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store, current
from mlflow_ckpt import MlflowCheckpoint
from tests.support.training import BATCHES, Metrics, fit, small_model

support = pytest.importorskip("devtools.browser")
pytestmark = pytest.mark.skipif(
    not support.is_installed(), reason="chromium and chromedriver are not installed"
)
MODEL_TRAINING = "workflowType=machine_learning"


@pytest.fixture(scope="module")
def window() -> Iterator[support.Browser]:
    # Wide, because the pages draw only those columns of a table that are in sight.
    with support.browser(width=2800) as opened:
        yield opened


@pytest.fixture(scope="module")
def experiment(server: Store) -> str:
    """An experiment of its own: long tables show what is in sight only."""
    return str(MlflowClient(server.uri).create_experiment("pages"))


@pytest.fixture(scope="module")
def run_id(server: Store, experiment: str) -> str:
    """A run of three epochs, the second of which is the best."""
    with current(server), mlflow.start_run(experiment_id=experiment) as run:
        values = Metrics("val_loss", [0.5, 0.25, 0.75])
        fit(small_model(), values, MlflowCheckpoint(report=True), epochs=3)
    return str(run.info.run_id)


@pytest.fixture(scope="module")
def page(server: Store, experiment: str) -> str:
    """Address of the experiment's pages."""
    return f"{server.uri}/#/experiments/{experiment}"


def test_the_run_s_page_describes_its_checkpoints(
    window: support.Browser, page: str, run_id: str
) -> None:
    window.open(f"{page}/runs/{run_id}", "Description", "Logged models (3)", "Show more")
    window.click("Show more")
    text = window.wait_for("Show less")
    assert "mlflow_ckpt begins" not in text
    assert "3 checkpoints\n" in text
    assert f"best val_loss epoch_0002 2 {2 * BATCHES}" in text
    assert f"latest epoch_0003 3 {3 * BATCHES}" in text
    assert f"mlflow-ckpt resume {run_id} --epochs 4" in text
    listed = text[text.index("Logged models (3)") :]
    for epoch in (1, 2, 3):
        assert f"Output\n{epoch}\n" in listed
        assert f"epoch_000{epoch}\nReady" in listed


def test_the_description_leads_to_the_models_table(
    window: support.Browser, page: str, run_id: str
) -> None:
    window.open(f"{page}/runs/{run_id}", "Show more")
    window.click("Show more")
    window.wait_for("Models table")
    link = window.driver.find_element("link text", "Models table").get_attribute("href")
    text = window.open(link, "Model name", "epoch_0003\nReady", "val_loss")
    assert "epoch_0001\nReady" in text
    assert "0.25" in text


def test_the_model_training_pages_list_the_run(
    window: support.Browser, page: str, run_id: str
) -> None:
    name = MlflowClient(page.partition("/#")[0]).get_run(run_id).info.run_name
    text = window.open(f"{page}?{MODEL_TRAINING}", name)
    assert "Model registry" in text


def test_the_artifacts_are_a_tree_with_a_readable_manifest(
    window: support.Browser, page: str, run_id: str, server: Store
) -> None:
    address = f"{page}/runs/{run_id}/artifacts/checkpoints/epoch_0002/manifest.json"
    text = window.open(address, "fingerprint.json", "weights_digest")
    for name in ("MLmodel", "architecture.json", "training_state.json", "requirements.txt"):
        assert name in text
    with current(server):
        checkpoint = mlflow_ckpt.get_checkpoint(run_id, 2)
    assert str(checkpoint.manifest.weights_digest) in text


def test_the_table_shows_all_checkpoints(window: support.Browser, page: str, run_id: str) -> None:
    address = f"{page}/runs/{run_id}/artifacts/checkpoints/index.json"
    text = window.open(address, "View as table", "best", "latest")
    rows = text[text.index("val_loss") :]
    assert [f"epoch_000{epoch}\n{epoch}\n{BATCHES * epoch}\n" in rows for epoch in (1, 2, 3)] == [
        True
    ] * 3
    assert f"runs:/{run_id}/checkpoints/epoch_0002" in rows


def test_the_report_is_drawn_on_the_artifact_s_page(
    window: support.Browser, page: str, run_id: str
) -> None:
    window.open(f"{page}/runs/{run_id}/artifacts/checkpoints/report.html", "report.html")
    window.frame()
    text = window.wait_for("Training curves", "Weights over the epochs", "hidden/kernel")
    assert "3 checkpoints" in text
    curves = text[text.index("Training curves") : text.index("Weights over the epochs")]
    assert "val_loss" in curves
    assert "mae" in curves
    assert "relative update since the last checkpoint" in text
    assert "histogram, latest checkpoint" in text
    assert "Environment and lineage" in text
    assert len(window.driver.find_elements("tag name", "svg")) > 5
    window.leave_frame()


def test_mlflow_s_charts_draw_norms_and_updates_of_weights(
    window: support.Browser, page: str, experiment: str, server: Store
) -> None:
    with current(server), mlflow.start_run(experiment_id=experiment) as run:
        fit(small_model(), MlflowCheckpoint(weight_metrics=True), epochs=3)
    window.open(f"{page}/runs/{run.info.run_id}/model-metrics", "weights/hidden/kernel")
    # What is further down is drawn when it comes into sight.
    text = window.wait_for("weights/head/kernel/norm", "weights/head/kernel/update")
    assert "weights/hidden/kernel\n(2)" in text


def test_the_curve_has_each_epoch_once(window: support.Browser, page: str, run_id: str) -> None:
    window.open(f"{page}/runs/{run_id}/model-metrics", "val_loss", "val_mae")
    points = "return Array.from(document.querySelectorAll('.js-plotly-plot'), plot => "
    points += "[plot.layout.yaxis.title?.text ?? '', ...plot.data.map(line => Array.from(line.x))])"
    support.WebDriverWait(window.driver, 60).until(
        lambda driver: any(1 in xs for plot in driver.execute_script(points) for xs in plot[1:])
    )
    drawn = [xs for plot in window.driver.execute_script(points) for xs in plot[1:] if xs]
    assert drawn
    assert all(xs == [1, 2, 3] for xs in drawn)
