"""The spool on a real disk: what is in it is whole, and belongs to one process at a time."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlflow_ckpt._tracking.spool import disk
from mlflow_ckpt._tracking.spool import spool_directory as module
from mlflow_ckpt._tracking.spool.entries import ANNOUNCEMENT, CHECKPOINT, METRICS, TAGS, Entry
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt.errors import ManifestError
from tests.support.waiting import PATIENCE_SECONDS, Deadline

RUN = "a" * 32
TOKEN = "00000000000000000001-deadbeef"
URI = "http://127.0.0.1:5000"
# Hangs in the middle of a draft, or while it holds an entry, until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
from mlflow_ckpt._tracking.spool.spool_directory import Spool

spool, run_id, what = Spool(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
if what == "entry":
    (entry,) = spool.entries(run_id)
    context = spool.locked(entry)
else:
    context = spool.draft(run_id, beside=Path(what) if what != "draft" else None)
with context as held:
    if what != "entry":
        (held.files / "weights").write_text("half")
    print("holds", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(spool: Spool, what: str) -> Iterator[subprocess.Popen[str]]:
    """A process that writes a draft, or holds the only entry, as long as the context lasts."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(spool.root), RUN, what],
        stdout=subprocess.PIPE,
        text=True,
        umask=0o002,  # as users with groups of their own have it
    )
    assert process.stdout is not None
    try:
        assert select.select([process.stdout], [], [], PATIENCE_SECONDS)[0], "it prints nothing"
        assert process.stdout.readline() == "holds\n"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_SECONDS)
        process.stdout.close()


@pytest.fixture
def empty(tmp_path: Path) -> Spool:
    """A spool with nothing in it."""
    return Spool(tmp_path / "spool")


def put(spool: Spool, step: int = 1, run_id: str = RUN) -> Entry:
    """Add metrics to a spool."""
    return spool.put(run_id, kind=METRICS, tracking_uri=URI, metrics={"loss": 0.5}, step=step)


def everything(spool: Spool) -> list[str]:
    """Return the paths of all that lies in a spool."""
    return sorted(path.relative_to(spool.root).as_posix() for path in spool.root.rglob("*"))


def test_a_spool_that_was_never_used_is_empty(empty: Spool) -> None:
    empty.sweep()
    assert empty.entries() == empty.entries(RUN) == []
    assert not empty.root.exists()


def test_an_entry_is_read_as_it_was_written(empty: Spool) -> None:
    written = empty.put(
        RUN,
        kind=METRICS,
        tracking_uri=URI,
        metrics={"loss": 0.25, "bad": float("inf")},
        step=3,
        timestamp=1_700_000_000_000,
    )
    assert empty.entries() == [written]
    assert written.label == "metrics of step 3"
    tags = empty.put(RUN, kind=TAGS, tracking_uri=URI, tags={"a": "ä"})
    assert empty.entries(RUN) == [written, tags]
    assert tags.label == "tags"


def test_a_checkpoint_is_no_entry_before_it_is_committed(empty: Spool) -> None:
    with empty.draft(RUN) as draft:
        (draft.files / "data").mkdir()
        (draft.files / "data" / "model.keras").write_bytes(bytes(100))
        assert empty.entries() == []
        entry = draft.commit(kind=CHECKPOINT, run_id=RUN, tracking_uri=URI, name="epoch_0001")
        assert empty.entries() == [entry]
    assert empty.entries() == [entry]
    assert (entry.label, entry.size) == ("epoch_0001", 100)
    assert (entry.files / "data" / "model.keras").stat().st_size == 100


def test_a_draft_that_fails_leaves_nothing(empty: Spool, tmp_path: Path) -> None:
    goal = tmp_path / "artifacts"
    for beside in (None, goal):
        with pytest.raises(RuntimeError), empty.draft(RUN, beside=beside) as draft:
            (draft.files / "weights").write_text("half")
            raise RuntimeError("the disk is full")
    empty.sweep()
    assert everything(empty) == []
    assert list(goal.iterdir()) == []


def test_entries_come_in_the_order_in_which_they_were_written(empty: Spool) -> None:
    steps = [5, 1, 4, 2, 3]
    for step in steps:
        put(empty, step)
    assert [entry.step for entry in empty.entries(RUN)] == steps


def test_entries_of_one_run_or_of_all(empty: Spool) -> None:
    one, two = put(empty, run_id="1" * 32), put(empty, run_id="2" * 32)
    assert empty.entries("1" * 32) == [one]
    assert empty.entries() == [one, two]


