"""Other processes, and the training's own that is killed: cells of the table in docs/saving.md.

In no cell does a step wait, is anything lost, or is anything said more than twice.
"""

from __future__ import annotations

import json
import re
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt._tracking import claims
from mlflow_ckpt._tracking.spool import sending
from mlflow_ckpt._tracking.spool.entries import CHECKPOINT
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt.errors import CheckpointExistsError
from tests.support import children, cli
from tests.support.checkpoints import put_checkpoint
from tests.support.children import Child, Talk, die
from tests.support.faults import (
    EPOCHS,
    WHENS,
    Counted,
    Course,
    figures_of,
    require_all,
    send_the_rest,
    train,
)
from tests.support.flushing import flush_and_check
from tests.support.training import names, new_run
from tests.support.waiting import PATIENCE_SECONDS, wait_for

Record = Callable[[str, object], None]


def whens(daily: str) -> list[object]:
    """The moments of a training, one of which is in the default run."""
    return [when if when == daily else pytest.param(when, marks=pytest.mark.long) for when in WHENS]


# --- the claim of another process ----------------------------------------------------------------


def hang_elsewhere(talk: Talk, suffix: str) -> None:
    """Make this process one on another machine, which hangs in the upload of a file."""
    claims.BEAT_SECONDS = 0.05
    socket.gethostname = lambda: "elsewhere"  # type: ignore[assignment]
    children.hang_in(talk, "mlflow_ckpt._tracking.store:RunStore", "upload", suffix)


@dataclass
class Other:
    """A process on another machine that uploads checkpoints of a run."""

    store: Store
    spool: Path
    run_id: str
    children: list[Child] = field(default_factory=list)

    def claim(self, epoch: int) -> None:
        """Begin to upload the checkpoint of an epoch, and never end."""
        self.children.append(
            Child(
                *(children.save, self.run_id, epoch),
                store=self.store,
                spool=self.spool,
                prepare=hang_elsewhere,
                prepare_arguments=("model.keras",),
            )
        )
        wait_for(self._beats, "the other process uploads")

    def _beats(self) -> bool:
        paths = self.store.artifacts.rglob(f"{self.run_id}/**/upload-*")
        with suppress(ValueError):  # it is being written
            return any(json.loads(path.read_text())["beat"] > 1 for path in paths)
        return False

    def die(self) -> None:
        while self.children:
            self.children.pop().kill()


@pytest.fixture
def other(http_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Other]:
    """A process on another machine, which has not begun; if it dies, that is seen in seconds."""
    monkeypatch.setattr(claims, "DEAD_SECONDS", 3.0)
    monkeypatch.setattr(sending, "_POLL_SECONDS", 0.1)
    made = Other(http_store, tmp_path / "spool of the other machine", new_run())
    yield made
    made.die()


def require_no_claims(run_id: str, store: Store) -> None:
    assert not list(store.artifacts_of(run_id).rglob("upload-*.json"))
    assert Spool.default().entries(run_id) == []


@pytest.mark.parametrize("when", whens("step"))
def test_a_claim_of_a_process_that_lives(when: str, other: Other, record_property: Record) -> None:
    epoch = EPOCHS if when == "end" else 1
    ours = mlflow_ckpt.MlflowCheckpoint("loss", run_id=other.run_id, drain_timeout=0.5)
    counted = train(Course(when, lambda: other.claim(epoch)), ours)
    name = f"epoch_{epoch:04d}"
    # Though more is known of the other process in between.
    first, last = counted.said
    assert f"is also saving the checkpoint {name} of run {other.run_id}" in first
    assert last.startswith(f"NOT EVERYTHING OF RUN {other.run_id} IS ON THE SERVER: ")
    assert name in last
    assert name not in names(other.run_id)

    def left_to_the_other() -> bool:
        left = cli.run("flush", other.run_id)
        assert left.exit_code == 7, left.output
        # Before that, the ended training's uploader may be amid its last attempt.
        return "on elsewhere is also saving" in left.stdout

    wait_for(left_to_the_other, "what is left is the other process's", pause=0.2)
    other.die()
    send_the_rest(other.run_id)
    require_all(other.run_id, alone=False)
    require_no_claims(other.run_id, other.store)
    counted.require_that_training_went_on()
    record_property("counted", counted.figures())


@pytest.mark.parametrize("when", whens("end"))
def test_a_claim_of_a_process_that_died(when: str, other: Other, record_property: Record) -> None:
    def claim_and_die() -> None:
        other.claim(EPOCHS if when == "end" else 1)
        other.die()

    # Longer than an attempt, but shorter than the claim is waited for, as that is decided soon.
    ours = mlflow_ckpt.MlflowCheckpoint("loss", run_id=other.run_id, drain_timeout=0.5)
    counted = train(Course(when, claim_and_die), ours)
    require_all(other.run_id, alone=False)
    require_no_claims(other.run_id, other.store)
    counted.require_that_training_went_on()
    record_property("counted", counted.figures())


