"""A tracking server that goes away: training goes on, and everything arrives in the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Server, Store, current, open_server
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking.spool.entries import CHECKPOINT
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.store import RunStore
from tests.support import children, cli
from tests.support.children import Child
from tests.support.training import names, new_run, small_model
from tests.support.waiting import PATIENCE_SECONDS, wait_for

Fragile = tuple[Server, Store]


@pytest.fixture(scope="module")
def fragile(template_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fragile]:
    """A server that may go away, and is there again after each test."""
    server = Server(template_database, tmp_path_factory.mktemp("fragile"))
    try:
        server.start()
        store = open_server(server)
        with current(store):
            yield server, store
    finally:
        server.stop()


def waiting(run_id: str, spool: Path) -> list[str]:
    """Names of the checkpoints that wait in the spool."""
    return [entry.name for entry in Spool(spool).entries(run_id) if entry.kind == CHECKPOINT]


def check_everything_arrived(run_id: str, spool: Path, store: Store, *, epochs: int) -> None:
    assert names(run_id) == [f"epoch_{epoch:04d}" for epoch in range(1, epochs + 1)]
    for epoch in range(1, epochs + 1):
        assert mlflow_ckpt.verify(run_id, epoch).ok
    history = MlflowClient(store.uri).get_metric_history(run_id, "loss")
    assert sorted(metric.step for metric in history) == list(range(1, epochs + 1))
    assert not (spool / run_id).exists()


def train_through(outage: float, fragile: Fragile, spool: Path, end: Path) -> tuple[str, int]:
    """Train while the server is away for so many seconds, and for four epochs at least.

    Returns:
        The run, and how many epochs it has.
    """
    server, store = fragile
    run_id = new_run()
    child = Child(
        *(children.train, run_id),
        store=store,
        spool=spool,
        # Fewer epochs than a server that is back can take in.
        seconds=1,
        end=end,
        drain_timeout=PATIENCE_SECONDS,
    )
    child.receive_epoch(2)
    server.stop()
    try:
        began = time.monotonic()
        # No step waits for the server: these are trained, and saved, while there is none.
        last = child.receive_epoch(child.receive_epoch() + 4)
        while time.monotonic() < began + outage:
            last = child.receive_epoch()
        wait_for(lambda: len(waiting(run_id, spool)) >= 3, "checkpoints in the spool")
    finally:
        server.start()
    child.receive_epoch(last + 1)
    end.touch()
    epochs, warned = child.receive("over")
    assert child.join() == 0
    # Of the outage itself, if an upload met it; not of every attempt.
    assert len(warned) <= 1
    return run_id, epochs


def test_training_goes_on_while_the_server_is_away(
    fragile: Fragile, spool: Path, tmp_path: Path
) -> None:
    run_id, epochs = train_through(0, fragile, spool, tmp_path / "end")
    check_everything_arrived(run_id, spool, fragile[1], epochs=epochs)


@pytest.mark.long
def test_training_goes_on_while_the_server_is_away_for_20_seconds(
    fragile: Fragile, spool: Path, tmp_path: Path
) -> None:
    run_id, epochs = train_through(20, fragile, spool, tmp_path / "end")
    check_everything_arrived(run_id, spool, fragile[1], epochs=epochs)


@pytest.mark.long
def test_training_goes_on_while_the_server_hangs(
    fragile: Fragile, spool: Path, tmp_path: Path
) -> None:
    server, store = fragile
    run_id = new_run()
    end = tmp_path / "end"
    child = Child(
        *(children.train, run_id), store=store, spool=spool, end=end, drain_timeout=PATIENCE_SECONDS
    )
    child.receive_epoch(2)
    with server.frozen():
        child.receive_epoch(child.receive_epoch() + 4)
        wait_for(lambda: len(waiting(run_id, spool)) >= 3, "checkpoints in the spool")
    end.touch()
    epochs, _ = child.receive("over")
    assert child.join() == 0
    check_everything_arrived(run_id, spool, store, epochs=epochs)


@pytest.mark.parametrize("away_from", [pytest.param(0, marks=pytest.mark.long), 2])
def test_a_server_that_comes_back_after_training_is_sent_everything_by_flush(
    away_from: int, fragile: Fragile, spool: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    server, store = fragile
    run_id = new_run()
    if away_from == 0:
        server.stop()
    try:
        child = Child(
            *(children.train, run_id),
            store=store,
            spool=spool,
            epochs=4,
            # So that the server is away before the last epochs are saved.
            hold=(away_from, gone),
            drain_timeout=1,
        )
        if away_from:
            child.receive_epoch(away_from)
            server.stop()
            gone.touch()
        epochs, warned = child.receive("over")
        assert child.join() == 0
        left = waiting(run_id, spool)
        assert epochs == 4
        assert left
        if away_from == 0:
            assert left == [f"epoch_{epoch:04d}" for epoch in range(1, 5)]
            assert warned[0].startswith(f"The tracking server at {store.uri} does not answer")
            assert "Training continues" in warned[0]
        assert warned[-1].startswith(f"NOT EVERYTHING OF RUN {run_id} IS ON THE SERVER: ")
        assert left[-1] in warned[-1]
        assert warned[-1].endswith(
            f" Nothing is lost. Send it: MLFLOW_CKPT_SPOOL={spool} mlflow-ckpt flush {run_id}"
        )
        unsent = cli.run_process("flush", run_id)
        assert unsent.returncode == 7, unsent.stderr
        assert waiting(run_id, spool) == left
    finally:
        server.start()
    sent = cli.run_process("flush", run_id)
    assert sent.returncode == 0, sent.stderr
    assert [name for name in left if f"Sent {name} of run {run_id}" in sent.stdout] == left
    check_everything_arrived(run_id, spool, store, epochs=4)
    again = cli.run("flush", run_id)
    assert again.output == f"The spool holds no entries of run {run_id}.\n"


def test_a_process_does_not_wait_at_its_end_for_an_upload_that_hangs(
    fragile: Fragile, spool: Path
) -> None:
    # As MLflow does for minutes where a server goes away in the middle of one.
    child = Child(
        *(children.save, new_run(), 1),
        store=fragile[1],
        spool=spool,
        prepare=children.hang_in,
        prepare_arguments=("mlflow_ckpt._tracking.store:RunStore", "upload", "model.keras"),
        patience=0.5,
    )
    assert child.receive("saved") == ([], ["epoch_0001", "metrics of step 1"])
    assert child.join() == 0


@pytest.mark.long
def test_a_server_that_goes_in_the_middle_of_an_upload(
    fragile: Fragile, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, store = fragile
    run_id = new_run()
    upload = RunStore.upload
    gone = threading.Event()

    def upload_when_gone(self: RunStore, file: Path, directory: str) -> None:
        if file.name == "model.keras" and not gone.is_set():
            server.stop()
            gone.set()
        upload(self, file, directory)

    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(RunStore, "upload", upload_when_gone)
    saver = CheckpointSaver(RunStore(run_id))
    saver.log_metrics({"loss": 0.5}, 1)
    saver.save(small_model(), "epoch_0001", epoch=1, metrics={})
    try:
        assert gone.wait(PATIENCE_SECONDS)
    finally:
        server.start()
    assert saver.finish(patience=PATIENCE_SECONDS) == []
    assert saver.outcomes()[-1].sent
    check_everything_arrived(run_id, spool, store, epochs=1)
