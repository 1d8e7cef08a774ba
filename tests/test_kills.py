"""A process killed at any moment: what is listed is whole, and nothing that was saved is lost."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast

import pytest

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt._tracking.spool.entries import METRICS
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from tests.support import children
from tests.support.children import Child, Talk, die
from tests.support.flushing import checkpoints_directory, flush_and_check, verify_all
from tests.support.training import names, new_run


@dataclass
class Figures:
    """What a test of kills counted."""

    kills: int = 0
    verified: int = 0
    flushed: int = 0
    moments: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        moments = ", ".join(f"{moment}: {count}" for moment, count in self.moments.most_common())
        return (
            f"{self.kills} kills ({moments}); {self.verified} listed checkpoints verified, "
            f"{self.flushed} entries flushed"
        )


def moment_of(run_id: str, root: Path, store: Store) -> str:
    """Tell from what is on disk what a process was doing when it was killed."""
    drafts = list((root / run_id).glob("*.draft"))
    if any((draft / "entry.json").exists() for draft in drafts):
        return "committing or removing an entry"
    if any((draft / "files").is_dir() and any((draft / "files").iterdir()) for draft in drafts):
        return "writing a checkpoint"
    entries = Spool(root).entries(run_id)
    directories = {path.name: path for path in checkpoints_directory(run_id, store).glob("*_*")}
    if any(list(path.glob("upload-*.json")) for path in directories.values()):
        return "uploading"
    if any(not (path / "manifest.json").exists() for path in directories.values()):
        return "pruning"
    if any(entry.name in directories for entry in entries):
        return "bringing index and tags up to date"
    return "before an upload" if entries else "nothing to send"


def start(run_id: str, root: Path, store: Store) -> Child:
    listed = mlflow_ckpt.list_checkpoints(run_id)
    newest = listed[-1].manifest.epoch if listed else 0
    return Child(
        *(children.train, run_id),
        store=store,
        spool=root,
        initial_epoch=newest,
        most_waiting=2,
        max_to_keep=2,
    )


def kill_at_random(
    kills: int, seed: int, root: Path, store: Store, figures: Figures, *, processes: int = 0
) -> None:
    """Kill a training at random moments, and go on where it was killed."""
    chance = random.Random(seed)
    run_id = new_run()
    for number in range(kills):
        training = start(run_id, root, store)
        try:
            if chance.random() < 0.85:
                training.receive("epoch")
            time.sleep(chance.uniform(0, 1.5))
        finally:
            training.kill()
        figures.kills += 1
        figures.moments[moment_of(run_id, root, store)] += 1
        listed = names(run_id)
        figures.verified += verify_all(run_id, store)
        flushed = flush_and_check(
            *(run_id, root, store), verified=listed, process=number < processes
        )
        figures.flushed += len(flushed)


def test_trainings_killed_at_random_moments(
    http_store: Store, spool: Path, record_property: Callable[[str, object], None]
) -> None:
    figures = Figures()
    try:
        kill_at_random(4, 5, spool, http_store, figures)
    finally:
        record_property("counted", str(figures))
    assert figures.kills == 4


@pytest.mark.long
def test_trainings_killed_at_100_random_moments(
    http_store: Store, spool: Path, record_property: Callable[[str, object], None]
) -> None:
    figures = Figures()
    try:
        kill_at_random(100, 100, spool, http_store, figures, processes=3)
    finally:
        record_property("counted", str(figures))
    # What they were at depends on the machine; each moment has a test of its own, below.
    assert figures.kills == 100


def die_after(_: Talk, owner: str, name: str, suffix: str = "") -> None:
    """Have this process kill itself once it has called a function with a path that ends so."""
    function = _function(owner, name)

    def call(*arguments: Any, **keywords: Any) -> None:
        function(*arguments, **keywords)
        if not suffix or any(str(argument).endswith(suffix) for argument in arguments):
            die()

    setattr(resolve_name(owner), name, call)


def die_before(_: Talk, owner: str, name: str, suffix: str = "") -> None:
    """Have this process kill itself before it calls a function with a path that ends so."""
    function = _function(owner, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        if not suffix or any(_is_there(argument, suffix) for argument in arguments):
            die()
        return function(*arguments, **keywords)

    setattr(resolve_name(owner), name, call)


def _function(owner: str, name: str) -> Callable[..., Any]:
    return cast(Callable[..., Any], getattr(resolve_name(owner), name))


def _is_there(argument: Any, suffix: str) -> bool:
    return str(argument).endswith(suffix) and (not isinstance(argument, Path) or argument.exists())


@dataclass(frozen=True)
class Point:
    """A moment to be killed at.

    Attributes:
        name: What a person calls it.
        how: What makes a process kill itself there.
        arguments: Its arguments.
        waiting: Whether the checkpoint that is being saved is in the spool then.
        listed: Whether the run lists it.
    """

    name: str
    how: Callable[..., None]
    arguments: tuple[str, ...]
    waiting: bool = True
    listed: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


STORE = "mlflow_ckpt._tracking.store:RunStore"
SPOOL = "mlflow_ckpt._tracking.spool.spool_directory:Spool"
DRAFT = "mlflow_ckpt._tracking.spool.drafts:Draft"
PUBLISHING = "mlflow_ckpt._tracking.publishing"
WRITING = [
    Point(
        "amid the files", die_before, ("mlflow_ckpt._saving.compose", "hash_files"), waiting=False
    ),
    Point("before fsync", die_before, ("mlflow_ckpt._tracking.spool.disk", "sync"), waiting=False),
]
ANNOUNCING = [
    Point("before the index", die_before, ("mlflow_ckpt._tracking.index", "record"), listed=True),
    Point("before the tags", die_before, (STORE, "set_tags"), listed=True),
    Point("before the removal", die_before, (SPOOL, "remove"), listed=True),
    Point(
        "amid the removal",
        *(die_before, ("mlflow_ckpt._tracking.spool.spool_directory:shutil", "rmtree", ".draft")),
        waiting=False,
        listed=True,
    ),
    Point("after the removal", die_after, (SPOOL, "remove"), waiting=False, listed=True),
]
UPLOADING = [
    Point("once it is an entry", die_after, (DRAFT, "commit")),
    Point("before the claim", die_before, (STORE, "upload", ".json")),
    Point("after the claim", die_after, (STORE, "write_text")),
    Point("amid the data", die_before, (STORE, "upload", "model.keras")),
    Point("before MLmodel", die_before, (STORE, "upload", "MLmodel")),
    Point("before the manifest", die_before, (STORE, "upload", "/manifest.json")),
    Point("after the manifest", die_after, (STORE, "upload", "/manifest.json"), listed=True),
    Point(
        "after the claim's removal",
        die_after,
        ("mlflow_ckpt._tracking.claims:Claim", "withdraw"),
        listed=True,
    ),
]
PLACING = [
    Point("before the place", die_before, (DRAFT, "move_to"), waiting=False),
    Point("in its place", die_before, (DRAFT, "_rename"), waiting=False, listed=True),
    Point("once it is to be announced", die_after, (DRAFT, "_rename"), listed=True),
]


def kill_and_flush(point: Point, run_id: str, root: Path, store: Store) -> tuple[Any, ...]:
    """Save a checkpoint in a process that is killed there, look, and flush.

    Returns:
        What waited, what was listed, how many of those were whole, and what is listed after all.
    """
    child = Child(
        *(children.save, run_id, 1),
        store=store,
        spool=root,
        prepare=point.how,
        prepare_arguments=point.arguments,
    )
    assert child.join() == -signal.SIGKILL
    waiting = [entry.name for entry in Spool(root).entries(run_id) if entry.kind != METRICS]
    listed, whole = names(run_id), verify_all(run_id, store)
    flush_and_check(run_id, root, store)
    return waiting, listed, whole, names(run_id)


def expected(point: Point) -> tuple[Any, ...]:
    """What `kill_and_flush` is to return."""
    one = ["epoch_0001"]
    return (
        *(one * point.waiting, one * point.listed, int(point.listed)),
        one * (point.listed or point.waiting),
    )


@pytest.mark.parametrize("point", [*WRITING, *UPLOADING, *ANNOUNCING], ids=str)
def test_killed_on_the_way_to_a_server(point: Point, http_store: Store, spool: Path) -> None:
    state = kill_and_flush(point, new_run(), spool, http_store)
    assert state == expected(point)


@pytest.mark.parametrize("point", [*WRITING, *PLACING, *ANNOUNCING], ids=str)
def test_killed_on_the_way_to_local_disk(point: Point, local_store: Store, spool: Path) -> None:
    state = kill_and_flush(point, new_run(), spool, local_store)
    assert state == expected(point)


PRUNING = [
    Point("before the index", die_before, ("mlflow_ckpt._tracking.index", "discard"), listed=True),
    Point("before the manifest", die_before, (STORE, "delete", "/manifest.json"), listed=True),
    Point("after the manifest", die_after, (STORE, "delete", "/manifest.json")),
    Point("amid the files", die_after, (STORE, "delete", "model.keras")),
]


@pytest.mark.parametrize("point", PRUNING, ids=str)
def test_killed_while_it_removes_an_old_checkpoint(point: Point, store: Store, spool: Path) -> None:
    run_id = new_run()
    settings = {"store": store, "spool": spool, "max_to_keep": 1}
    killed = Child(
        *(children.save, run_id, 1, 2),
        prepare=point.how,
        prepare_arguments=point.arguments,
        **settings,
    )
    assert killed.join() == -signal.SIGKILL
    both = ["epoch_0001", "epoch_0002"]
    assert names(run_id) == (both if point.listed else both[1:])
    verify_all(run_id, store)
    flush_and_check(run_id, spool, store)
    assert names(run_id) == (both if point.listed else both[1:])
    # The next training ends what was begun.
    after = Child(children.save, run_id, 3, **settings)
    assert after.receive("saved") == ([], [])
    assert after.join() == 0
    assert names(run_id) == ["epoch_0003"]
    flush_and_check(run_id, spool, store)
