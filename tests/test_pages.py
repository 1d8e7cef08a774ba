"""What MLflow's pages show: the description, the table, the kind of experiment."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Run, RunData, RunInfo, RunTag
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.runs import manifest_of
from devtools.stores import Store
from mlflow_ckpt import LatestN, MlflowCheckpoint
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.ui import description, pages
from tests.support.training import Metrics, fit, names, small_model, trained

NOTE = "mlflow.note.content"


def tags_of(run_id: str) -> dict[str, str]:
    return dict(MlflowClient().get_run(run_id).data.tags)


# The description


def test_the_description_names_best_and_latest_and_the_commands(store: Store) -> None:
    values = Metrics("val_loss", [0.5, 0.25, 0.75])
    with mlflow.start_run() as run:
        fit(small_model(), values, MlflowCheckpoint(), epochs=3)
    run_id = run.info.run_id
    text = tags_of(run_id)[NOTE]
    assert "### 3 checkpoints" in text
    best, latest = (line for line in text.splitlines() if "`epoch_" in line)
    assert best.startswith("| best val\\_loss | `epoch_0002` | 2 | 8 |") and "0.25" in best
    assert latest.startswith("| latest | `epoch_0003` | 3 | 12 |") and "0.75" in latest
    assert f"mlflow-ckpt restore {run_id} --checkpoint best\n" in text
    assert f"mlflow-ckpt resume {run_id} --epochs 4\n" in text
    assert f"mlflow models serve -m runs:/{run_id}/checkpoints/epoch_0002 " in text


def training_with(note: str, **arguments: object) -> tuple[str, str]:
    """Train two epochs; before the second, a person changes the description. Return both."""
    with mlflow.start_run(description="Mine.\n") as run:
        fit(small_model(), MlflowCheckpoint(), epochs=1)
    between = tags_of(run.info.run_id)[NOTE]
    MlflowClient().set_tag(run.info.run_id, NOTE, note.replace("OURS", between))
    with mlflow.start_run(run_id=run.info.run_id):
        fit(small_model(), MlflowCheckpoint(), initial_epoch=1, epochs=2)
    return between, tags_of(run.info.run_id)[NOTE]


def test_what_a_person_wrote_stays(local_store: Store) -> None:
    before, after = training_with("Before.\n\nOURS\n\nAfter.")
    assert before.startswith("Mine.\n\n[//]: #")
    assert after.startswith("Before.\n\nMine.\n\n[//]: #") and after.endswith(")\n\nAfter.")
    assert "### 1 checkpoint\n" in before and "### 2 checkpoints\n" in after


def test_what_a_person_deleted_does_not_come_back(local_store: Store) -> None:
    assert training_with("Only this.")[1] == "Only this."
    assert training_with("")[1] == ""


def test_what_a_person_edited_stays(local_store: Store) -> None:
    before, _ = training_with("OURS")
    edited = before.replace("### 1 checkpoint", "### My own words")
    assert training_with(edited)[1] == edited


def run_with(tags: Mapping[str, str]) -> Run:
    info = RunInfo("run", "1", "user", "RUNNING", 0, None, "active", "artifacts")
    return Run(info, RunData(tags=[RunTag(key, value) for key, value in tags.items()]))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_any_text_of_a_person_stays_through_any_number_of_updates(text: str) -> None:
    tags = {NOTE: text}
    for epoch in range(1, 4):
        manifests = [manifest_of("run", number) for number in range(1, epoch + 1)]
        tags |= description.description_tags(manifests, "epoch_0001", run_with(tags))
    assert text.strip() in tags[NOTE]
    assert tags[NOTE].count("mlflow_ckpt begins") == 1
    assert "### 3 checkpoints" in tags[NOTE]


def test_a_description_that_would_be_cut_is_left_alone() -> None:
    run = run_with({NOTE: "x" * 7_990})
    assert description.description_tags([manifest_of("run", 1)], None, run) == {}


def test_a_metric_s_name_cannot_break_the_table(local_store: Store) -> None:
    with (
        mlflow.start_run() as run,
        pytest.warns(UserWarning, match="MLflow rejects the metric name"),
    ):
        fit(small_model(), Metrics("a|b\n<b>", [1.0]), MlflowCheckpoint(), epochs=1)
    text = tags_of(run.info.run_id)[NOTE]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "a\\|b \\<b\\>" in text


# The table


def table(store: Store, run_id: str) -> list[dict[str, object]]:
    run = MlflowClient().get_run(run_id)
    rows = mlflow.load_table("checkpoints/index.json", run_ids=[run_id])
    assert {"path": "checkpoints/index.json", "type": "table"} in json.loads(
        run.data.tags["mlflow.loggedArtifacts"]
    )
    return rows.to_dict("records")


def test_the_table_has_all_checkpoints(store: Store) -> None:
    run_id = trained(epochs=2)
    rows = table(store, run_id)
    for row, checkpoint in zip(rows, mlflow_ckpt.list_checkpoints(run_id), strict=True):
        manifest = checkpoint.manifest
        assert row["checkpoint"] == manifest.name
        assert (row["epoch"], row["step"]) == (manifest.epoch, manifest.step)
        assert row["val_loss"] == pytest.approx(manifest.metrics["val_loss"])
        assert row["size"] == manifest.size
        assert row["weights"] == str(manifest.weights_digest)
        assert row["uri"] == checkpoint.uri
    assert [row["role"] for row in rows] == ["", "best, latest"]


def test_the_table_stays_true_after_pruning(store: Store) -> None:
    run_id = trained(epochs=4, retention=LatestN(3))
    assert [row["checkpoint"] for row in table(store, run_id)] == names(run_id)
    mlflow_ckpt.prune(run_id, LatestN(1))
    assert [row["checkpoint"] for row in table(store, run_id)] == ["epoch_0004"]
    assert "### 1 checkpoint\n" in tags_of(run_id)[NOTE]


def test_tables_of_the_user_s_own_stay_tables(local_store: Store) -> None:
    with mlflow.start_run() as run:
        mlflow.log_table({"a": [1, 2]}, "mine.json")
        fit(small_model(), MlflowCheckpoint(), epochs=1)
    artifacts = json.loads(tags_of(run.info.run_id)["mlflow.loggedArtifacts"])
    assert artifacts == [
        {"path": "mine.json", "type": "table"},
        {"path": "checkpoints/index.json", "type": "table"},
    ]


def test_values_that_json_has_no_word_for(local_store: Store) -> None:
    values = Metrics("val_loss", [float("nan"), float("-inf")])
    with mlflow.start_run() as run, pytest.warns(UserWarning, match="NaN"):
        fit(small_model(), values, MlflowCheckpoint(), epochs=2)
    rows = table(local_store, run.info.run_id)
    assert all(row["val_loss"] != row["val_loss"] or row["val_loss"] is None for row in rows)


# The experiment, and failures


def test_the_experiment_opens_with_the_views_of_model_training(store: Store) -> None:
    trained(epochs=1)
    experiment = MlflowClient().get_experiment(store.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_what_somebody_chose_for_the_experiment_stays(local_store: Store, tmp_path: Path) -> None:
    experiment = mlflow.create_experiment(
        "chosen", tmp_path.as_uri(), tags={"mlflow.experimentKind": "genai_development"}
    )
    with mlflow.start_run(experiment_id=experiment):
        fit(small_model(), MlflowCheckpoint(), epochs=1)
    chosen = MlflowClient().get_experiment(experiment)
    assert chosen.tags["mlflow.experimentKind"] == "genai_development"


def test_a_table_that_cannot_be_written_harms_no_checkpoint(
    local_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = trained(epochs=1)
    place = local_store.checkpoint_directory(run_id, "epoch_0001").parent / "index.json"
    place.unlink()
    (place / "in the way").mkdir(parents=True)
    with mlflow.start_run(run_id=run_id), caplog.at_level(logging.WARNING):
        fit(small_model(), MlflowCheckpoint(), initial_epoch=1, epochs=2)
    assert "MLflow's pages of run" in caplog.text
    assert names(run_id) == ["epoch_0001", "epoch_0002"]
    assert tags_of(run_id)["mlflow_ckpt.latest"] == "epoch_0002"


def test_refreshing_a_run_again_changes_nothing(local_store: Store) -> None:
    run_id = trained(epochs=1)
    before = tags_of(run_id)
    manifests = [checkpoint.manifest for checkpoint in mlflow_ckpt.list_checkpoints(run_id)]
    pages.refresh(RunStore(run_id), manifests, "epoch_0001")
    assert tags_of(run_id) == before
