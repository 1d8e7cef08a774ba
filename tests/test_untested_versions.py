from __future__ import annotations

import keras
import mlflow
import pytest

import mlflow_ckpt
from devtools.stores import Store
from tests.support.training import fit, small_model


def test_an_untested_version_is_logged_once_and_everything_is_tried(
    local_store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mlflow.start_run() as run:
        fit(small_model(), mlflow_ckpt.MlflowCheckpoint(), epochs=1)
    assert caplog.messages == []
    monkeypatch.setattr(keras, "__version__", "3.99.1")
    monkeypatch.setattr(mlflow, "__version__", "3.98.0")
    for _ in range(2):
        mlflow_ckpt.load_model(run.info.run_id)
    logged = [message for message in caplog.messages if "was not tested" in message]
    assert [message.partition(", only with ")[0] for message in logged] == [
        "mlflow_ckpt was not tested with MLflow 3.98.0",
        "mlflow_ckpt was not tested with Keras 3.99.1",
    ]
