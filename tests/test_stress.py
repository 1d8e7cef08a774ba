"""Two processes that train, flush, prune, list, verify and resume in the same runs, and are killed.

Nothing but documented errors, every listed checkpoint verifies, and nothing that was saved is lost.
"""

from __future__ import annotations

import random
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import pytest

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt._tracking.spool.entries import CHECKPOINT
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.tags import RESUMED_FROM
from mlflow_ckpt.errors import CheckpointExistsError, CheckpointNotFoundError
from tests.support import cli
from tests.support.children import Child, Talk
from tests.support.training import fit, names, new_run, small_model

EPOCHS = 2
SHORT = {"batch_size": 24, "validation_data": None}
# How many checkpoints each of the runs keeps that are acted in at a time.
KEEP = (None, 3, 3)
# By command, the exit codes that docs/cli.md gives for a run that others change: nothing there yet,
# and entries that another process is sending.
COMMANDS = {
    "flush": ((), (0, 7)),
    "prune": (("--keep-last", "2"), (0, 3)),
    "list": ((), (0, 3)),
    "verify": (("--all",), (0, 3)),
}


@dataclass(frozen=True)
class Action:
    """What a process does.

    Attributes:
        name: `"train"`, `"resume"` or a command.
        run_id: The run to act in, or to resume from.
        into: The run to train in; the same, but for `"resume"`.
        keep: How many checkpoints that run keeps; None for all.
    """

    name: str
    run_id: str
    into: str
    keep: int | None


@dataclass
class Figures:
    """What a stress counted."""

    runs: int = 0
    kills: int = 0
    reported: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    resumed: dict[str, str] = field(default_factory=dict)
    required: int = 0
    verified: int = 0
    flushed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        outcomes = ", ".join(f"{what}: {count}" for what, count in sorted(self.outcomes.items()))
        reported = sum(len(reported) for reported in self.reported.values())
        return (
            f"{self.runs} runs; {self.kills} kills; {reported} checkpoints reported as saved, "
            f"{self.required} of them in runs that keep all; {self.flushed} flushed at the end, "
            f"{self.verified} verified; {len(self.resumed)} runs linked to their origin; {outcomes}"
        )


def train(action: Action) -> tuple[list[str], str | None]:
    """Go on from a run; return what is reported as saved, and the checkpoint that it began with."""
    in_place = action.into == action.run_id
    callback = mlflow_ckpt.MlflowCheckpoint("loss", run_id=action.into, max_to_keep=action.keep)
    try:
        point = mlflow_ckpt.resume(action.run_id, callbacks=[callback], in_place=in_place)
    except CheckpointNotFoundError:
        model, done, callbacks, origin = small_model(), 0, [callback], None
    else:
        model, done, callbacks = point.model, point.initial_epoch, point.callbacks
        origin = None if in_place else f"{action.run_id}/{point.checkpoint.name}"
    fit(model, *callbacks, initial_epoch=done, epochs=done + EPOCHS, **SHORT)
    return [f"epoch_{epoch:04d}" for epoch in range(done + 1, done + EPOCHS + 1)], origin


def act(talk: Talk, action: Action) -> None:
    """Do one thing, and send what became of it, what was saved, and what it was resumed from."""
    warnings.simplefilter("ignore")
    talk("begins")
    if action.name in COMMANDS:
        options, codes = COMMANDS[action.name]
        result = cli.run(action.name, action.run_id, *options)
        assert result.exit_code in codes, result.output
        talk("did", (f"{action.name} {result.exit_code}", [], None))
        return
    try:
        saved, origin = train(action)
    except CheckpointExistsError as error:
        talk("did", (f"{action.name} {type(error).__name__}", [], None))
    else:
        talk("did", (action.name, saved, origin))


class Stress:
    """Rounds of two processes that act in three runs, some of which new ones take the place of."""

    def __init__(self, seed: int, store: Store, spool: Path, counted: Figures) -> None:
        self.counted = counted
        self._chance = random.Random(seed)
        self._places = {"store": store, "spool": spool}
        self._runs = [new_run() for _ in KEEP]
        self.keep = dict(zip(self._runs, KEEP, strict=True))

    def round(self) -> None:
        """Let two processes act at the same time, and kill the first at times."""
        run_id = self._chance.choice(self._runs)
        other = self._chance.choice([run_id, *self._runs])
        actions = [
            self._choose(["train", "train", "train", "resume"], run_id),
            self._choose(["train", "resume", *COMMANDS], other),
        ]
        processes = [Child(act, action, **self._places) for action in actions]
        for process in processes:
            process.receive("begins")
        killed = self._chance.random() < 0.4
        if killed:
            time.sleep(self._chance.uniform(0, 1.5))
            if processes[0].kill_if_running():
                self.counted.kills += 1
        for action, process in list(zip(actions, processes, strict=True))[killed:]:
            outcome, saved, origin = process.receive("did")
            assert process.join() == 0
            self.counted.outcomes[outcome] += 1
            self.counted.reported[action.into].update(saved)
            if origin is not None:
                self.counted.resumed[action.into] = origin

    def _choose(self, actions: list[str], run_id: str) -> Action:
        keep, into = self.keep[run_id], run_id
        # There must be something to resume from; and a run that is to keep all is not pruned.
        possible = {"resume": self.counted.reported[run_id], "prune": keep}
        name = self._chance.choice([action for action in actions if possible.get(action, True)])
        if name == "resume":
            place = self._chance.randrange(len(KEEP))
            into, keep = new_run(), KEEP[place]
            self._runs[place] = into
            self.keep[into] = keep
        return Action(name, run_id, into, keep)


def check(run_id: str, keep: int | None, spool: Path, counted: Figures) -> None:
    """Check that a run, once what waits for it is flushed, has all that it is to have."""
    waiting = [entry for entry in Spool(spool).entries(run_id) if entry.kind == CHECKPOINT]
    flushed = cli.run("flush", run_id)
    listed = names(run_id)
    left = Spool(spool).entries(run_id)
    # What is left is of a name that another process saved first.
    assert flushed.exit_code == (7 if left else 0), flushed.output
    assert {entry.name for entry in left} <= set(listed), flushed.output
    counted.flushed += len(waiting) - len(left)
    for name in listed:
        assert mlflow_ckpt.verify(run_id, int(name.removeprefix("epoch_"))).ok
        counted.verified += 1
    reported = counted.reported[run_id]
    if keep is None:
        assert reported <= set(listed)
        counted.required += len(reported)
    # The newest stay, whatever the policy: so what was reported is there, or was pruned.
    assert {name for name in reported if name >= max(listed, default="")} <= set(listed)
    if run_id in counted.resumed:
        assert mlflow.get_run(run_id).data.tags[RESUMED_FROM] == counted.resumed[run_id]


def stress(rounds: int, seed: int, store: Store, spool: Path, counted: Figures) -> None:
    acting = Stress(seed, store, spool, counted)
    for _ in range(rounds):
        acting.round()
    counted.runs = len(acting.keep)
    for run_id, keep in acting.keep.items():
        check(run_id, keep, spool, counted)


def test_two_processes_in_the_same_runs(
    http_store: Store, spool: Path, record_property: Callable[[str, object], None]
) -> None:
    counted = Figures()
    try:
        stress(4, 8, http_store, spool, counted)
    finally:
        record_property("counted", str(counted))


@pytest.mark.long
def test_two_processes_in_the_same_runs_for_200_rounds(
    http_store: Store, spool: Path, record_property: Callable[[str, object], None]
) -> None:
    counted = Figures()
    try:
        stress(200, 200, http_store, spool, counted)
    finally:
        record_property("counted", str(counted))
