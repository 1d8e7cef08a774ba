"""Two processes that save into one run: each checkpoint is one process's, and nothing is mixed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking import index
from mlflow_ckpt._tracking.spool import sending
from mlflow_ckpt._tracking.spool.entries import CHECKPOINT, Entry
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.spool.uploader import Uploader
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.tags import BEST, LATEST
from mlflow_ckpt.errors import CheckpointBusyError, CheckpointExistsError
from tests.support import children, cli
from tests.support.children import Child
from tests.support.training import names, new_run, small_model
from tests.support.uploads import at_upload
from tests.support.waiting import PATIENCE_SECONDS, Deadline

PUBLISHING = "mlflow_ckpt._tracking.publishing"
CLAIMS = "mlflow_ckpt._tracking.claims"
INDEX = "mlflow_ckpt._tracking.index"
DRAFT = "mlflow_ckpt._tracking.spool.drafts:Draft"


def save_at_once(
    run_id: str, epochs: tuple[int, int], meet: tuple[str, str], store: Store, spools: list[Path]
) -> list[Any]:
    """Save in two processes that meet before they call a function; return the errors of both."""
    writers = [
        Child(
            *(children.save, run_id, epoch),
            store=store,
            spool=spool,
            prepare=children.meet_before,
            prepare_arguments=meet,
            bias=float(number),
        )
        for number, (epoch, spool) in enumerate(zip(epochs, spools, strict=True))
    ]
    for writer in writers:
        writer.receive("here")
    for writer in writers:
        writer.send("go on")
    results = [writer.receive("saved") for writer in writers]
    assert [writer.join() for writer in writers] == [0, 0]
    return results


def require_that_one_is_saved(run_id: str, meet: tuple[str, str], store: Store, root: Path) -> None:
    spools = [root / "one", root / "two"]
    results = save_at_once(run_id, (1, 1), meet, store, spools)
    left = [Spool(spool).entries(run_id) for spool in spools]
    (loser,) = [number for number, entries in enumerate(left) if entries]
    # Either may have got the error, now and then, that the other was at it.
    busy = "CheckpointBusyError"
    assert [error for error in results[1 - loser][0] if error != busy] == []
    assert [error for error in results[loser][0] if error != busy] == ["CheckpointExistsError"]
    (entry,) = left[loser]
    saved = mlflow_ckpt.get_checkpoint(run_id).manifest
    assert saved.weights_digest != entry.manifest().weights_digest
    head = mlflow_ckpt.load_model(run_id).get_layer("head")
    assert head.bias.numpy().tolist() == [1.0 - loser]
    directory = store.checkpoint_directory(run_id, "epoch_0001")
    assert not list(directory.parent.rglob("upload-*.json"))
    about = {"index.json", "manifests.json"}
    assert {path.name for path in directory.parent.iterdir()} == {"epoch_0001", *about}


@pytest.mark.parametrize(
    "meet",
    [(PUBLISHING, "publish"), (CLAIMS, "_process")],
    ids=["before either looked", "before either claimed"],
)
def test_one_name_at_the_same_moment_on_a_server(
    meet: tuple[str, str], http_store: Store, tmp_path: Path
) -> None:
    run_id = new_run()
    require_that_one_is_saved(run_id, meet, http_store, tmp_path)
    assert names(run_id) == ["epoch_0001"]
    assert mlflow_ckpt.verify(run_id, 1).ok


def test_one_name_at_the_same_moment_on_local_disk(local_store: Store, tmp_path: Path) -> None:
    run_id = new_run()
    require_that_one_is_saved(run_id, (DRAFT, "move_to"), local_store, tmp_path)
    assert names(run_id) == ["epoch_0001"]
    assert mlflow_ckpt.verify(run_id, 1).ok


def test_two_names_at_the_same_moment(store: Store, tmp_path: Path) -> None:
    run_id = new_run()
    spools = [tmp_path / "one", tmp_path / "two"]
    results = save_at_once(run_id, (1, 2), (INDEX, "_write"), store, spools)
    assert results == [([], []), ([], [])]
    assert names(run_id) == ["epoch_0001", "epoch_0002"]
    assert all(mlflow_ckpt.verify(run_id, epoch).ok for epoch in (1, 2))
    assert [Spool(spool).entries() for spool in spools] == [[], []]
    # Where the index lost one of them, the next save mends it.
    with CheckpointSaver(RunStore(run_id)) as saver:
        saver.save(small_model(), "epoch_0003", epoch=3, metrics={})
    assert sorted(index.read(RunStore(run_id))) == ["epoch_0001", "epoch_0002", "epoch_0003"]
    tags = MlflowClient(store.uri).get_run(run_id).data.tags
    assert (tags[LATEST], tags[BEST]) == ("epoch_0003", "epoch_0002")


def test_a_flush_while_the_training_sends(http_store: Store, spool: Path, tmp_path: Path) -> None:
    run_id = new_run()
    end = tmp_path / "end"
    # Faster than it can send, so that there is something for both.
    child = Child(*(children.train, run_id), store=http_store, spool=spool, most_waiting=3, end=end)
    sent, epoch = "", 0
    deadline = Deadline("a flush sends something while the training does")
    while epoch < 8 or "Sent epoch_" not in sent:
        deadline.check()
        epoch = child.receive_epoch(epoch + 1)
        flushed = cli.run("flush", run_id)
        # What the training is sending at this moment is left to it.
        assert flushed.exit_code in (0, 7), flushed.output
        sent += flushed.stdout
    end.touch()
    epochs, _ = child.receive("over")
    assert child.join() == 0
    assert names(run_id) == [f"epoch_{epoch:04d}" for epoch in range(1, epochs + 1)]
    assert all(mlflow_ckpt.verify(run_id, epoch).ok for epoch in range(1, epochs + 1))
    history = MlflowClient(http_store.uri).get_metric_history(run_id, "loss")
    assert sorted(metric.step for metric in history) == list(range(1, epochs + 1))
    assert not (spool / run_id).exists()


@pytest.fixture
def entry(http_store: Store, spool: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """A checkpoint that waits in the spool, with no uploader."""
    run_id = new_run()
    monkeypatch.setattr(Uploader, "add", lambda *_: None)
    saver = CheckpointSaver(RunStore(run_id))
    saver.save(small_model(), "epoch_0001", epoch=1, metrics={})
    assert saver.finish(patience=PATIENCE_SECONDS) == []
    (waiting,) = Spool(spool).entries(run_id)
    assert waiting.kind == CHECKPOINT
    return waiting


def send(entry: Entry) -> None:
    sending.send(Spool.default(), entry, RunStore(entry.run_id))


def upload(entry: Entry, name: str, text: str) -> None:
    """Put a file into the directory of the entry's checkpoint."""
    mlflow.log_text(text, f"checkpoints/epoch_0001/{name}", run_id=entry.run_id)