@pytest.mark.parametrize("lives", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_claim_after_the_process(lives: bool, other: Other, record_property: Record) -> None:
    put_checkpoint(other.run_id, other.store.uri)
    other.claim(1)
    said = ""
    if lives:
        left = cli.run("flush", other.run_id)
        assert left.exit_code == 7, left.output
        said = left.stdout
    other.die()
    send_the_rest(other.run_id)
    assert names(other.run_id) == ["epoch_0001"]
    assert mlflow_ckpt.verify(other.run_id, 1).ok
    require_no_claims(other.run_id, other.store)
    record_property("counted", figures_of(said))


# --- another process in the same run -------------------------------------------------------------


def flush(talk: Talk, run_id: str) -> None:
    """Flush, but wait for the parent amid the first checkpoint; send how it ended."""
    children.meet_before(talk, "mlflow_ckpt._tracking.publishing", "publish")
    result = cli.run("flush", run_id)
    talk("did", (result.exit_code, result.output))


@pytest.mark.parametrize("when", whens("validation"))
def test_another_process_sends_what_waits(
    when: str, http_store: Store, spool: Path, record_property: Record
) -> None:
    run_id = new_run()
    put_checkpoint(run_id, http_store.uri)
    child = Child(flush, run_id, store=http_store, spool=spool)
    child.receive("here")
    ours = mlflow_ckpt.MlflowCheckpoint("loss", run_id=run_id, drain_timeout=PATIENCE_SECONDS)
    counted = train(Course(when, lambda: child.send("go on")), ours, initial_epoch=1)
    code, output = child.receive("did")
    assert child.join() == 0
    assert code == 0, output
    assert output.startswith(f"Sent epoch_0001 of run {run_id}")
    require_all(run_id, 1 + EPOCHS, logged_from=2)
    require_no_claims(run_id, http_store)
    counted.require_that_training_went_on()
    record_property("counted", counted.figures())


def train_too(talk: Talk, run_id: str) -> None:
    """Train in a run from its start; send what was counted, None if it was refused."""
    course = Course("start", lambda: talk("begins"))
    try:
        counted = train(course, mlflow_ckpt.MlflowCheckpoint("loss", run_id=run_id))
    except CheckpointExistsError:
        talk("trained", None)
    else:
        talk("trained", counted)


@pytest.mark.parametrize("when", whens("start"))
def test_another_process_trains_in_the_run(
    when: str, http_store: Store, spool: Path, record_property: Record
) -> None:
    """Both save the same names: of each name one is the run's, and the other stays in the spool."""
    run_id = new_run()
    begun: list[Child] = []

    def begin() -> None:
        begun.append(Child(train_too, run_id, store=http_store, spool=spool))
        begun[0].receive("begins")

    trained: list[Counted | None] = [
        train(Course(when, begin), mlflow_ckpt.MlflowCheckpoint("loss", run_id=run_id)),
        begun[0].receive("trained"),
    ]
    assert begun[0].join() == 0
    both = [counted for counted in trained if counted is not None]
    for counted in both:
        # Of each checkpoint, that another process saves it too, and that it has saved it.
        counted.require_that_training_went_on(most_lines=2 * EPOCHS)
    require_all(run_id, alone=False)
    left = [entry.name for entry in Spool(spool).entries(run_id)]
    assert set(left) <= set(names(run_id))
    lost = len(both) * EPOCHS - len(left) - EPOCHS
    assert lost == 0
    said = sum((counted.said for counted in both), Counter[str]())
    together = Counted(sum(counted.steps for counted in both), [], said)
    record_property("counted", together.figures(lost))


# --- the process itself --------------------------------------------------------------------------


def train_and_die(talk: Talk, run_id: str, when: str) -> None:
    """Go on with a run after its first epoch, send what was counted, and be killed."""

    def saved() -> bool:
        waiting = [entry.name for entry in Spool.default().entries(run_id)]
        return "epoch_0002" in {*waiting, *names(run_id)}

    def end() -> None:
        if when == "end":
            wait_for(saved, "the second epoch is saved")
        talk("counted", (course.steps, course.waited))
        die()

    course = Course(when, end)
    train(course, mlflow_ckpt.MlflowCheckpoint("loss", run_id=run_id, verbose=1), initial_epoch=1)


@pytest.mark.parametrize("when", whens("end"))
def test_the_process_is_killed(
    when: str, http_store: Store, spool: Path, record_property: Record
) -> None:
    run_id = new_run()
    put_checkpoint(run_id, http_store.uri)
    child = Child(train_and_die, run_id, when, store=http_store, spool=spool)
    steps, waited = child.receive("counted")
    assert child.join() == -signal.SIGKILL
    assert waited == []
    reported = re.findall(r"^Saved checkpoint (\w+) of run", child.output, re.MULTILINE)
    waiting = [e.name for e in Spool(spool).entries(run_id) if e.kind == CHECKPOINT]
    before = {*reported, *waiting, *names(run_id)}
    assert before >= {"epoch_0001", *(["epoch_0002"] if when == "end" else [])}
    flush_and_check(run_id, spool, http_store)
    lost = before - set(names(run_id))
    assert lost == set()
    figures = f"{steps} steps, {len(waited)} waited, {len(lost)} of {len(before)} saved lost"
    record_property("counted", figures)
