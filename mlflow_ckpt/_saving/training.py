"""One training: from the first event that Keras reports to its end, whichever way it ends."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import keras
import mlflow

from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.lineage import Origin
from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._model.training.fit_context import FitContext
from mlflow_ckpt._saving import mlflow_callbacks
from mlflow_ckpt._saving.arguments import check_each_once
from mlflow_ckpt._saving.batch_counter import BatchCounter
from mlflow_ckpt._saving.member import Member
from mlflow_ckpt._saving.session import Session
from mlflow_ckpt._saving.signals import SignalHandler, is_whole
from mlflow_ckpt.errors import MlflowCkptError


class Participant:
    """What a training knows of a callback that saves it.

    Args:
        callback: The callback.
        member: What it wants saved.

    Attributes:
        callback: The callback.
        member: What it wants saved.
        training: The trainings that it leads.
        leader: The training that saves for it, if an earlier callback of its `fit` leads.
    """

    def __init__(self, callback: SavingCallback, member: Member) -> None:
        self.callback, self.member = callback, member
        self.training = Training(self)
        self.leader: Training | None = None

    @property
    def lead(self) -> Training:
        """The training that saves for it: its own, or that of an earlier callback."""
        return self.leader or self.training


class SavingCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback that saves a training, alone or together with others.

    Attributes:
        run_id: The run to save to; MLflow's active run if None.
        drain_timeout: Seconds to wait at the end for a server that does not answer.
        data_state_limit: Largest state of a `tf.data` iterator to save, in bytes.
        participant: What other trainings know of it.
    """

    run_id: str | None
    drain_timeout: float
    data_state_limit: int
    participant: Participant