@pytest.mark.parametrize("run_id", ["../../etc", "..", "a/b", "a b", "C:\\x", "run.1", "ä" * 8])
def test_a_run_id_never_leads_out_of_the_spool(run_id: str, empty: Spool) -> None:
    entry = put(empty, run_id=run_id)
    assert entry.path.parent.parent == empty.root
    assert empty.entries(run_id) == [entry]
    with empty.locked(entry) as held:
        assert held
        empty.remove(entry)
    assert everything(empty) == []


def test_two_run_ids_that_make_one_directory_are_not_mixed(empty: Spool) -> None:
    dotted, slashed = put(empty, run_id="run.1"), put(empty, run_id="run/1")
    assert dotted.path.parent == slashed.path.parent
    assert empty.entries("run.1") == [dotted]
    assert empty.entries("run/1") == [slashed]
    assert empty.entries() == [dotted, slashed]


def test_an_entry_that_was_sent_leaves_nothing(empty: Spool) -> None:
    entry = put(empty)
    with empty.locked(entry) as held:
        assert held
        empty.remove(entry)
        empty.remove(entry)
    assert everything(empty) == []
    with empty.locked(entry) as held:
        assert held
    assert everything(empty) == []


def test_what_another_process_holds_is_not_ours_until_that_dies(empty: Spool) -> None:
    entry = put(empty)
    with holder(empty, "entry"), empty.locked(entry) as held:
        assert not held
    with empty.locked(entry) as held:
        assert held
        with Spool(empty.root).locked(entry) as twice:
            assert not twice
    assert empty.entries() == [entry]


@pytest.mark.parametrize("beside", [False, True])
def test_a_sweep_takes_the_drafts_of_the_dead_alone(
    beside: bool, empty: Spool, tmp_path: Path
) -> None:
    goal = tmp_path / "artifacts"
    with holder(empty, str(goal) if beside else "draft"):
        empty.sweep()
        empty.sweep(RUN)
        (draft,) = empty.root.glob("*/*.draft")
        (half,) = [*draft.rglob("weights"), *goal.rglob("weights")]
        assert half.is_relative_to(goal) == beside
        assert empty.entries() == []
    entry = put(empty)
    empty.sweep()
    assert not draft.exists()
    assert not half.parent.exists()
    assert empty.entries() == [entry]
    # The run, the entry, its lock, entry.json, place.json and files/
    assert len(everything(empty)) == 6


def test_a_sweep_leaves_what_it_did_not_write(empty: Spool) -> None:
    """The directory may be used for other things too."""
    mine = empty.root / "novel" / "chapter.draft"
    mine.mkdir(parents=True)
    (mine / "text").write_text("It was a dark and stormy night")
    empty.sweep()
    assert (mine / "text").exists()