def files(entry: Entry, store: Store) -> set[str]:
    """Names of the files at the top of the checkpoint's directory."""
    directory = store.checkpoint_directory(entry.run_id, "epoch_0001")
    return {path.name for path in directory.iterdir()}


def dead_process() -> int:
    """Return the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(PATIENCE_SECONDS)
    return process.pid


HOUR = 3600
HERE = socket.gethostname()
TOKEN = "{:020d}-0badcafe"


def claim(host: str, pid: int, age: float) -> str:
    return json.dumps({"host": host, "pid": pid, "time": time.time() - age})


@pytest.mark.parametrize(
    ("host", "alive", "age", "holds"),
    [
        ("elsewhere", False, 0, True),
        ("elsewhere", True, 2 * HOUR, False),
        (HERE, True, 0, True),
        (HERE, True, 2 * HOUR, False),
        (HERE, False, 0, False),
    ],
)
def test_the_claim_of_another_process(
    host: str, alive: bool, age: float, holds: bool, entry: Entry, http_store: Store
) -> None:
    pid = os.getpid() if alive else dead_process()
    name = f"upload-{TOKEN.format(time.time_ns())}.json"
    upload(entry, name, claim(host, pid, age))
    if holds:
        with pytest.raises(
            CheckpointBusyError, match=f"The process {pid} on {host} is also saving"
        ):
            send(entry)
        assert files(entry, http_store) == {name}
        assert entry.path.is_dir()
        assert names(entry.run_id) == []
        return
    send(entry)
    assert mlflow_ckpt.verify(entry.run_id, 1).ok
    assert name not in files(entry, http_store)
    assert not entry.path.exists()


@pytest.mark.parametrize(("age", "holds"), [(0, True), (2 * HOUR, False)])
def test_a_claim_that_is_not_all_there_yet(
    age: float, holds: bool, entry: Entry, http_store: Store
) -> None:
    """A store shows a file before all of it is there; the name has the time of writing."""
    name = f"upload-{TOKEN.format(int((time.time() - age) * 1e9))}.json"
    upload(entry, name, "")
    if holds:
        with pytest.raises(CheckpointBusyError):
            send(entry)
        assert files(entry, http_store) == {name}
        return
    send(entry)
    assert mlflow_ckpt.verify(entry.run_id, 1).ok


def test_an_upload_that_another_process_took_for_dead_does_not_go_on(
    entry: Entry, http_store: Store
) -> None:
    own = f"checkpoints/epoch_0001/upload-{entry.token}.json"
    with (
        at_upload("model.keras", lambda store: store.delete(own)),
        pytest.raises(CheckpointBusyError, match="took over"),
    ):
        send(entry)
    assert not {"MLmodel", "manifest.json"} & files(entry, http_store)
    send(entry)
    assert mlflow_ckpt.verify(entry.run_id, 1).ok


def test_a_manifest_that_was_half_written_is_written_again(entry: Entry, http_store: Store) -> None:
    upload(entry, "manifest.json", '{"schema_version": 1, "na')
    # Without a claim, it is a checkpoint that was damaged: it is never overwritten.
    with pytest.raises(CheckpointExistsError):
        send(entry)
    assert entry.path.is_dir()
    upload(entry, f"upload-{entry.token}.json", claim(HERE, dead_process(), 0))
    send(entry)
    assert mlflow_ckpt.verify(entry.run_id, 1).ok
    assert not entry.path.exists()


def test_a_claim_that_was_left_behind_does_not_spoil_a_checkpoint(entry: Entry) -> None:
    send(entry)
    upload(entry, f"upload-{TOKEN.format(time.time_ns())}.json", claim("elsewhere", 1, 0))
    assert mlflow_ckpt.verify(entry.run_id, 1).ok
    assert mlflow_ckpt.load_model(entry.run_id).built
    assert cli.run("verify", entry.run_id).exit_code == 0
