"""Beside MLflow's own callbacks: no metric twice, and a hint where both save checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import mlflow
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt import MlflowCheckpoint
from tests.support.training import BATCH, X, Y, fit, names, small_model


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


def require_metrics_once(run_id: str) -> None:
    assert names(run_id) == ["epoch_0001", "epoch_0002", "epoch_0003"]
    for metric in ("loss", "mae", "val_loss", "val_mae"):
        assert points(run_id, metric) == [0, 1, 2], "as MLflow's own callback counts them"
    run = MlflowClient().get_run(run_id)
    rows = mlflow.search_logged_models(
        [run.info.experiment_id],
        filter_string=f"source_run_id = '{run_id}' AND model_type = 'checkpoint'",
        output_format="list",
    )
    linked = {row.name: {m.key: m.value for m in row.metrics} for row in rows}
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
