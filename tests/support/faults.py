"""Trainings in which something fails at a moment of its own, and what is counted of them."""

from __future__ import annotations

import http.client
import logging
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import mlflow
import pytest

import mlflow_ckpt
from mlflow_ckpt._format.text import counted
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from tests.support import cli
from tests.support.training import BATCHES, fit, names, small_model
from tests.support.waiting import wait_for

EPOCHS = 2
# When a fault may begin while a model trains.
WHENS = ("start", "step", "validation", "end")


class Course(keras.callbacks.Callback):
    """Lets a fault begin in time, and counts the steps, and the requests that those wait for.

    Args:
        when: One of `WHENS`.
        begin: Called once, then, as by somebody else: on a thread that the training waits for.
        before_end: Called before `MlflowCheckpoint` waits for its uploads.

    Attributes:
        steps: The steps so far.
        waited: Requests on the thread that trains, while it does.
    """

    def __init__(
        self, when: str, begin: Callable[[], object], before_end: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self.steps = 0
        self.waited: list[str] = []
        self._when = when
        self._begin = begin
        self._before_end = before_end
        self._has_begun = self._in_training = False

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the requests of this thread."""
        thread = threading.current_thread()
        original = http.client.HTTPConnection.putrequest

        def putrequest(connection: Any, method: str, url: str, **settings: Any) -> None:
            if self._in_training and threading.current_thread() is thread:
                self.waited.append(f"{method} {url}")
            original(connection, method, url, **settings)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(http.client.HTTPConnection, "putrequest", putrequest)
            yield

    def _reach(self, moment: str) -> None:
        if moment == self._when and not self._has_begun:
            self._has_begun = True
            elsewhere(self._begin)

    def on_train_begin(self, logs: Any = None) -> None:
        self._reach("start")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._in_training = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        if self.steps > 1:
            self._reach("step")

    def on_test_begin(self, logs: Any = None) -> None:
        self._reach("validation")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.params["epochs"] - 1:
            self._reach("end")

    def on_train_end(self, logs: Any = None) -> None:
        # `MlflowCheckpoint` waits for its uploads after this.
        self._in_training = False
        assert self._has_begun
        if self._before_end is not None:
            self._before_end()


def elsewhere(function: Callable[[], object]) -> None:
    """Call a function on a thread of its own, and wait for it."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function).result()


@dataclass
class Counted:
    """What was counted of a training, or of what was done after one.

    Attributes:
        steps: Steps of the training.
        waited: Requests that a step waited for.
        said: How often each warning and each line of the log came.
    """

    steps: int
    waited: list[str]
    said: Counter[str]

    def require_that_training_went_on(self, most_lines: int = 2) -> None:
        """Assert that all steps were made, none of them waited, and little was said."""
        assert self.steps == EPOCHS * BATCHES
        assert self.waited == []
        assert self.said.total() <= most_lines, self.said

    def figures(self, lost: int = 0) -> str:
        """Return all figures, with how many checkpoints were lost."""
        lines = counted(self.said.total(), "line")
        return f"{self.steps} steps, {len(self.waited)} waited, {lost} lost, {lines}"


def figures_of(output: str) -> str:
    """Return the figures of what was done before or after a training, and lost nothing."""
    return Counted(0, [], Counter(output.splitlines())).figures()


class _Lines(logging.Handler):
    """Counts lines of the log, whatever their arguments are."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.said[f"{record.name}: {record.msg}"] += 1


def train(
    course: Course,
    ours: mlflow_ckpt.MlflowCheckpoint,
    *others: keras.callbacks.Callback,
    initial_epoch: int = 0,
) -> Counted:
    """Train for `EPOCHS` epochs, and count."""
    log = _Lines()
    logging.getLogger().addHandler(log)
    try:
        with warnings.catch_warnings(record=True) as caught, course.counting():
            warnings.simplefilter("always")
            fit(
                *(small_model(), course, ours, *others),
                initial_epoch=initial_epoch,
                epochs=initial_epoch + EPOCHS,
            )
    finally:
        logging.getLogger().removeHandler(log)
    log.said.update(str(w.message) for w in caught if w.category is UserWarning)
    return Counted(course.steps, course.waited, log.said)


def send_the_rest(run_id: str) -> None:
    """Flush until nothing is left; this process's own uploader may be at work as well."""

    def sent() -> bool:
        cli.run("flush", run_id)
        return not Spool.default().entries(run_id)

    wait_for(sent, "everything is sent", pause=0.2)


def require_all(
    run_id: str, epochs: int = EPOCHS, *, logged_from: int = 1, alone: bool = True
) -> None:
    """Assert that a run has the checkpoints, the curve and the rows of so many epochs.

    Args:
        run_id: The run.
        epochs: The number of epochs.
        logged_from: The first epoch that the curve has.
        alone: Whether no other process began a row that it did not complete.
    """
    assert names(run_id) == [f"epoch_{epoch:04d}" for epoch in range(1, epochs + 1)]
    assert all(mlflow_ckpt.verify(run_id, epoch).ok for epoch in range(1, epochs + 1))
    client = mlflow.MlflowClient()
    curve = client.get_metric_history(run_id, "loss")
    assert sorted({metric.step for metric in curve}) == list(range(logged_from, epochs + 1))
    experiment = client.get_run(run_id).info.experiment_id
    rows = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'")
    states = Counter(str(row.status) for row in rows)
    assert states["READY"] == epochs
    assert states.total() == epochs or not alone
