"""A spool that is about to be lost is said at the end of training."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import pytest
from mlflow.tracking import MlflowClient

from devtools.stores import Store, current, free_port
from mlflow_ckpt import MlflowCheckpoint
from mlflow_ckpt._tracking.spool import lifetime
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt.errors import MlflowCkptError
from tests.support.training import fit, small_model

SHORT = {"validation_data": None, "epochs": 1}


@pytest.mark.parametrize("mark", ["a file", "a variable", "neither"])
@pytest.mark.parametrize("named", [False, True])
def test_a_spool_on_a_container_s_own_disk_ends_with_it(
    mark: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetime, "_MARKS", (tmp_path / ".dockerenv",))
    monkeypatch.setattr(lifetime, "_ROOT", tmp_path)
    monkeypatch.delenv("MLFLOW_CKPT_SPOOL")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if mark == "a file":
        (tmp_path / ".dockerenv").touch()
    if mark == "a variable":
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    if named:
        monkeypatch.setenv("MLFLOW_CKPT_SPOOL", str(tmp_path))
    expected = None if named or mark == "neither" else "this container"
    assert lifetime.ends_with(Spool(tmp_path)) == expected
    assert lifetime.ends_with(Spool(Path("/proc"))) is None


def test_what_waits_in_a_temporary_directory_is_not_said_to_be_safe(
    http_store: Store, spool_below_a_file: Path
) -> None:
    run_id = MlflowClient().create_run(http_store.experiment_id).info.run_id
    away = Store(f"http://127.0.0.1:{free_port()}", http_store.artifacts, "0")
    callback = MlflowCheckpoint("loss", run_id=run_id, drain_timeout=0.1)
    with current(away), pytest.warns(UserWarning) as warned:
        fit(small_model(), callback, **SHORT)
    last = str(warned[-1].message)
    assert "IT WILL BE LOST WITH THIS MACHINE'S TEMPORARY FILES unless you send it" in last
    assert callback.is_losing_data


class DeleteRun(keras.callbacks.Callback):
    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        MlflowClient().delete_run(self.run_id)


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_what_a_run_refuses_is_lost_too(
    on_error: str, local_store: Store, spool_below_a_file: Path
) -> None:
    run_id = MlflowClient().create_run(local_store.experiment_id).info.run_id
    callback = MlflowCheckpoint("loss", run_id=run_id, on_error=on_error)
    raises = pytest.raises(MlflowCkptError) if on_error == "raise" else nullcontext()
    with pytest.warns(UserWarning) as warned, raises, callback:
        fit(small_model(), callback, DeleteRun(run_id), **SHORT)
    assert "IT WILL BE LOST WITH" in str(warned[-1].message)
    assert callback.is_losing_data
