"""`mlflow-ckpt flush`: what waits in the spool reaches the server, whole, once, or stays."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from mlflow.tracking import MlflowClient
from rich.filesize import decimal

import mlflow_ckpt
from devtools.stores import Store, free_port
from mlflow_ckpt._model.capture.buffers import Buffers
from mlflow_ckpt._saving.compose import Composer, Content, Job
from mlflow_ckpt._tracking.spool import entries
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from tests.support.checkpoints import flip_byte, put_checkpoint, tiny_model
from tests.support.cli import run
from tests.support.processes import COMMAND, Process
from tests.support.training import names, new_run
from tests.support.waiting import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def own_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_CKPT_SPOOL", str(tmp_path / "spool"))
    return tmp_path / "spool"


def put_all_kinds(run_id: str, uri: str) -> Entry:
    """Put one entry of each kind that a training without its server leaves; return the files'."""
    there = {"tracking_uri": uri, "timestamp": 1_700_000_000_000}
    Spool.default().put(run_id, kind=entries.METRICS, metrics={"val_loss": 1.0}, step=1, **there)
    entry = put_checkpoint(run_id, uri)
    Spool.default().put(run_id, kind=entries.TAGS, tracking_uri=uri, tags={"why": "SIGTERM"})
    Spool.default().put(run_id, kind=entries.STATUS, status="KILLED", **there)
    return entry


def outcome(result: Result) -> tuple[int, str, str]:
    return result.exit_code, result.stdout, result.stderr


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_everything_is_sent_and_gone_from_the_spool(http_store: Store, own_spool: Path) -> None:
    run_id = new_run()
    size = put_all_kinds(run_id, http_store.uri).size
    assert outcome(run("flush", run_id)) == (
        0,
        f"Sent metrics of step 1 of run {run_id}.\n"
        f"Sent epoch_0001 of run {run_id} ({decimal(size)}).\n"
        f"Sent tags of run {run_id}.\n"
        f"Sent status of run {run_id}.\n",
        "",
    )
    assert mlflow_ckpt.verify(run_id).ok
    client = MlflowClient()
    finished = client.get_run(run_id)
    assert (finished.info.status, finished.info.end_time) == ("KILLED", 1_700_000_000_000)
    assert finished.data.tags["why"] == "SIGTERM"
    assert finished.data.tags["mlflow_ckpt.latest"] == "epoch_0001"
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "val_loss")] == [(1, 1.0)]
    assert contents(own_spool) == {}
    assert outcome(run("flush", run_id)) == (
        0,
        f"The spool holds no entries of run {run_id}.\n",
        "",
    )
    assert outcome(run("flush")) == (0, "The spool holds no entries.\n", "")


def test_as_json(http_store: Store) -> None:
    run_id = new_run()
    entry = put_checkpoint(run_id, http_store.uri)
    size = entry.size
    result = run("flush", run_id, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "entries": [
            {
                "run_id": run_id,
                "kind": "checkpoint",
                "name": "epoch_0001",
                "size": size,
                "error": None,
                "path": None,
            }
        ]
    }
    assert json.loads(run("flush", run_id, "--json").stdout) == {"entries": []}


def test_one_run_or_all(store: Store) -> None:
    runs = [new_run(), new_run(), new_run()]
    for run_id in runs:
        put_checkpoint(run_id, store.uri)
    assert run("flush", f"ckpt:/{runs[1]}/latest").stdout.count("\n") == 1
    assert [names(run_id) for run_id in runs] == [[], ["epoch_0001"], []]
    assert run("flush").exit_code == 0
    assert [names(run_id) for run_id in runs] == [["epoch_0001"]] * 3


@pytest.mark.parametrize("run_id", ["0" * 32, "ünïcödé"])
def test_a_run_that_nothing_waits_of(run_id: str) -> None:
    assert outcome(run("flush", "--", run_id)) == (
        *(0, f"The spool holds no entries of run {run_id}.\n", ""),
    )


