"""A row of MLflow's Models table for each checkpoint, linked to the run's own points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store, current, free_port
from mlflow_ckpt import LatestN, MlflowCheckpoint
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking.spool import sending
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.ui import logged_models
from mlflow_ckpt.errors import CheckpointExistsError, TrackingUnavailableError
from tests.support import cli
from tests.support.proxy import Proxy
from tests.support.training import Metrics, X, fit, names, new_run, small_model, trained

# For a training whose batches and validation no test looks at.
SHORT: dict[str, Any] = {"batch_size": len(X), "validation_data": None}


def rows(run_id: str) -> dict[str, LoggedModel]:
    """The rows of a run's checkpoints, by name."""
    run = MlflowClient().get_run(run_id)
    models = mlflow.search_logged_models(
        [run.info.experiment_id],
        filter_string=f"source_run_id = '{run_id}' AND model_type = 'checkpoint'",
        output_format="list",
    )
    assert len({row.name for row in models}) == len(models)
    return {row.name: row for row in models}


def curve(run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(p.step, p.value) for p in MlflowClient().get_metric_history(run_id, metric)]


@dataclass(frozen=True)
class Trained:
    """A run with three epochs, the second of which is the best. Read it, never change it.

    Attributes:
        store: Where the run is.
        run_id: Its id.
        history: What Keras reported, each metric epoch by epoch.
    """

    store: Store
    run_id: str
    history: dict[str, list[float]]


@pytest.fixture(scope="module", params=["sqlite_store", "server"])
def trained_on(request: pytest.FixtureRequest) -> Trained:
    """The run on each kind of store in turn."""
    store = request.getfixturevalue(request.param)
    model = small_model()
    with current(store), mlflow.start_run() as run:
        fit(model, Metrics("val_loss", [0.5, 0.25, 0.75]), MlflowCheckpoint(), epochs=3)
    return Trained(store, run.info.run_id, model.history.history)


@pytest.fixture
def once(trained_on: Trained) -> Iterator[Trained]:
    """The run, with its store as MLflow's current one."""
    with current(trained_on.store):
        yield trained_on


def saved() -> str:
    """Save a checkpoint in a new run, with its point of the curve; return the run's id."""
    run_id = new_run()
    with CheckpointSaver(RunStore(run_id)) as saver:
        saver.log_metrics({"loss": 0.5}, 1)
        saver.save(small_model(), "epoch_0001", epoch=1, metrics={"loss": 0.5})
    return run_id


def test_every_checkpoint_is_a_row_with_its_metrics(once: Trained) -> None:
    run_id = once.run_id
    models = rows(run_id)
    assert sorted(models) == ["epoch_0001", "epoch_0002", "epoch_0003"]
    for checkpoint in mlflow_ckpt.list_checkpoints(run_id):
        row, manifest = models[checkpoint.name], checkpoint.manifest
        assert row.status == LoggedModelStatus.READY
        assert row.source_run_id == run_id
        assert row.tags["mlflow_ckpt.artifact_path"] == checkpoint.artifact_path
        assert row.tags["mlflow_ckpt.weights_digest"] == str(manifest.weights_digest)
        assert row.params == {"epoch": str(manifest.epoch), "step": str(manifest.step)}
        assert {m.key: m.value for m in row.metrics} == dict(manifest.metrics)
    outputs = MlflowClient().get_run(run_id).outputs.model_outputs
    expected = {row.model_id: int(row.params["epoch"]) for row in models.values()}
    assert {output.model_id: output.step for output in outputs} == expected


def test_the_curves_have_every_point_once(once: Trained) -> None:
    assert once.history.keys() == {"loss", "mae", "val_loss", "val_mae"}
    for metric, values in once.history.items():
        assert curve(once.run_id, metric) == list(enumerate(values, 1))


def test_a_store_of_files_has_every_point_once_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    with current(Store(uri, tmp_path, MlflowClient(uri).create_experiment("tests"))):
        run_id = trained(epochs=2)
        assert [step for step, _ in curve(run_id, "loss")] == [1, 2]
        assert {row.status for row in rows(run_id).values()} == {LoggedModelStatus.READY}
        assert mlflow_ckpt.verify(run_id).ok


def test_the_best_one_is_found_by_its_metric(once: Trained) -> None:
    (best,) = mlflow.search_logged_models(
        [once.store.experiment_id],
        filter_string=f"source_run_id = '{once.run_id}'",
        order_by=[{"field_name": "metrics.val_loss", "ascending": True}],
        max_results=1,
        output_format="list",
    )
    assert best.name == "epoch_0002"


def test_metrics_that_are_not_finite(local_store: Store) -> None:
    values = Metrics("val_loss", [float("nan"), float("inf"), 0.5])
    with mlflow.start_run() as run, pytest.warns(UserWarning, match="NaN"):
        fit(small_model(), values, MlflowCheckpoint(), epochs=3, **SHORT)
    models = rows(run.info.run_id)
    assert all(row.status == LoggedModelStatus.READY for row in models.values())
    metrics = {name: {m.key: m.value for m in row.metrics} for name, row in models.items()}
    assert metrics["epoch_0003"]["val_loss"] == 0.5
    assert [step for step, _ in curve(run.info.run_id, "val_loss")] == [1, 2, 3]


def test_metrics_under_names_that_mlflow_does_not_take(local_store: Store) -> None:
    values = Metrics("top@5", [0.5])
    with mlflow.start_run() as run, pytest.warns(UserWarning, match="top_5"):
        fit(small_model(), values, MlflowCheckpoint(), epochs=1, batch_size=len(X))
    (row,) = rows(run.info.run_id).values()
    assert {m.key: m.value for m in row.metrics}["top_5"] == 0.5


