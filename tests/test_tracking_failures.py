"""A tracking server or artifact store that fails: one sentence of error, nothing half done."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store, free_port
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking.publishing import upload_order
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import (
    CheckpointExistsError,
    InvalidArgumentError,
    TrackingError,
    TrackingUnavailableError,
    UnsafeFileError,
)
from tests.support.processes import run_python
from tests.support.training import fit, new_run, small_model
from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]
RUN = "0" * 32
impatient = pytest.mark.usefixtures("_impatient")
CALLS: list[Callable[[str], Any]] = [
    lambda uri: mlflow_ckpt.list_checkpoints(RUN, tracking_uri=uri),
    lambda uri: mlflow_ckpt.load_model(RUN, tracking_uri=uri),
    lambda uri: mlflow_ckpt.verify(RUN, 3, tracking_uri=uri),
    lambda uri: mlflow_ckpt.load_weights(small_model(), RUN, tracking_uri=uri),
]


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    taken.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_SECONDS)
    for connection in taken:
        connection.close()


def unavailable(uri: str, doing: str) -> str:
    return (
        f"The tracking server at {uri} does not answer (tried to {doing}). "
        "Check that it runs, and the URI (--tracking-uri, MLFLOW_TRACKING_URI)."
    )


@impatient
@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_is_not_there(call: Callable[[str], Any]) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(TrackingUnavailableError) as caught:
        call(uri)
    assert str(caught.value) == unavailable(uri, "find the run")
    assert isinstance(caught.value, ConnectionError)


@impatient
def test_a_server_that_never_answers(silent_server: str) -> None:
    with pytest.raises(TrackingUnavailableError) as caught:
        mlflow_ckpt.load_model(RUN, tracking_uri=silent_server)
    assert str(caught.value) == unavailable(silent_server, "find the run")


@impatient
def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(TrackingUnavailableError, match=r"http://nowhere\.invalid does not answer"):
        mlflow_ckpt.load_model(RUN, tracking_uri="http://nowhere.invalid")


@impatient
@pytest.mark.parametrize("uri", ["foo://somewhere", "sqlite:////nonexistent/directory/mlflow.db"])
def test_a_tracking_uri_that_leads_nowhere(uri: str) -> None:
    with pytest.raises(TrackingError) as caught:
        mlflow_ckpt.load_model(RUN, tracking_uri=uri)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@impatient
def test_training_is_refused_before_it_starts_without_a_server_where_that_is_asked_for() -> None:
    model = small_model()
    mlflow.set_tracking_uri(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TrackingUnavailableError):
        fit(model, mlflow_ckpt.MlflowCheckpoint(run_id=RUN, on_error="raise"))
    assert int(model.optimizer.iterations.numpy()) == 0


KILLED = """
import os, signal, sys
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking.store import RunStore
from tests.support.training import small_model

store = RunStore(sys.argv[1])
upload = store.upload

def die_before(file, directory):
    if file.name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    upload(file, directory)

store.upload = die_before
with CheckpointSaver(store) as saver:
    saver.save(small_model(), "epoch_0001", epoch=1, metrics={})
"""


@pytest.mark.parametrize("dies_before", ["model.keras", "manifest.json"])
def test_a_process_that_is_killed_while_it_uploads_leaves_no_checkpoint(
    dies_before: str, http_store: Store
) -> None:
    run_id = new_run()
    done = run_python(
        KILLED,
        run_id,
        dies_before,
        cwd=ROOT,
        env={**os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    directory = http_store.checkpoint_directory(run_id, "epoch_0001")
    # Its claim at least; the data goes up in parallel.
    assert [path.name for path in directory.glob("upload-*.json")]
    assert not (directory / "manifest.json").exists()
    assert mlflow_ckpt.list_checkpoints(run_id) == []
    assert "mlflow_ckpt.latest" not in MlflowClient().get_run(run_id).data.tags
    # The name is free: the training may be repeated.
    with CheckpointSaver(RunStore(run_id)) as saver:
        saver.save(small_model(), "epoch_0001", epoch=1, metrics={})
    assert mlflow_ckpt.load_model(run_id).built


def test_the_manifest_is_uploaded_last() -> None:
    paths = ["MLmodel", "zzz", "data/model.keras", "architecture.json"]
    assert upload_order(paths) == [
        *("architecture.json", "data/model.keras", "zzz", "MLmodel", "manifest.json"),
    ]


def test_a_checkpoint_is_never_overwritten(local_store: Store) -> None:
    run_id = new_run()
    with CheckpointSaver(RunStore(run_id)) as saver:
        saver.save(small_model(), "epoch_0001", epoch=1, metrics={})
    directory = local_store.checkpoint_directory(run_id, "epoch_0001")
    before = {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()}
    other = small_model()
    other.get_layer("head").bias.assign([5.0])
    with (
        pytest.raises(CheckpointExistsError) as caught,
        CheckpointSaver(RunStore(run_id)) as saver,
    ):
        saver.save(other, "epoch_0001", epoch=1, metrics={})
    assert str(caught.value) == (
        f"The run {run_id} already has a checkpoint epoch_0001, which is never overwritten. "
        "Train in another run, or continue from the run's last epoch (fit's initial_epoch)."
    )
    assert (caught.value.run_id, caught.value.name) == (run_id, "epoch_0001")
    after = {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()}
    assert after == before


@pytest.mark.parametrize("name", ["epoch_1", "last", "../epoch_0001", "", "step_5"])
def test_a_name_that_no_reader_would_find_is_refused(name: str, local_store: Store) -> None:
    run_id = new_run()
    saver = CheckpointSaver(RunStore(run_id))
    with pytest.raises(InvalidArgumentError, match="epoch_0003"):
        saver.save(small_model(), name, epoch=1, metrics={})
    assert MlflowClient().list_artifacts(run_id) == []


def test_a_file_larger_than_it_should_be_is_not_taken_whole(
    http_store: Store, tmp_path: Path
) -> None:
    """Also through the proxy of a tracking server, which MLflow downloads from in its own way."""
    store = RunStore(new_run())
    large = tmp_path / "large"
    large.write_bytes(bytes(1 << 22))
    store.upload(large, "there")
    with pytest.raises(UnsafeFileError, match="more than the 1000 bytes"):
        store.download("there/large", tmp_path / "taken", 1000)
    assert (tmp_path / "taken").stat().st_size == 1001
    store.download("there/large", tmp_path / "taken", 1 << 22)
    assert (tmp_path / "taken").read_bytes() == large.read_bytes()