def test_list_shows_what_waits_beside_what_the_run_has(http_store: Store) -> None:
    run_id = new_run()
    put_checkpoint(run_id, http_store.uri)
    run("flush", run_id)
    entry = put_checkpoint(run_id, http_store.uri, epoch=2)
    result = run("list", run_id)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2].startswith("epoch_0001 ")
    assert result.stdout.endswith(
        f"\n\nepoch_0002 waits in the spool ({decimal(entry.size)}): {entry.path}\n"
        f"Send it: mlflow-ckpt flush {run_id}\n"
    )
    listed = json.loads(run("list", run_id, "--json").stdout)
    assert listed["latest"] == "epoch_0001"
    assert listed["waiting"] == [
        {
            "kind": "checkpoint",
            "name": "epoch_0002",
            "size": entry.size,
            "tracking_uri": http_store.uri,
            "path": str(entry.path),
        }
    ]


def test_a_server_that_is_away_leaves_the_spool_as_it_is(own_spool: Path) -> None:
    uri, run_id = f"http://127.0.0.1:{free_port()}", "a" * 32
    put_all_kinds(run_id, uri)
    before = contents(own_spool)
    left = Spool.default().entries(run_id)
    away = f"The tracking server at {uri} does not answer."
    assert outcome(run("flush", run_id)) == (
        7,
        "".join(f"Left {entry.label} of run {run_id} in {entry.path}: {away}\n" for entry in left),
        "Error: 4 of 4 entries are still in the spool. Nothing is lost: run the same command again "
        "once the cause is gone.\n",
    )
    assert contents(own_spool) == before
    result = run("flush", run_id, "--json")
    assert result.exit_code == 7
    sent = json.loads(result.stdout)["entries"]
    assert [record["error"] for record in sent] == [away] * 4
    assert [record["path"] for record in sent] == [str(entry.path) for entry in left]


def test_list_shows_what_waits_while_the_server_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri, run_id = f"http://127.0.0.1:{free_port()}", "b" * 32
    entry = put_checkpoint(run_id, uri)
    assert outcome(run("list", run_id, "--tracking-uri", uri)) == (
        7,
        "",
        f"epoch_0001 waits in the spool ({decimal(entry.size)}): {entry.path}\n"
        f"Send it: mlflow-ckpt flush {run_id}\n"
        f"Error: The tracking server at {uri} does not answer (tried to find the run). "
        "Check that it runs, and the URI (--tracking-uri, MLFLOW_TRACKING_URI).\n",
    )


def test_the_same_server_at_another_address(http_store: Store) -> None:
    run_id = new_run()
    put_checkpoint(run_id, f"http://127.0.0.1:{free_port()}")
    assert run("flush", run_id).exit_code == 7
    assert run("flush", run_id, "--tracking-uri", http_store.uri).exit_code == 0
    assert mlflow_ckpt.verify(run_id).ok


def test_a_run_that_one_server_lacks_is_sent_to_the_other(
    http_store: Store, sqlite_store: Store, own_spool: Path
) -> None:
    run_id = new_run()
    put_checkpoint(run_id, sqlite_store.uri, 1)
    put_checkpoint(run_id, http_store.uri, 2)
    assert run("flush", run_id).exit_code == 7
    assert names(run_id) == ["epoch_0002"]


def test_a_checkpoint_of_that_name_is_never_overwritten(store: Store, own_spool: Path) -> None:
    run_id = new_run()
    put_checkpoint(run_id, store.uri)
    run("flush", run_id)
    directory = store.checkpoint_directory(run_id, "epoch_0001")
    there = contents(directory)
    composer, content = Composer(run_id), Content()
    taken = composer.take(tiny_model(), Buffers(), content)
    with Spool.default().draft(run_id) as draft:
        job = Job(taken, content, "epoch_0001", 1, {}, None, best=False, interrupted=None)
        composer.compose(job, draft.files)
        entry = draft.commit(
            kind=entries.CHECKPOINT, run_id=run_id, tracking_uri=store.uri, name="epoch_0001"
        )
    waiting = contents(own_spool)
    assert outcome(run("flush", run_id)) == (
        7,
        f"Left epoch_0001 of run {run_id} in {entry.path}: The run {run_id} already has a "
        "checkpoint epoch_0001, which is never overwritten. Train in another run, or continue from "
        "the run's last epoch (fit's initial_epoch).\n",
        "Error: 1 of 1 entries are still in the spool. Nothing is lost: run the same command again "
        "once the cause is gone.\n",
    )
    assert contents(directory) == there
    assert contents(own_spool) == waiting