def test_a_file_system_that_keeps_no_modes(empty: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files look as if everybody could write to them, as on CIFS, so that says nothing."""
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        status = list(real(descriptor))
        status[0] |= 0o777
        return os.stat_result(status)

    entry = put(empty)
    for path in (entry.path.parent, entry.path):
        path.chmod(0o777)
    assert disk.reason_against(entry.path, is_dir=True) == "other users may write to it"
    disk._keeps_modes.cache_clear()
    monkeypatch.setattr(os, "fstat", fstat)
    try:
        assert disk.reason_against(entry.path, is_dir=True) is None
    finally:
        disk._keeps_modes.cache_clear()


def test_a_sweep_of_one_run_leaves_the_others_alone(empty: Spool) -> None:
    for run_id in ("1" * 32, "2" * 32):
        (empty.root / run_id / f"{TOKEN}.draft").mkdir(parents=True)
    empty.sweep("1" * 32)
    assert everything(empty) == ["2" * 32, f"{'2' * 32}/{TOKEN}.draft"]
    empty.sweep()
    assert everything(empty) == []


def test_a_sweep_removes_nothing_that_only_claims_to_be_a_draft(
    empty: Spool, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    draft = empty.root / RUN / f"{TOKEN}.draft"
    draft.mkdir(parents=True)
    place = {"host": socket.gethostname(), "files": str(precious)}
    (draft / "place.json").write_text(json.dumps(place))
    empty.sweep()
    assert precious.is_dir()
    assert everything(empty) == []


def test_a_checkpoint_moves_to_its_place_in_one_step(empty: Spool, tmp_path: Path) -> None:
    goal = tmp_path / "artifacts" / "epoch_0001"
    with empty.draft(RUN, beside=goal.parent) as draft:
        (draft.files / "weights").write_text("whole")
        entry = draft.move_to(
            goal, kind=ANNOUNCEMENT, run_id=RUN, tracking_uri=URI, name="epoch_0001"
        )
    assert [path.name for path in goal.parent.iterdir()] == ["epoch_0001"]
    assert (goal / "weights").read_text() == "whole"
    assert empty.entries() == [entry]
    with empty.draft(RUN, beside=goal.parent) as draft:
        (draft.files / "weights").write_text("other")
        with pytest.raises(FileExistsError):
            draft.move_to(goal, kind=ANNOUNCEMENT, run_id=RUN, tracking_uri=URI)
    assert [path.name for path in goal.parent.iterdir()] == ["epoch_0001"]
    assert (goal / "weights").read_text() == "whole"
    assert empty.entries() == [entry]


def test_a_directory_that_goes_while_a_draft_begins_is_made_again(empty: Spool) -> None:
    """The thread that sends the last entry removes the directory in which the next one begins."""
    failures: list[BaseException] = []
    over = threading.Event()
    deadline = Deadline("everything is removed")

    def send_everything() -> None:
        try:
            while not over.is_set() or empty.entries(RUN):
                deadline.check()
                for entry in empty.entries(RUN):
                    with empty.locked(entry) as held:
                        if held:
                            empty.remove(entry)
                empty.sweep(RUN)
        except BaseException as error:  # noqa: BLE001 - asserted below
            failures.append(error)

    senders = [threading.Thread(target=send_everything, daemon=True) for _ in range(2)]
    for sender in senders:
        sender.start()
    try:
        for step in range(150):
            put(empty, step)
    finally:
        over.set()
        for sender in senders:
            sender.join(PATIENCE_SECONDS)
    assert not any(sender.is_alive() for sender in senders)
    assert failures == []
    empty.sweep()
    assert everything(empty) == []


def test_a_size_is_told_of_what_is_there(empty: Spool) -> None:
    entry = put(empty)
    with empty.locked(entry):
        empty.remove(entry)
    assert entry.size == 0


def test_an_entry_of_a_newer_version_is_left_alone_and_told(
    empty: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    entry = put(empty)
    description = entry.path / "entry.json"
    description.write_text(json.dumps({**json.loads(description.read_text()), "schema_version": 2}))
    before = everything(empty)
    with caplog.at_level(logging.WARNING):
        assert empty.entries() == []
    assert caplog.messages == [f"{entry.path} is left alone, because a newer mlflow_ckpt wrote it."]
    empty.sweep()
    assert everything(empty) == before


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": 1, "colour": "red"}', "null"])
def test_an_entry_that_cannot_be_read_is_left_alone_and_told(
    text: str, empty: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    entry = put(empty)
    (entry.path / "entry.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert empty.entries() == []
    (message,) = caplog.messages
    assert message.startswith(f"{entry.path} is left alone, because it cannot be read: ")
    empty.sweep()
    assert entry.path.is_dir()


def test_a_checkpoint_whose_manifest_went_says_so(empty: Spool) -> None:
    with empty.draft(RUN) as draft:
        entry = draft.commit(kind=CHECKPOINT, run_id=RUN, tracking_uri=URI, name="epoch_0001")
    with pytest.raises(ManifestError, match="The spool's copy of epoch_0001 cannot be read"):
        entry.manifest()


def test_the_spool_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_CKPT_SPOOL", str(tmp_path / "mine"))
    used, problem = Spool.usable()
    assert (used.root, problem) == (tmp_path / "mine", None)
    assert list(used.root.iterdir()) == []
    monkeypatch.setenv("MLFLOW_CKPT_SPOOL", "~/spool")
    assert Spool.default().root == Path.home() / "spool"
    monkeypatch.delenv("MLFLOW_CKPT_SPOOL")
    assert Spool.default().root == module.platform_root()


def test_where_the_spool_cannot_be_another_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("no directory")
    for root in (file, file / "below"):
        monkeypatch.setenv("MLFLOW_CKPT_SPOOL", str(root))
        used, problem = Spool.usable()
        assert isinstance(problem, OSError)
        assert used.root.name.startswith("mlflow_ckpt_spool_")
        assert used.entries() == Spool(root).entries() == []
        Spool(root).sweep()
        used.root.rmdir()
    assert file.read_text() == "no directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_spool_that_may_not_be_read_says_so(empty: Spool) -> None:
    put(empty)
    empty.root.chmod(0)
    try:
        with pytest.raises(OSError, match="cannot be read"):
            empty.entries()
    finally:
        empty.root.chmod(0o700)
