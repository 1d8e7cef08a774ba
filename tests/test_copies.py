"""Copies of a callback, such as a search over hyperparameters makes for each trial."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import mlflow
import pytest

import mlflow_ckpt
from mlflow_ckpt import BestN, LatestN, MlflowCheckpoint
from tests.support.training import fit, names, small_model

pytestmark = pytest.mark.usefixtures("local_store")
Copy = Callable[[MlflowCheckpoint], MlflowCheckpoint]


def by_pickle(callback: MlflowCheckpoint) -> MlflowCheckpoint:
    copied: MlflowCheckpoint = pickle.loads(pickle.dumps(callback))
    return copied


COPIES = pytest.mark.parametrize("make", [copy.deepcopy, copy.copy, by_pickle])


class Named(MlflowCheckpoint):
    """A subclass with another signature and state of its own."""

    def __init__(self, title: str) -> None:
        super().__init__("loss", metadata={"title": title}, retention=LatestN(1) | BestN(1))
        self.seen: list[Any] = [title]


def train(callback: MlflowCheckpoint, epochs: int = 2) -> str:
    with mlflow.start_run() as run:
        fit(small_model(), callback, epochs=epochs, validation_data=None)
    return str(run.info.run_id)


@COPIES
def test_a_copy_made_before_a_training_works_in_another(make: Copy) -> None:
    original = Named("a")
    copied = make(original)
    runs = [train(callback, epochs) for callback, epochs in ((original, 1), (copied, 2))]
    assert names(runs[0]) == ["epoch_0001"]
    assert names(runs[1]) == ["epoch_0002"]
    assert mlflow_ckpt.get_checkpoint(runs[1]).manifest.metadata == {"title": "a"}
    assert original.best is not None and copied.best is not None
    assert copied.best < original.best


@COPIES
def test_a_copy_made_after_a_training_works_in_another(make: Copy) -> None:
    original = Named("a")
    train(original)
    copied = make(original)
    assert copied.best == original.best
    assert getattr(copied, "_model", None) is None, "a copy takes no model with it"
    runs = [train(callback) for callback in (copied, original)]
    assert [names(run) for run in runs] == [["epoch_0002"]] * 2
    assert copied.best == original.best
    assert copied.seen == ["a"]


def test_a_deep_copy_shares_nothing() -> None:
    original = Named("a")
    copied = copy.deepcopy(original)
    copied.seen.append("b")
    assert original.seen == ["a"]


def test_a_copy_of_a_callback_that_resumes_resumes_too() -> None:
    run_id = train(MlflowCheckpoint("loss"), epochs=1)
    point = mlflow_ckpt.resume(run_id)
    restorer, ours = point.callbacks
    with mlflow.start_run() as run:
        fit(point.model, restorer, copy.deepcopy(ours), initial_epoch=1, validation_data=None)
    lineage = mlflow_ckpt.get_checkpoint(run.info.run_id).manifest.lineage
    assert (lineage["run_id"], lineage["checkpoint"]) == (run_id, "epoch_0001")


def test_a_copy_of_a_callback_that_goes_on_in_a_run_leaves_that_run_alone() -> None:
    run_id = train(MlflowCheckpoint("loss"), epochs=1)
    point = mlflow_ckpt.resume(run_id, in_place=True)
    restorer, ours = point.callbacks
    with mlflow.start_run() as run:
        fit(point.model, restorer, copy.deepcopy(ours), initial_epoch=1, validation_data=None)
    assert (names(run_id), names(run.info.run_id)) == (["epoch_0001"], ["epoch_0002"])
