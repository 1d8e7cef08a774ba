"""What MLflow's pages show: the description, the table, the kind of experiment."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Run, RunData, RunInfo, RunTag
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.runs import manifest_of
from devtools.stores import Store, current
from mlflow_ckpt import LatestN, MlflowCheckpoint
from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.ui import description, pages
from tests.support.checkpoints import save_run, tiny_model
from tests.support.training import BATCHES, Metrics, X, fit, names, new_run, small_model

NOTE = "mlflow.note.content"


def tags_of(run_id: str) -> dict[str, str]:
    return dict(MlflowClient().get_run(run_id).data.tags)


def save(run_id: str, epoch: int) -> None:
    """Save a checkpoint that is better than those before."""
    with CheckpointSaver(RunStore(run_id)) as saver:
        saver.save(
            tiny_model(),
            CheckpointName("epoch", epoch),
            epoch=epoch,
            metrics={"val_loss": 1 / epoch},
            monitor=Monitor("val_loss", "min"),
            best=True,
        )


@dataclass(frozen=True)
class Trained:
    """A run with three epochs, the second of which is the best. Read it, never change it."""

    store: Store
    run_id: str


@pytest.fixture(scope="module", params=["sqlite_store", "server"])
def trained_on(request: pytest.FixtureRequest) -> Trained:
    """The run on each kind of store in turn."""
    store = request.getfixturevalue(request.param)
    values = Metrics("val_loss", [0.5, 0.25, 0.75])
    with current(store), mlflow.start_run() as run:
        fit(small_model(), values, MlflowCheckpoint(), epochs=3)
    return Trained(store, run.info.run_id)


@pytest.fixture
def once(trained_on: Trained) -> Iterator[Trained]:
    """The run, with its store as MLflow's current one."""
    with current(trained_on.store):
        yield trained_on


# The description


def test_the_description_names_best_and_latest_and_the_commands(once: Trained) -> None:
    run_id = once.run_id
    text = tags_of(run_id)[NOTE]
    assert "### 3 checkpoints" in text
    best, latest = (line for line in text.splitlines() if "`epoch_" in line)
    row = f"| best val\\_loss | `epoch_0002` | 2 | {2 * BATCHES} |"
    assert best.startswith(row) and "0.25" in best
    row = f"| latest | `epoch_0003` | 3 | {3 * BATCHES} |"
    assert latest.startswith(row) and "0.75" in latest
    assert f"mlflow-ckpt restore {run_id} --checkpoint best\n" in text
    assert f"mlflow-ckpt resume {run_id} --epochs 4\n" in text
    assert f"mlflow models serve -m runs:/{run_id}/checkpoints/epoch_0002 " in text


def saving_with(change: Callable[[str], str]) -> tuple[str, str]:
    """Save two epochs; in between, a person changes the description. Return it before and after."""
    run_id = new_run()
    MlflowClient().set_tag(run_id, NOTE, "Mine.\n")
    save(run_id, 1)
    before = tags_of(run_id)[NOTE]
    MlflowClient().set_tag(run_id, NOTE, change(before))
    save(run_id, 2)
    return before, tags_of(run_id)[NOTE]


def test_what_a_person_wrote_stays(local_store: Store) -> None:
    before, after = saving_with(lambda ours: f"Before.\n\n{ours}\n\nAfter.")
    assert before.startswith("Mine.\n\n[//]: #")
    assert after.startswith("Before.\n\nMine.\n\n[//]: #") and after.endswith(")\n\nAfter.")
    assert "### 1 checkpoint\n" in before and "### 2 checkpoints\n" in after


def test_what_a_person_deleted_does_not_come_back(local_store: Store) -> None:
    assert saving_with(lambda _: "Only this.")[1] == "Only this."
    assert saving_with(lambda _: "")[1] == ""


def test_what_a_person_edited_stays(local_store: Store) -> None:
    def edited(ours: str) -> str:
        assert "### 1 checkpoint" in ours
        return ours.replace("### 1 checkpoint", "### My own words")

    before, after = saving_with(edited)
    assert after == edited(before)


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
        values = Metrics("a|b\n<b>", [1.0])
        fit(small_model(), values, MlflowCheckpoint(), epochs=1, batch_size=len(X))
    text = tags_of(run.info.run_id)[NOTE]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "a\\|b\\\\n&lt;b&gt;" in text


# The table