def test_a_run_that_never_was(store: Store) -> None:
    run_id = "c" * 32
    there = {"tracking_uri": store.uri, "timestamp": 1_700_000_000_000}
    Spool.default().put(run_id, kind=entries.METRICS, metrics={"loss": 1.0}, step=1, **there)
    result = run("flush", run_id)
    assert result.exit_code == 7
    assert result.stdout.startswith(f"Left all of run {run_id} in ")
    assert "was deleted" not in result.stdout
    assert "Traceback" not in result.output
    assert len(Spool.default().entries(run_id)) == 1


def test_while_another_process_sends_the_same(http_store: Store) -> None:
    run_id = new_run()
    entry = put_checkpoint(run_id, http_store.uri)
    with Spool.default().locked(entry) as held:
        assert held
        assert outcome(run("flush", run_id)) == (
            7,
            f"Left epoch_0001 of run {run_id} in {entry.path}: epoch_0001 of run "
            f"{run_id} is being sent already.\n",
            "Error: 1 of 1 entries are still in the spool. Nothing is lost: run the same command "
            "again once the cause is gone.\n",
        )
        assert names(run_id) == []
    assert run("flush", run_id).exit_code == 0
    assert names(run_id) == ["epoch_0001"]


def test_several_at_once_send_everything_once(http_store: Store, own_spool: Path) -> None:
    run_id = new_run()
    for epoch in (1, 2, 3, 4):
        put_checkpoint(run_id, http_store.uri, epoch)
    processes = [Process(COMMAND, "flush", run_id) for _ in range(3)]
    done = [process.wait() for process in processes]
    # An entry that another process holds is reported as left, and sent by that one.
    assert {result.returncode for result in done} <= {0, 7}, done
    assert all("Traceback" not in result.stderr for result in done), done
    assert run("flush", run_id).exit_code == 0
    assert names(run_id) == [f"epoch_{epoch:04d}" for epoch in (1, 2, 3, 4)]
    assert all(mlflow_ckpt.verify(run_id, epoch).ok for epoch in (1, 2, 3, 4))
    assert contents(own_spool) == {}


def alter_manifest(files: Path) -> None:
    path = files / "manifest.json"
    path.write_text(path.read_text().replace('"epoch": 1', '"epoch": 7'))


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (alter_manifest, "manifest.json was altered after it was written"),
    (lambda files: (files / "manifest.json").unlink(), "There is no manifest.json in "),
    (lambda files: (files / "manifest.json").write_text("{"), "manifest.json is not a manifest"),
    (
        lambda files: (files / "model.weights.h5").unlink(),
        "The checkpoint is not what was saved: epoch_0001: missing model.weights.h5.",
    ),
    (
        lambda files: flip_byte(files / "architecture.json"),
        "The checkpoint is not what was saved: epoch_0001: architecture.json has sha256:",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_entry_never_becomes_a_checkpoint(
    damage: Callable[[Path], object], message: str, http_store: Store
) -> None:
    run_id = new_run()
    entry = put_checkpoint(run_id, http_store.uri)
    put_checkpoint(run_id, http_store.uri, epoch=2)
    damage(entry.files)
    result = run("flush", run_id)
    assert result.exit_code == 4
    left, sent = result.stdout.splitlines()
    assert left.startswith(f"Left epoch_0001 of run {run_id} in {entry.path}: {message}")
    assert sent.startswith(f"Sent epoch_0002 of run {run_id}")
    assert result.stderr == (
        "Error: 1 of 2 entries are still in the spool, 1 of them damaged. Damaged entries can "
        "never be sent: delete their directories.\n"
    )
    assert names(run_id) == ["epoch_0002"]
    assert entry.path.exists()


def test_no_backend_is_loaded_to_flush(http_store: Store) -> None:
    run_id = new_run()
    put_checkpoint(run_id, http_store.uri)
    script = (
        "import sys\n"
        "from mlflow_ckpt._cli import main\n"
        f"main(['flush', {run_id!r}], standalone_mode=False)\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"Sent epoch_0001 of run {run_id} \(.*\)\.\n", done.stdout)
