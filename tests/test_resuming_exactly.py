"""A training that was resumed in another process is, bit for bit, the one that never stopped."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store
from tests.support import jobs
from tests.support.children import Child
from tests.support.jobs import JOBS, Done
from tests.support.training import names
from tests.support.waiting import wait_for

EPOCHS = 4
INSIDE = {
    "saved inside epochs": "step:20",
    "saved inside epochs, several steps at once": "step:19",
}
# These are enough for every day; the others stand behind the marker `long`.
DAILY = {
    "callbacks that fire",
    "saved inside epochs, several steps at once",
}
SWAPPED = "a moving average that is swapped"
WHOLE_EPOCHS = [name for name in JOBS if name not in INSIDE]


def daily(*arguments: str) -> Any:
    """Parameters of a test that is long unless the job, the first of them, is a daily one."""
    marks = [] if arguments[0] in DAILY else [pytest.mark.long]
    return pytest.param(*arguments, marks=marks, id="-".join(arguments))


Run = Callable[..., Done]


# Trainings of four epochs that never stopped, each done once.
_whole: dict[str, Done] = {}


@pytest.fixture
def run(local_store: Store, spool: Path) -> Run:
    """Does a job in a process of its own."""

    def run(*arguments: object, **keywords: object) -> Done:
        child = Child(jobs.train_in_child, *arguments, store=local_store, spool=spool, **keywords)
        done = child.receive("trained")
        assert child.join() == 0
        assert isinstance(done, Done)
        return done

    return run


def whole_of(run: Run, name: str) -> Done:
    if name not in _whole:
        _whole[name] = run(name, EPOCHS)
    return _whole[name]


def require_identical(whole: Done, resumed: Done, checkpoint: str) -> None:
    """Assert that two trainings ended with the same model, and saved the same in between."""
    assert resumed.weights == whole.weights
    difference = mlflow_ckpt.diff(
        f"ckpt:/{whole.run_id}/{checkpoint}", f"ckpt:/{resumed.run_id}/{checkpoint}"
    )
    assert difference.identical, difference
    metrics = [
        mlflow_ckpt.get_checkpoint(done.run_id, checkpoint).manifest.metrics
        for done in (whole, resumed)
    ]
    assert metrics[0] == metrics[1]
    # What the epoch logged in which the one ended and the other began, too.
    curves = [curves_of(done.run_id) for done in (whole, resumed)]
    assert curves[1]
    assert curves[1] <= curves[0]


def curves_of(run_id: str) -> set[tuple[str, int, float]]:
    """Every point of every curve of a run."""
    client = MlflowClient()
    return {
        (key, point.step, point.value)
        for key in client.get_run(run_id).data.metrics
        for point in client.get_metric_history(run_id, key)
    }


@pytest.mark.parametrize("name", [daily(name) for name in WHOLE_EPOCHS])
def test_two_epochs_and_two_are_four(run: Run, name: str) -> None:
    whole = whole_of(run, name)
    half = run(name, 2)
    resumed = run(name, EPOCHS, half.run_id)
    require_identical(whole, resumed, "latest")
    assert resumed.warned == []
    # It goes on where the other ended, and begins nothing anew.
    assert names(resumed.run_id) == ["epoch_0003", "epoch_0004"]


@pytest.mark.long
def test_from_the_middle_of_a_training_of_four_epochs(run: Run) -> None:
    whole = whole_of(run, SWAPPED)
    resumed = run(SWAPPED, EPOCHS, whole.run_id, "epoch:2")
    require_identical(whole, resumed, "latest")
    assert resumed.warned == []


@pytest.mark.parametrize(("name", "checkpoint"), [daily(*case) for case in INSIDE.items()])
def test_from_inside_an_epoch(run: Run, name: str, checkpoint: str) -> None:
    whole, half = whole_of(run, name), run(name, 2)
    resumed = run(name, EPOCHS, half.run_id, checkpoint)
    require_identical(whole, resumed, "latest")
    assert resumed.warned == []


def test_twice_in_a_row_and_in_place(run: Run) -> None:
    name = "callbacks that fire"
    whole, first = whole_of(run, name), run(name, 1)
    second = run(name, 2, first.run_id)
    third = run(name, 3, second.run_id)
    last = run(name, EPOCHS, third.run_id, in_place=True, run_id=third.run_id)
    assert last.run_id == third.run_id
    require_identical(whole, last, "epoch:4")


def started(store: Store, spool: Path, seed: int, name: str) -> tuple[Child, str]:
    """Start a training, and wait for a random moment after its first checkpoint."""
    child = Child(jobs.train_in_child, name, EPOCHS, store=store, spool=spool, slow=0.02)
    run_id = child.receive("run")
    wait_for(lambda: mlflow_ckpt.list_checkpoints(run_id), "the first checkpoint")
    time.sleep(random.Random(seed).uniform(0.0, 0.6))
    return child, run_id


def kill_and_resume(run: Run, store: Store, spool: Path, seed: int, name: str) -> None:
    whole = whole_of(run, name)
    child, run_id = started(store, spool, seed, name)
    child.kill()
    resumed = run(name, EPOCHS, run_id, in_place=True, run_id=run_id)
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    require_identical(whole, resumed, "latest")
    for key in mlflow.get_run(run_id).data.metrics:
        steps = [metric.step for metric in mlflow.MlflowClient().get_metric_history(run_id, key)]
        assert steps == sorted(set(steps)), f"{key} was logged twice"


def test_after_a_preemption_in_the_middle_of_an_epoch(
    run: Run, local_store: Store, spool: Path
) -> None:
    name = "the CNN on digits"  # without validation, in which no step could be repeated
    whole = whole_of(run, name)
    child = Child(jobs.train_in_child, name, EPOCHS, store=local_store, spool=spool, preempted=True)
    run_id = child.receive("run")
    assert child.join() == 143
    newest = mlflow_ckpt.get_checkpoint(run_id).manifest
    resumed = run(name, EPOCHS, run_id, in_place=True, run_id=run_id)
    require_identical(whole, resumed, "latest")
    assert resumed.warned == []
    assert (newest.name, newest.interrupted) == ("step_00000008", "SIGTERM")


def test_after_a_kill_at_a_random_moment(run: Run, local_store: Store, spool: Path) -> None:
    kill_and_resume(run, local_store, spool, 1, "callbacks that fire")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["callbacks that fire", "saved inside epochs"])
def test_after_kills_at_random_moments(
    run: Run, local_store: Store, spool: Path, seed: int, name: str
) -> None:
    kill_and_resume(run, local_store, spool, 100 + seed, name)
