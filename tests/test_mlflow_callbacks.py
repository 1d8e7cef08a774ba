"""Beside MLflow's own callbacks: no metric twice, and a hint where both save checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import mlflow
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt import MlflowCheckpoint
from tests.support.training import BATCH, BATCHES, X, Y, fit, names, small_model


def keras_autolog(**settings: bool) -> None:
    mlflow.keras.autolog(silent=True, log_models=False, log_datasets=False, **settings)


def tensorflow_autolog(**settings: bool) -> None:
    mlflow.tensorflow.autolog(silent=True, log_models=False, log_datasets=False, **settings)


@pytest.fixture
def autolog(request: pytest.FixtureRequest) -> Iterator[None]:
    start: Callable[..., None] = request.param
    start(**({"checkpoint": False} if start is tensorflow_autolog else {}))
    yield
    start(disable=True)


def points(run_id: str, metric: str) -> list[int]:
    return [point.step for point in MlflowClient().get_metric_history(run_id, metric)]


def train(*callbacks: object) -> str:
    with mlflow.start_run() as run:
        small_model().fit(
            X, Y, batch_size=BATCH, epochs=3, verbose=0, validation_data=(X, Y),
            callbacks=[*callbacks, MlflowCheckpoint()],
        )  # fmt: skip
    mlflow.flush_async_logging()
    return str(run.info.run_id)


def linked_metrics(run_id: str) -> dict[str, dict[str, float]]:
    """The metrics of the run's rows in the Models table, by the rows' names."""
    run = MlflowClient().get_run(run_id)
    rows = mlflow.search_logged_models(
        [run.info.experiment_id],
        filter_string=f"source_run_id = '{run_id}' AND model_type = 'checkpoint'",
        output_format="list",
    )
    return {row.name: {m.key: m.value for m in row.metrics} for row in rows}


def require_metrics_once(run_id: str) -> None:
    assert names(run_id) == ["epoch_0001", "epoch_0002", "epoch_0003"]
    for metric in ("loss", "mae", "val_loss", "val_mae"):
        assert points(run_id, metric) == [0, 1, 2], "as MLflow's own callback counts them"
    linked = linked_metrics(run_id)
    for checkpoint in mlflow_ckpt.list_checkpoints(run_id):
        assert linked[checkpoint.name] == pytest.approx(dict(checkpoint.manifest.metrics))


@pytest.mark.parametrize("autolog", [keras_autolog, tensorflow_autolog], indirect=True)
def test_beside_autolog(autolog: None, store: Store) -> None:
    require_metrics_once(train())


def test_beside_a_callback_of_mlflow_s(store: Store) -> None:
    require_metrics_once(train(mlflow.keras.MlflowCallback()))


def test_metrics_of_a_run_that_the_callback_does_not_log_to_are_logged(local_store: Store) -> None:
    other = MlflowClient().create_run(local_store.experiment_id).info.run_id
    with mlflow.start_run() as active:
        fit(small_model(), mlflow.keras.MlflowCallback(), MlflowCheckpoint(run_id=other))
    mlflow.flush_async_logging()
    assert points(other, "loss") == [1, 2]
    assert points(active.info.run_id, "loss") == [0, 1]


def test_a_hint_where_mlflow_saves_checkpoints_as_well(local_store: Store) -> None:
    own = mlflow.tensorflow.MlflowModelCheckpointCallback(save_best_only=False)
    with mlflow.start_run() as run, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(small_model(), own, MlflowCheckpoint())
    hints = [str(warning.message) for warning in caught if "saved twice" in str(warning.message)]
    assert len(hints) == 1 and "mlflow.tensorflow.autolog(checkpoint=False)" in hints[0]
    assert names(run.info.run_id) == ["epoch_0001", "epoch_0002"]


def test_beside_a_callback_that_logs_by_steps_each_has_its_curves(store: Store) -> None:
    theirs = mlflow.keras.MlflowCallback(log_every_epoch=False, log_every_n_steps=1)
    run_id = train(theirs)
    assert points(run_id, "loss") == points(run_id, "mae") == list(range(1, 3 * BATCHES + 1))
    for metric in ("epoch_loss", "epoch_mae", "val_loss", "val_mae"):
        assert points(run_id, metric) == [1, 2, 3]
    history = MlflowClient().get_metric_history(run_id, "epoch_loss")
    checkpoints = mlflow_ckpt.list_checkpoints(run_id)
    assert [c.manifest.metrics["loss"] for c in checkpoints] == [m.value for m in history]
    rows = linked_metrics(run_id)
    assert rows["epoch_0002"]["epoch_loss"] == pytest.approx(history[1].value)
    assert "loss" not in rows["epoch_0002"]


def test_the_names_of_such_curves_stay_on_resume(local_store: Store) -> None:
    run_id = train(mlflow.keras.MlflowCallback(log_every_epoch=False, log_every_n_steps=2))
    point = mlflow_ckpt.resume(run_id, in_place=True)
    fit(point.model, *point.callbacks, initial_epoch=3, epochs=5, batch_size=BATCH)
    assert points(run_id, "epoch_loss") == [1, 2, 3, 4, 5]
    assert points(run_id, "loss") == [2, 4, 6, 8]


@pytest.mark.parametrize("autolog", [keras_autolog], indirect=True)
@pytest.mark.parametrize("active", [False, True])
def test_autolog_in_a_run_that_goes_on(autolog: None, active: bool, local_store: Store) -> None:
    model = small_model()
    model.fit(X, Y, batch_size=BATCH, epochs=2, verbose=0, callbacks=[MlflowCheckpoint("loss")])
    (run,) = mlflow.search_runs(output_format="list", max_results=1)
    run_id, before = run.info.run_id, len(mlflow.search_runs(output_format="list"))
    with mlflow.start_run(run_id=run_id) if active else nullcontext():
        point = mlflow_ckpt.resume(run_id, in_place=True)
        point.model.fit(
            X, Y, batch_size=BATCH, verbose=0, epochs=4, initial_epoch=2, callbacks=point.callbacks
        )
    mlflow.flush_async_logging()
    assert mlflow.active_run() is None
    assert names(run_id) == [f"epoch_{epoch:04d}" for epoch in (1, 2, 3, 4)]
    assert points(run_id, "loss") == [0, 1, 2, 3]
    assert MlflowClient().get_run(run_id).info.status == "FINISHED"
    assert len(mlflow.search_runs(output_format="list")) == before, "no run was added"


@pytest.mark.parametrize("autolog", [keras_autolog], indirect=True)
def test_autolog_in_a_child_of_the_run(autolog: None, local_store: Store) -> None:
    run_id = train()
    point = mlflow_ckpt.resume(run_id)
    point.model.fit(
        X, Y, batch_size=BATCH, verbose=0, epochs=4, initial_epoch=3, validation_data=(X, Y),
        callbacks=point.callbacks,
    )  # fmt: skip
    (child,) = mlflow.search_runs(output_format="list", max_results=1)
    assert names(child.info.run_id) == ["epoch_0004"]
    assert child.data.tags["mlflow_ckpt.resumed_from"] == f"{run_id}/epoch_0003"