class Training:
    """The trainings that a callback leads, one after another.

    The first callback of a `fit` that saves to a run leads: it saves for the others, its followers.

    Args:
        own: The callback.

    Attributes:
        session: The run, the checkpoints and the messages.
        signals: Defers signals until between two batches.
        fit: The `fit` that runs; None before the first.
        followers: The other callbacks that save to the same run.
        is_running: Whether a training has begun and not ended.
        has_begun: Whether its first epoch has begun, so that there may be something to save.
        is_observed: Whether Keras's events are seen before other callbacks see them.
    """

    def __init__(self, own: Participant) -> None:
        self.session = Session(own.member)
        self.signals = SignalHandler(own.callback)
        self.fit: FitContext | None = None
        self.followers: list[Participant] = []
        self.is_running = self.has_begun = self.is_observed = False
        self._own = own
        self._validated = self._others_log = False
        self._history: Any = None
        self._process = 0
        self._thread: threading.Thread | None = None
        self._began = 0.0

    @property
    def model(self) -> keras.Model:
        """The model that is trained. To ask for it ends what JAX computes ahead."""
        return self._own.callback.model

    @property
    def run_id(self) -> str:
        """The run that it saves to."""
        return self.session.saver.run_id

    @property
    def batch(self) -> int:
        """Number of completed batches of the current epoch."""
        return self._batches.batch

    @property
    def _batches(self) -> BatchCounter:
        return self._own.member.batches

    def begin(self, origin: Origin | None, *, in_place: bool) -> None:
        """Find or start the run, and check that the model can be saved.

        Args:
            origin: The checkpoint that the training continues from; None for a new training.
            in_place: Whether it continues in the same run.

        Raises:
            InvalidArgumentError: If it continues in the same run while another one is active, or
                callbacks contradict each other, or one stands twice.
            UnsupportedModelError: If Keras cannot save the model.
        """
        callback = self._own.callback
        self.fit = fit = FitContext(callback, callback.data_state_limit)
        participants = _participants(fit)
        check_each_once(participants)
        for other in participants:
            if other.training._is_left_by(fit):
                other.training.end("FAILED", quietly=True)
        settle_run(callback.run_id or _active_run_id(), continued_by=self.model)
        self.is_observed = fit.surround(callback, self._batches.end_batch, self._pause_before_all)
        self.session.begin(
            *(self.model, callback.run_id, origin), in_place=in_place, others=self._find_followers
        )
        fit.settings = self.session.group.recorded()
        self._check_mlflow_callbacks(fit.callbacks)
        self.has_begun = False
        self._process, self._thread = os.getpid(), threading.current_thread()
        self._began = time.monotonic()
        self._history = getattr(self.model, "history", None)
        self.is_running = True
        _running.append(self)
        atexit.register(self._at_exit)

    def _is_left_by(self, fit: FitContext) -> bool:
        """Whether its last training ended in an exception, as another one begins."""
        return self.is_running and not (self.fit is not None and self.fit.is_of(fit))

    def _find_followers(self, run_id: str) -> list[Member]:
        """Find the other callbacks of this training that save to the run."""
        self.followers = [
            other
            for other in _participants(self.fit)
            if other is not self._own and (other.callback.run_id or _active_run_id()) == run_id
        ]
        return [follower.member for follower in self.followers]

    def _check_mlflow_callbacks(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        """Leave metrics to MLflow's own callback if it logs them to the same run."""
        others_log = mlflow_callbacks.logs_epochs(callbacks)
        self._others_log = self.session.defer_metrics(
            others_log=others_log, by_steps=mlflow_callbacks.logs_steps(callbacks)
        )
        if mlflow_callbacks.saves(callbacks):
            self.session.group.messages.warn_once(mlflow_callbacks.DUPLICATE)

    def skipped(self, batches: int) -> int:
        """Return how many of the completed batches are left out; the others are repeated."""
        return 0 if self.fit is None else self.fit.skipped(batches)

    def begin_epoch(self, epoch: int, batches: int) -> None:
        """Begin an epoch; before the first one, check that no checkpoint would be overwritten.

        Args:
            epoch: Number of completed epochs.
            batches: Number of its batches that are completed.

        Raises:
            CheckpointExistsError: If the training would overwrite checkpoints.
            RunNotFoundError: If the run does not exist.
        """
        first = not self.has_begun
        if first:
            named_by_step = self.session.group.saves_within_epochs
            try:
                self.session.check_run(self.model, epoch, named_by_step=named_by_step)
            except BaseException:
                # Rejected before its first step: there is nothing to save at exit.
                self.end("FAILED", limit=0.0, quietly=True)
                raise
            self.has_begun = True
        self._validated = False
        if self.fit is not None:
            self.fit.begin_epoch(epoch, batches)
        if first or not self.is_observed:
            self.pause()

    def is_last_batch(self, params: Mapping[str, Any] | None) -> bool:
        """Whether all batches of the epoch are completed, as far as their number is known."""
        steps = None if self.fit is None else self.fit.steps(params)
        return steps is not None and self.batch >= steps

    def begin_validation(self) -> None:
        """Keep what a validation changes."""
        self._validated = True
        if self.is_running and self.fit is not None:
            self.fit.begin_validation()

    @property
    def validates_later(self) -> bool:
        """Whether the epoch ended without the validation that `fit` makes in other epochs."""
        return self.fit is not None and self.fit.validates and not self._validated

    def end_epoch(self, completed: int, metrics: Mapping[str, float]) -> None:
        """Log an epoch's metrics.

        Args:
            completed: Number of completed epochs.
            metrics: The metrics.
        """
        if self.fit is not None:
            self.fit.end_epoch(self.batch)
        if metrics and not self._others_log:
            self.session.log_metrics(metrics, completed)

    def request(self, asking: Participant, unit: str, metrics: Mapping[str, float]) -> None:
        """Note that a callback wants a checkpoint of the present state.

        Args:
            asking: The callback.
            unit: What the checkpoint is named by: `"epoch"` or `"step"`.
            metrics: The metrics to record.
        """
        member, model = asking.member, asking.callback.model
        number = member.batches.epoch if unit == "epoch" else introspection.step_of(model)
        name = CheckpointName(unit, number)
        self.session.request(member, model, name, metrics, asking.callback.params)

    def save_requested(self, asking: Participant, *, ended: bool = False) -> None:
        """Save what callbacks requested, once the last of them could request it.

        Args:
            asking: The callback that is told of an event.
            ended: Whether it is the end of an epoch.
        """
        if not self._is_last(asking) or not (ended or self.session.has_requests):
            return
        epoch = self._batches.epoch
        saved = self.session.save_requested(
            self.model, epoch=epoch, capture=self._capture, ended=ended
        )
        if saved or ended:
            self.session.notify(self._own.callback.params)

    def _is_last(self, participant: Participant) -> bool:
        """Whether a callback is the last of those that save together."""
        return participant is [self._own, *self.followers][-1]

    def _capture(self) -> TrainingState:
        """Capture the training state that is not part of the model."""
        if self.fit is None:
            return TrainingState()
        return self.fit.capture(batch=self.batch, params=self._own.callback.params)

    def end_as_planned(self, asking: Participant) -> None:
        """End a training that came to its end, though a signal may have been received.

        Args:
            asking: The callback that is told of the end.

        Raises:
            KeyboardInterrupt: After SIGINT.
            SystemExit: After SIGTERM.
        """
        if not self._is_last(asking):
            return
        signalled = self.signals.received is not None
        self.end("FINISHED", limit=self.patience if signalled else None)
        if not self._others_of_fit():
            self.signals.raise_received()

    def _others_of_fit(self) -> list[Training]:
        """Return the trainings that save the same `fit` to other runs."""
        return [
            other
            for other in _running
            if other is not self and self.fit and other.fit and self.fit.is_of(other.fit)
        ]

    @property
    def patience(self) -> float:
        """Seconds to wait for a server that does not answer."""
        return max(one.callback.drain_timeout for one in (self._own, *self.followers))

    def _pause_before_all(self) -> None:
        """Do the same before other callbacks are told that an epoch or a batch begins."""
        if self.has_begun:
            self.pause()

    def pause(self) -> None:
        """End the training between two batches if a signal was received.

        Raises:
            KeyboardInterrupt: After SIGINT.
            SystemExit: After SIGTERM.
        """
        if self.signals.received is None:
            return
        reason = str(self.signals.reason)
        trainings = [self, *self._others_of_fit()]
        if self.fit is not None:
            self.fit.await_reports()
        patience = max(training.patience for training in trainings)
        self.session.group.messages.notify_interrupted(reason, patience)
        end = time.monotonic() + patience
        with ExitStack() as stack:
            for training in trainings:
                stack.callback(training._end_interrupted, end)
            for training in trainings:
                training._save_interrupted(reason)
        self.signals.raise_received()

    def _save_interrupted(self, reason: str) -> None:
        batches = self._batches
        self.session.save_interrupted(self.model, batches, reason, self._capture)

    def _end_interrupted(self, end: float) -> None:
        """End the training, and wait for its uploads until `end` in monotonic seconds."""
        self.end("KILLED", limit=max(0.0, end - time.monotonic()), quietly=True)

    def break_off(self, exc: BaseException | None) -> None:
        """Save the last consistent state of a training that an exception ended.

        Args:
            exc: The exception; None if it is unknown, or there is none.
        """
        interrupted = isinstance(exc, KeyboardInterrupt)
        reason = "exit" if exc is None else type(exc).__name__
        try:
            if not isinstance(exc, MlflowCkptError):
                self._save_if_whole(exc, reason)
        finally:
            limit = self.patience if interrupted else None
            self.end("KILLED" if interrupted else "FAILED", limit=limit, quietly=True)

    def _save_if_whole(self, exc: BaseException | None, reason: str) -> None:
        if not self.has_begun:
            return  # nothing has been trained, and Keras has not told at which epoch
        if self.fit is not None:
            self.fit.await_reports()
        if getattr(self.model, "history", None) is not self._history:
            when = f"({reason}), and the model has been trained further since"
        elif not is_whole(self.model, exc, in_step=self._batches.in_step):
            when = f"inside a step ({reason}), which may have left the model half updated"
        else:
            self._save_interrupted(reason)
            return
        self.session.group.messages.warn(
            f"Training was interrupted {when}, so its state was not saved. Checkpoints are intact."
        )

    def settle(self, continued_by: keras.Model | None) -> None:
        """End this training if an exception did, and wait for its uploads. See `settle_run`."""
        if not self.signals.is_abandoned:
            self.session.saver.flush(patience=self.patience)
        elif self.model is continued_by:
            self.end("FAILED", quietly=True)
        else:
            self.break_off(sys.exception() or getattr(sys, "last_value", None))

    def _at_exit(self) -> None:
        # A forked child inherits this handler, but neither the threads nor the training.
        if not self.is_running or self._process != os.getpid():
            return
        if self._thread is threading.current_thread():
            self.break_off(getattr(sys, "last_value", None))
        else:
            # The training thread may be in the middle of a step.
            self.end("FAILED", quietly=True)

    def end(self, status: str, *, limit: float | None = None, quietly: bool = False) -> None:
        """Wait for the uploads, and end the run if the callback started it.

        Args:
            status: Final status of the run: `"FINISHED"`, `"FAILED"` or `"KILLED"`.
            limit: Total seconds to wait; None to wait while there is progress.
            quietly: Warn rather than raise, because another exception is propagating.
        """
        self.is_running = False
        for follower in self.followers:
            if follower.leader is self:
                follower.leader = None
        with suppress(ValueError):
            _running.remove(self)
        seconds = time.monotonic() - self._began
        atexit.unregister(self._at_exit)
        self.session.end(
            status,
            self.signals,
            patience=self.patience,
            limit=limit,
            params=self._own.callback.params,
            quietly=quietly,
            report=self.session.group.wants_report(seconds),
        )


# The trainings in this process that have begun and not ended.
_running: list[Training] = []


def leader_of(participant: Participant) -> Training | None:
    """Return the training of the running `fit` that saves for a callback too, if any."""
    for leader in list(_running):
        if leader.fit is not None and leader.fit.is_running and participant in leader.followers:
            return leader
    return None


def settle_run(run_id: str | None, *, continued_by: keras.Model | None = None) -> None:
    """Make what this process has trained in a run available, before training goes on from it.

    A training that an exception ended without a context manager is ended now instead of at exit:
    its last consistent state is saved, and it never writes again. Waits for all uploads.

    Args:
        run_id: The run; None for no run.
        continued_by: The model that is trained next, whose own state need not be saved.
    """
    for training in [training for training in _running if training.run_id == run_id]:
        training.settle(continued_by)


def _participants(fit: FitContext | None) -> list[Participant]:
    """Return the callbacks of a `fit` that save; none if its callbacks are unknown."""
    callbacks = [] if fit is None else fit.callbacks
    return [callback.participant for callback in callbacks if isinstance(callback, SavingCallback)]


def _active_run_id() -> str | None:
    active = mlflow.active_run()
    return None if active is None else str(active.info.run_id)
