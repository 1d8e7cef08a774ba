"""Two processes that train, flush, prune, list, verify and resume in one run, and are killed.

Nothing but documented errors, every listed checkpoint verifies, and nothing that was saved is lost.
"""

from __future__ import annotations

import random
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt._tracking.spool.entries import CHECKPOINT
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt.errors import CheckpointExistsError, CheckpointNotFoundError
from tests.support import cli
from tests.support.children import Child, Talk
from tests.support.training import fit, names, new_run, small_model

EPOCHS = 2
SHORT = {"batch_size": 24, "validation_data": None}
# By command, the exit codes that docs/cli.md gives for a run that others change: nothing there yet,
# and entries that another process is sending.
COMMANDS = {
    "flush": ((), (0, 7)),
    "prune": (("--keep-last", "2"), (0, 3)),
    "list": ((), (0, 3)),
    "verify": (("--all",), (0, 3)),
}


@dataclass
class Figures:
    """What a stress counted."""

    kills: int = 0
    reported: set[str] = field(default_factory=set)
    verified: int = 0
    flushed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        outcomes = ", ".join(f"{what}: {count}" for what, count in sorted(self.outcomes.items()))
        return (
            f"{self.kills} kills; {len(self.reported)} checkpoints reported as saved, "
            f"{self.flushed} flushed at the end, {self.verified} verified; {outcomes}"
        )


def train(run_id: str) -> list[str]:
    """Go on with the run where it is, and return the checkpoints that are reported as saved."""
    callback = mlflow_ckpt.MlflowCheckpoint("loss", run_id=run_id, max_to_keep=3)
    try:
        point = mlflow_ckpt.resume(run_id, callbacks=[callback], in_place=True)
    except CheckpointNotFoundError:
        model, done, callbacks = small_model(), 0, [callback]
    else:
        model, done, callbacks = point.model, point.initial_epoch, point.callbacks
    fit(model, *callbacks, initial_epoch=done, epochs=done + EPOCHS, **SHORT)
    return [f"epoch_{epoch:04d}" for epoch in range(done + 1, done + EPOCHS + 1)]


def act(talk: Talk, run_id: str, action: str) -> None:
    """Do one thing, and send what became of it and what was saved."""
    warnings.simplefilter("ignore")
    talk("begins")
    if action != "train":
        options, codes = COMMANDS[action]
        result = cli.run(action, run_id, *options)
        assert result.exit_code in codes, result.output
        talk("did", (f"{action} {result.exit_code}", []))
        return
    try:
        saved = train(run_id)
    except CheckpointExistsError as error:
        talk("did", (f"train {type(error).__name__}", []))
    else:
        talk("did", ("train", saved))


def one_round(
    chance: random.Random, run_id: str, store: Store, spool: Path, counted: Figures
) -> None:
    """Let two processes act at the same time, and kill the first at times."""
    actions = ["train", chance.choice(["train", *COMMANDS])]
    processes = [Child(act, run_id, action, store=store, spool=spool) for action in actions]
    for process in processes:
        process.receive("begins")
    killed = chance.random() < 0.4
    if killed:
        time.sleep(chance.uniform(0, 1.5))
        if processes[0].kill_if_running():
            counted.kills += 1
    for process in processes[killed:]:
        outcome, saved = process.receive("did")
        assert process.join() == 0
        counted.outcomes[outcome] += 1
        counted.reported.update(saved)


def stress(rounds: int, seed: int, store: Store, spool: Path, counted: Figures) -> None:
    chance = random.Random(seed)
    run_id = new_run()
    for _ in range(rounds):
        one_round(chance, run_id, store, spool, counted)
    waiting = [entry for entry in Spool(spool).entries(run_id) if entry.kind == CHECKPOINT]
    flushed = cli.run("flush", run_id)
    listed = names(run_id)
    left = Spool(spool).entries(run_id)
    # What is left is of a name that another process saved first.
    assert flushed.exit_code == (7 if left else 0), flushed.output
    assert {entry.name for entry in left} <= set(listed), flushed.output
    counted.flushed = len(waiting) - len(left)
    for name in listed:
        assert mlflow_ckpt.verify(run_id, int(name.removeprefix("epoch_"))).ok
        counted.verified += 1
    # The newest stay, whatever the policy: so what was reported is there, or was pruned.
    newest = sorted(counted.reported)[-1:]
    assert max(listed, default="") >= max(newest, default="")
    kept = {entry.name for entry in left} | set(listed)
    assert counted.reported & {name for name in counted.reported if name >= listed[-1]} <= kept


def test_two_processes_in_one_run(
    http_store: Store, spool: Path, record_property: Callable[[str, object], None]
) -> None:
    counted = Figures()
    try:
        stress(4, 3, http_store, spool, counted)
    finally:
        record_property("counted", str(counted))


@pytest.mark.long
def test_two_processes_in_one_run_for_200_rounds(
    http_store: Store, spool: Path, record_property: Callable[[str, object], None]
) -> None:
    counted = Figures()
    try:
        stress(200, 200, http_store, spool, counted)
    finally:
        record_property("counted", str(counted))