def table(run_id: str) -> list[dict[str, object]]:
    run = MlflowClient().get_run(run_id)
    rows = mlflow.load_table("checkpoints/index.json", run_ids=[run_id])
    assert {"path": "checkpoints/index.json", "type": "table"} in json.loads(
        run.data.tags["mlflow.loggedArtifacts"]
    )
    return rows.to_dict("records")


def test_the_table_has_all_checkpoints(once: Trained) -> None:
    rows = table(once.run_id)
    for row, checkpoint in zip(rows, mlflow_ckpt.list_checkpoints(once.run_id), strict=True):
        manifest = checkpoint.manifest
        assert row["checkpoint"] == manifest.name
        assert (row["epoch"], row["step"]) == (manifest.epoch, manifest.step)
        assert row["val_loss"] == pytest.approx(manifest.metrics["val_loss"])
        assert row["size"] == manifest.size
        assert row["weights"] == str(manifest.weights_digest)
        assert row["uri"] == checkpoint.uri
    assert [row["role"] for row in rows] == ["", "best", "latest"]


def test_the_table_stays_true_after_pruning(store: Store) -> None:
    values = Metrics("val_loss", [0.5, 0.25, 0.125])
    with mlflow.start_run() as run:
        callback = MlflowCheckpoint(retention=LatestN(2))
        fit(small_model(), values, callback, epochs=3, batch_size=len(X), validation_data=None)
    run_id = run.info.run_id
    rows = table(run_id)
    assert [row["checkpoint"] for row in rows] == names(run_id) == ["epoch_0002", "epoch_0003"]
    assert [row["role"] for row in rows] == ["", "best, latest"]
    mlflow_ckpt.prune(run_id, LatestN(1))
    assert [row["checkpoint"] for row in table(run_id)] == ["epoch_0003"]
    assert "### 1 checkpoint\n" in tags_of(run_id)[NOTE]


def test_tables_of_the_user_s_own_stay_tables(local_store: Store) -> None:
    with mlflow.start_run() as run:
        mlflow.log_table({"a": [1, 2]}, "mine.json")
        save(run.info.run_id, 1)
    artifacts = json.loads(tags_of(run.info.run_id)["mlflow.loggedArtifacts"])
    assert artifacts == [
        {"path": "mine.json", "type": "table"},
        {"path": "checkpoints/index.json", "type": "table"},
    ]


def test_values_that_json_has_no_word_for(local_store: Store) -> None:
    values = Metrics("val_loss", [float("nan"), float("-inf")])
    with mlflow.start_run() as run, pytest.warns(UserWarning, match="NaN"):
        fit(small_model(), values, MlflowCheckpoint(), validation_data=None, batch_size=len(X))
    rows = table(run.info.run_id)
    assert len(rows) == 2
    assert all(row["val_loss"] != row["val_loss"] or row["val_loss"] is None for row in rows)


# The experiment, and failures


def test_the_experiment_opens_with_the_views_of_model_training(once: Trained) -> None:
    experiment = MlflowClient().get_experiment(once.store.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_what_somebody_chose_for_the_experiment_stays(local_store: Store, tmp_path: Path) -> None:
    experiment = mlflow.create_experiment(
        "chosen", tmp_path.as_uri(), tags={"mlflow.experimentKind": "genai_development"}
    )
    with mlflow.start_run(experiment_id=experiment) as run:
        save(run.info.run_id, 1)
    chosen = MlflowClient().get_experiment(experiment)
    assert chosen.tags["mlflow.experimentKind"] == "genai_development"


def test_a_table_that_cannot_be_written_harms_no_checkpoint(
    local_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = save_run()
    place = local_store.checkpoint_directory(run_id, "epoch_0001").parent / "index.json"
    place.unlink()
    (place / "in the way").mkdir(parents=True)
    with mlflow.start_run(run_id=run_id), caplog.at_level(logging.WARNING):
        fit(small_model(), MlflowCheckpoint(), initial_epoch=1, epochs=2, batch_size=len(X))
    assert "MLflow's pages of run" in caplog.text
    assert names(run_id) == ["epoch_0001", "epoch_0002"]
    assert tags_of(run_id)["mlflow_ckpt.latest"] == "epoch_0002"


def test_refreshing_a_run_again_changes_nothing(local_store: Store) -> None:
    run_id = save_run()
    before = tags_of(run_id)
    manifests = [checkpoint.manifest for checkpoint in mlflow_ckpt.list_checkpoints(run_id)]
    pages.refresh(RunStore(run_id), manifests, "epoch_0001")
    assert tags_of(run_id) == before
