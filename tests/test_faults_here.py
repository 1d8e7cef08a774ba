"""A disk that is full, and a run that is deleted: cells of the table in docs/saving.md.

In no cell does a step wait, and nothing is said more than twice. Only a checkpoint for which the
disk has no room is lost.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import mlflow
import pytest
from mlflow.exceptions import MlflowException

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt._tracking.spool.entries import ANNOUNCEMENT, CHECKPOINT
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt.errors import RunNotFoundError
from tests.support import cli
from tests.support.checkpoints import put_checkpoint
from tests.support.children import Child, Talk
from tests.support.faults import (
    EPOCHS,
    WHENS,
    Counted,
    Course,
    elsewhere,
    figures_of,
    require_all,
    train,
)
from tests.support.training import fit, names, new_run, small_model
from tests.support.waiting import PATIENCE_SECONDS

Record = Callable[[str, object], None]


def nothing() -> None:
    """What a fault does that began before the training."""


# --- the disk of the spool -----------------------------------------------------------------------


def test_a_disk_that_cannot_be_written_at_the_start(
    http_store: Store, spool_below_a_file: Path, record_property: Record
) -> None:
    run_id = new_run()
    counted = train(Course("start", nothing), mlflow_ckpt.MlflowCheckpoint("loss", run_id=run_id))
    (message,) = counted.said
    assert re.fullmatch(
        rf"The spool cannot be written: \[Errno 20\] Not a directory: '{spool_below_a_file}'\. "
        r"Checkpoints stay in \S+mlflow_ckpt_spool_\S+ until they are uploaded\. "
        r"Set MLFLOW_CKPT_SPOOL to a writable directory\.",
        message,
    ), message
    require_all(run_id)
    counted.require_that_training_went_on()
    record_property("counted", counted.figures())


def train_on_a_full_disk(talk: Talk, run_id: str, when: str) -> None:
    """Train while the disk is full, until the next epoch if there is one; send what was counted.

    A limit on the size of files, which every write meets as an error, stands in for a full disk.
    """
    ours = mlflow_ckpt.MlflowCheckpoint("loss", run_id=run_id)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def give(room: int) -> None:
        # Once what was saved so far is written, or has met the full disk.
        ours.participant.training.session.saver.flush(patience=PATIENCE_SECONDS)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))

    class Free(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1 and when != "end":
                elsewhere(lambda: give(most))

    talk("counted", train(Course(when, lambda: give(0)), ours, Free()))


@pytest.mark.parametrize("when", ["step", "validation", "end"])
def test_a_disk_that_is_full(
    when: str, http_store: Store, spool: Path, record_property: Record
) -> None:
    run_id = new_run()
    child = Child(train_on_a_full_disk, run_id, when, store=http_store, spool=spool)
    counted: Counted = child.receive("counted")
    assert child.join() == 0
    lost, saved = ("epoch_0002", "epoch_0001") if when == "end" else ("epoch_0001", "epoch_0002")
    (message,) = counted.said
    assert message.startswith(f"The checkpoint {lost} could not be written to {spool}: ")
    assert names(run_id) == [saved]
    assert mlflow_ckpt.verify(run_id).ok
    # There is no room for the metrics either, which are sent at once then.
    curve = mlflow.MlflowClient().get_metric_history(run_id, "loss")
    assert sorted(metric.step for metric in curve) == list(range(1, EPOCHS + 1))
    assert Spool(spool).entries(run_id) == []
    counted.require_that_training_went_on()
    record_property("counted", counted.figures(lost=1))


@pytest.mark.parametrize("when", ["step", "validation", "end"])
def test_a_disk_that_is_gone(
    when: str,
    http_store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:
    """As one that is full, while that of temporary files is not."""
    spool, run_id = tmp_path / "spool", new_run()
    monkeypatch.setenv("MLFLOW_CKPT_SPOOL", str(spool))
    ours = mlflow_ckpt.MlflowCheckpoint("loss", run_id=run_id)

    def unmount() -> None:
        # Once what was saved so far is sent.
        ours.participant.training.session.saver.flush(patience=PATIENCE_SECONDS)
        spool.rename(tmp_path / "unmounted")
        spool.touch()

    counted = train(Course(when, unmount), ours)
    (message,) = counted.said
    assert message.startswith("The spool cannot be written: ")
    require_all(run_id)
    counted.require_that_training_went_on()
    record_property("counted", counted.figures())


# --- the run -------------------------------------------------------------------------------------


def deleted(run_id: str, store: Store, spool: Path) -> str:
    return (
        f"The run {run_id} was deleted at {store.uri}. What was to be sent to it stays in "
        f"{spool / run_id}. Restore the run and send it (mlflow runs restore --run-id {run_id}; "
        f"mlflow-ckpt flush {run_id}), or delete that directory."
    )


def test_a_run_that_is_deleted_is_not_started(http_store: Store, record_property: Record) -> None:
    run_id = new_run()
    mlflow.MlflowClient().delete_run(run_id)
    with pytest.raises(MlflowException, match="deleted") as caught:
        mlflow.start_run(run_id=run_id)
    record_property("counted", figures_of(str(caught.value)))


def test_a_run_that_never_was(http_store: Store, record_property: Record) -> None:
    model = small_model()
    with pytest.raises(RunNotFoundError) as caught:
        fit(model, mlflow_ckpt.MlflowCheckpoint(run_id="c" * 32))
    assert int(model.optimizer.iterations.numpy()) == 0
    record_property("counted", figures_of(str(caught.value)))


@pytest.mark.parametrize("when", WHENS)
def test_a_run_that_is_deleted(
    when: str, store: Store, spool: Path, record_property: Record
) -> None:
    run_id = new_run()
    client = mlflow.MlflowClient()
    course = Course(when, lambda: client.delete_run(run_id))
    ours = mlflow_ckpt.MlflowCheckpoint("loss", run_id=run_id, max_to_keep=EPOCHS)
    # It is not tried again, for which the training would wait.
    ours.drain_timeout = PATIENCE_SECONDS
    counted = train(course, ours)
    assert list(counted.said) == [deleted(run_id, store, spool)]
    waiting = [e.name for e in Spool(spool).entries(run_id) if e.kind in (CHECKPOINT, ANNOUNCEMENT)]
    assert waiting[-1] == "epoch_0002"
    left = cli.run("flush", run_id)
    assert left.exit_code == 7
    assert left.stdout.count("was deleted") == 1
    client.restore_run(run_id)
    assert cli.run("flush", run_id).exit_code == 0
    require_all(run_id)
    counted.require_that_training_went_on()
    record_property("counted", counted.figures())


def test_a_run_that_is_deleted_after_the_process(
    store: Store, spool: Path, record_property: Record
) -> None:
    run_id = new_run()
    put_checkpoint(run_id, store.uri)
    mlflow.MlflowClient().delete_run(run_id)
    left = cli.run("flush", run_id)
    assert left.exit_code == 7
    assert left.stdout == f"Left all of run {run_id} in {spool / run_id}: " + (
        f"{deleted(run_id, store, spool)}\n"
    )
    mlflow.MlflowClient().restore_run(run_id)
    assert cli.run("flush", run_id).exit_code == 0
    assert mlflow_ckpt.verify(run_id, 1).ok
    assert Spool(spool).entries(run_id) == []
    record_property("counted", figures_of(left.stdout))