def test_where_no_metrics_are_logged_none_are_linked(local_store: Store) -> None:
    run_id = trained(epochs=1, log_metrics=False)
    (row,) = rows(run_id).values()
    assert row.status == LoggedModelStatus.READY
    assert row.metrics in (None, [])
    assert MlflowClient().get_run(run_id).data.metrics == {}


def test_rows_of_removed_checkpoints_go(store: Store) -> None:
    with mlflow.start_run() as run:
        callback = MlflowCheckpoint(retention=LatestN(2))
        fit(small_model(), Metrics("val_loss", [0.5, 0.25, 0.125]), callback, epochs=3, **SHORT)
    run_id = run.info.run_id
    assert set(rows(run_id)) == set(names(run_id)) == {"epoch_0002", "epoch_0003"}
    mlflow_ckpt.prune(run_id, LatestN(1))
    assert set(rows(run_id)) == set(names(run_id)) == {"epoch_0003"}


def spooled(run_id: str, *, bias: float) -> None:
    """Leave a checkpoint `epoch_0001` in the spool."""
    model = small_model()
    model.get_layer("head").bias.assign(np.array([bias], "float32"))
    with CheckpointSaver(RunStore(run_id)) as saver:
        saver.save(model, "epoch_0001", epoch=1, metrics={"val_loss": bias})


@pytest.fixture
def proxy(http_store: Store) -> Iterator[Proxy]:
    proxy = Proxy(http_store.uri)
    yield proxy
    proxy.close()


def test_an_upload_that_fails_for_good_is_a_failed_row(
    http_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = new_run()
    spooled(run_id, bias=1.0)
    with pytest.raises(CheckpointExistsError):
        spooled(run_id, bias=2.0)
    experiment = MlflowClient().get_run(run_id).info.experiment_id
    models = mlflow.search_logged_models(
        [experiment], filter_string=f"source_run_id = '{run_id}'", output_format="list"
    )
    states = {row.tags["mlflow_ckpt.weights_digest"]: row.status for row in models}
    (published,) = mlflow_ckpt.list_checkpoints(run_id)
    digest = str(published.manifest.weights_digest)
    assert states.pop(digest) == LoggedModelStatus.READY
    assert list(states.values()) == [LoggedModelStatus.FAILED]
    for entry in Spool.default().entries(run_id):
        Spool.default().remove(entry)


def test_a_row_is_pending_until_the_manifest_is_there(
    http_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = new_run()
    seen: list[tuple[LoggedModelStatus, bool]] = []
    announce = sending.publishing.announce

    def look(store: RunStore) -> None:
        listed = {item.path for item in store.list("checkpoints/epoch_0001")}
        status = rows(run_id)["epoch_0001"].status
        seen.append((status, "checkpoints/epoch_0001/manifest.json" in listed))

    def announcing(store: RunStore, *arguments: object) -> object:
        look(store)
        announced = announce(store, *arguments)  # type: ignore[arg-type]
        look(store)
        return announced

    monkeypatch.setattr(sending.publishing, "announce", announcing)
    spooled(run_id, bias=1.0)
    assert seen == [(LoggedModelStatus.PENDING, True), (LoggedModelStatus.READY, True)]


def test_a_second_attempt_takes_the_same_row(
    http_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = saved()
    (before,) = rows(run_id).values()
    store = RunStore(run_id)
    (checkpoint,) = mlflow_ckpt.list_checkpoints(run_id)
    model_id = logged_models.begin(store, checkpoint.manifest)
    assert model_id == before.model_id
    logged_models.complete(store, checkpoint.manifest, model_id, store.current_run())
    (after,) = rows(run_id).values()
    assert after.status == LoggedModelStatus.READY
    assert [m.value for m in after.metrics] == [m.value for m in before.metrics] == [0.5]
    assert len(curve(run_id, "loss")) == 1
    assert len(MlflowClient().get_run(run_id).outputs.model_outputs) == 1


def test_a_server_that_is_older_than_logged_models(proxy: Proxy, http_store: Store) -> None:
    proxy.only, proxy.mode = "models", "old"
    with current(Store(proxy.uri, http_store.artifacts, http_store.experiment_id)):
        run_id = trained(epochs=2)
        assert names(run_id) == ["epoch_0001", "epoch_0002"]
        mlflow_ckpt.prune(run_id, LatestN(1))
        assert names(run_id) == ["epoch_0002"]
        assert mlflow_ckpt.verify(run_id).ok
    assert rows(run_id) == {}
    assert len(curve(run_id, "loss")) == 2


def test_a_server_that_went_is_no_reason_to_give_a_row_up(
    once: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = once.run_id
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    checkpoint = mlflow_ckpt.get_checkpoint(run_id)
    store = RunStore(run_id, f"http://127.0.0.1:{free_port()}")
    store.__dict__["run"] = RunStore(run_id).run
    with pytest.raises(TrackingUnavailableError):
        logged_models.begin(store, checkpoint.manifest)
    with pytest.raises(TrackingUnavailableError):
        logged_models.remove(store, [checkpoint.name])


def test_flush_makes_the_row_of_what_waited(http_store: Store, tmp_path: Path) -> None:
    run_id = saved()
    (row,) = rows(run_id).values()
    MlflowClient().delete_logged_model(row.model_id)
    store = RunStore(run_id)
    (checkpoint,) = mlflow_ckpt.list_checkpoints(run_id)
    spool = Spool.default()
    spool.put(run_id, tracking_uri=store.tracking_uri, kind="announcement", name=checkpoint.name)
    assert cli.run("flush", run_id).exit_code == 0
    (again,) = rows(run_id).values()
    assert again.status == LoggedModelStatus.READY
