"""The Keras callback that saves checkpoints and metrics of a training to an MLflow run."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

import keras
import mlflow

from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.lineage import Origin
from mlflow_ckpt._format.retention import RetentionPolicy
from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._model.keras_private.callback_internals import SET_BY_KERAS
from mlflow_ckpt._model.training.data.feed import STATE_LIMIT
from mlflow_ckpt._model.training.fit_context import FitContext
from mlflow_ckpt._saving import mlflow_callbacks
from mlflow_ckpt._saving.arguments import CallbackArguments, check_each_once, check_run_id
from mlflow_ckpt._saving.batch_counter import BatchCounter
from mlflow_ckpt._saving.member import Member
from mlflow_ckpt._saving.scalars import scalars
from mlflow_ckpt._saving.session import Session
from mlflow_ckpt._saving.signals import SignalHandler, is_whole
from mlflow_ckpt.errors import MlflowCkptError

# Attributes that copies have anew.
_OF_TRAININGS = SET_BY_KERAS | {
    "_began", "_first_epoch_checked", "_fit", "_followers", "_history", "_in_place", "_leader",
    "_member", "_observed", "_others_log", "_process", "_session", "_signals", "_thread",
    "_training", "_validated",
}  # fmt: skip


class MlflowCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Logs checkpoints, fingerprints and metrics of a training into an MLflow run.

    Replaces `keras.callbacks.ModelCheckpoint` and takes the same arguments:

        with mlflow.start_run(), mlflow_ckpt.MlflowCheckpoint() as checkpoints:
            model.fit(x, y, epochs=5, callbacks=[checkpoints])

    Each checkpoint is a directory of run artifacts, `checkpoints/epoch_0003` at the end of an
    epoch or `checkpoints/step_00001500` within one. A checkpoint becomes visible only when it is
    complete (docs/format.md).

    Training blocks only while its state is copied in memory. Background threads then write the
    checkpoint to disk and upload it; whatever the server has not confirmed stays in a spool on this
    machine (docs/saving.md). Everything has been uploaded when `fit` returns. If training is
    interrupted, the last consistent state is saved: immediately if the callback is used as a
    context manager, otherwise when the process exits.

    Several in one `fit` work together if they save to the same run (docs/saving.md).

    Args:
        monitor: The metric that decides which checkpoint is best.
        verbose: 1 prints one line per checkpoint, 0 prints nothing.
        save_best_only: Save only when the monitored metric improved.
        mode: `"min"`, `"max"`, or `"auto"` to infer it from the metric.
        save_freq: `"epoch"`, or a number of batches. With `save_best_only` and a monitor that is
            known only after the validation, a checkpoint that is due waits for it.
        initial_value_threshold: Value that the metric must beat to count as the best.
        max_to_keep: Number of newest checkpoints to keep, in addition to the best one: shorthand
            for `retention=LatestN(max_to_keep)`.
        forms: `"full"` (architecture, weights, optimizer and compile settings in one file),
            `"split"` (architecture and weights in separate files), or both.
        full_format: `"keras"`, or `"h5"` for the legacy HDF5 format.
        run_id: The run to log to; the active run if None. If no run is active, the callback starts
            one and ends it when training ends.
        log_metrics: Log the epoch's metrics to the run, at step = completed epochs, unless one of
            MLflow's own callbacks, such as autolog's, already does.
        metadata: JSON-serializable values to store in every checkpoint, such as class names.
        retention: Which checkpoints the run keeps: `LatestN`, `BestN`, `EveryN`, `AnyOf`.
        on_error: What to do if a checkpoint cannot be saved or uploaded: `"warn"` and continue
            training, or `"raise"` at the end of the batch or epoch.
        drain_timeout: Seconds to wait at the end of training for a server that does not answer;
            after a signal, the total seconds to wait. Unsent entries stay in the spool.
        weight_metrics: Log the norm of every weight, and of its change since the last checkpoint,
            as metrics of the run: `weights/<tensor>/norm` and `weights/<tensor>/update`.
        test_load: Whether to load the first checkpoint in the background, and to say at once, as
            `on_error` does, if it cannot be loaded.
        report: Whether to draw `checkpoints/report.html`, a page of curves and weights
            (docs/report.md), at the end of training, which takes seconds. `"auto"` draws it if
            training took a minute or longer.
        data_state_limit: Largest state of a `tf.data` iterator, in bytes as estimated from its
            buffers, to save within an epoch. Of a larger one, only the position is saved, and a
            resumed training reads the data up to there again (docs/resuming.md).

    Raises:
        InvalidArgumentError: If an argument is invalid.
    """

    _thread: threading.Thread | None = None
    _history: Any = None
    _fit: FitContext | None = None
    _origin: Origin | None = None
    _in_place = False
    _begun_batches = 0

    def __init__(
        self,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
        max_to_keep: int | None = None,
        *,
        forms: Sequence[str] = ("full",),
        full_format: str = "keras",
        run_id: str | None = None,
        log_metrics: bool = True,
        metadata: Mapping[str, Any] | None = None,
        retention: RetentionPolicy | None = None,
        on_error: str = "warn",
        drain_timeout: float = 30.0,
        weight_metrics: bool = False,
        test_load: bool = True,
        report: bool | str = "auto",
        data_state_limit: int = STATE_LIMIT,
    ) -> None:
        super().__init__()
        arguments = CallbackArguments(
            monitor=monitor,
            verbose=verbose,
            save_best_only=save_best_only,
            mode=mode,
            save_freq=save_freq,
            initial_value_threshold=initial_value_threshold,
            max_to_keep=max_to_keep,
            forms=forms,
            full_format=full_format,
            log_metrics=log_metrics,
            metadata=metadata,
            retention=retention,
            on_error=on_error,
            drain_timeout=drain_timeout,
            weight_metrics=weight_metrics,
            test_load=test_load,
            report=report,
            data_state_limit=data_state_limit,
        )
        self.run_id = check_run_id(run_id)
        self.monitor, self.mode, self.verbose = arguments.monitor, arguments.mode, arguments.verbose
        self.save_freq, self.save_best_only = arguments.save_freq, arguments.save_best_only
        self.log_metrics, self.drain_timeout = arguments.log_metrics, arguments.drain_timeout
        self.report, self.data_state_limit = arguments.report, arguments.data_state_limit
        # Keras may call `on_train_batch_end` late, on another thread, if nothing is saved there.
        self.async_safe = self.save_freq == "epoch"
        self._set_up(arguments)

    def _set_up(self, arguments: CallbackArguments) -> None:
        """Create what a training needs."""
        self._member = Member(arguments)
        self._session = Session(self._member)
        self._signals = SignalHandler(self)
        self._leader: MlflowCheckpoint | None = None
        self._followers: list[MlflowCheckpoint] = []
        self._training = self._first_epoch_checked = self._others_log = False
        self._observed = self._validated = False
        self._process = 0
        self._began = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: all but the model and the trainings, whose best value it has.

        Searches over hyperparameters copy callbacks for each trial.
        """
        kept = {name: value for name, value in vars(self).items() if name not in _OF_TRAININGS}
        return {"kept": kept, "arguments": self._member.arguments, "best": self.best}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Make this the copy of the callback whose state `__getstate__` returned."""
        super().__init__()
        self.__dict__.update(state["kept"])
        self._set_up(state["arguments"])
        self._member.best.best = state["best"]

    def resume_from(self, origin: Origin, *, in_place: bool, batch: int) -> None:
        """Continue the next training from a checkpoint; called by `resume`.

        Args:
            origin: The checkpoint.
            in_place: Whether to continue in the same run.
            batch: Number of completed batches of the current epoch.
        """
        self._origin, self._in_place, self._begun_batches = origin, in_place, batch

    def get_state(self) -> dict[str, Any]:
        """Return the state that a resumed training needs."""
        return self._member.state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `get_state` returned."""
        self._member.restore(state)

    @property
    def best(self) -> float | None:
        """The best value of the monitored metric so far; None before the first."""
        return self._member.best.best

    @property
    def _batches(self) -> BatchCounter:
        return self._member.batches

    @property
    def _lead(self) -> MlflowCheckpoint:
        """The first callback of a training that saves to the same run, which saves for all."""
        return self._leader or self

    @property
    def is_losing_data(self) -> bool:
        """Whether the last training left data in a spool that is about to be lost.

        So it is if the server did not take everything, and the spool is a temporary directory or on
        a container's own file system. A script may then end with another exit code.
        """
        return self._member.messages.is_losing_data

    def __enter__(self) -> Self:
        """Return the callback itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Save and upload the last state of an interrupted training."""
        if self._lead._training:
            self._lead._break_off(exc)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Find or start the run, and check that the model can be saved before it is trained."""
        if self._training:
            # The previous training ended in an exception that the caller caught.
            self._end_training("FAILED", quietly=True)
        self._batches.begin_epoch(0)
        self._followers, self._leader = [], _leader_of(self)
        if self._leader is None:
            self._begin_training()
            self._signals.install()
        elif self._leader._fit is not None:
            # After the leader, so that all have asked for their checkpoints when the last one has.
            self._leader._fit.move_to_end(self)

    def _begin_training(self) -> None:
        """Begin a training, for the later callbacks too that save to the same run."""
        self._fit = fit = FitContext(self, self.data_state_limit)
        ours = [other for other in fit.callbacks if isinstance(other, MlflowCheckpoint)]
        check_each_once(ours)
        for other in ours:
            if other._is_left_by(fit):
                other._end_training("FAILED", quietly=True)
        settle_run(self.run_id or _active_run_id(), continued_by=self.model)
        self._observed = self._fit.surround(self, self._batches.end_batch, self._pause_before_all)
        self._session.begin(
            *(self.model, self.run_id, self._origin),
            in_place=self._in_place,
            others=self._find_followers,
        )
        self._fit.settings = self._session.group.recorded()
        self._check_mlflow_callbacks(self._fit.callbacks)
        self._first_epoch_checked = False
        self._process, self._thread = os.getpid(), threading.current_thread()
        self._began = time.monotonic()
        self._history = getattr(self.model, "history", None)
        self._training = True
        _running.append(self)
        atexit.register(self._at_exit)

    def _is_left_by(self, fit: FitContext) -> bool:
        """Whether its last training ended in an exception, as another one begins."""
        return self._training and not (self._fit is not None and self._fit.is_of(fit))

    def _find_followers(self, run_id: str) -> list[Member]:
        """Find the other callbacks of this training that save to the run."""
        others = [] if self._fit is None else self._fit.callbacks
        self._followers = [
            other
            for other in others
            if isinstance(other, MlflowCheckpoint)
            and other is not self
            and (other.run_id or _active_run_id()) == run_id
        ]
        return [follower._member for follower in self._followers]

    def _check_mlflow_callbacks(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        """Leave metrics to MLflow's own callback if it logs them to the same run."""
        others_log = mlflow_callbacks.logs_epochs(callbacks)
        self._others_log = self._session.defer_metrics(
            others_log=others_log, by_steps=mlflow_callbacks.logs_steps(callbacks)
        )
        if mlflow_callbacks.saves(callbacks):
            self._session.group.messages.warn_once(mlflow_callbacks.DUPLICATE)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Start an epoch; before the first one, check that no checkpoint would be overwritten."""
        done, self._begun_batches = self._begun_batches, 0
        if self._leader is not None:
            self._batches.begin_epoch(epoch, self._leader._batches.batch)
            return
        # Unless the data continue where they were, the epoch is repeated from its start.
        done = 0 if self._fit is None else self._fit.skipped(done)
        self._batches.begin_epoch(epoch, done)
        first = not self._first_epoch_checked
        if first:
            named_by_step = self._session.group.saves_within_epochs
            try:
                self._session.check_run(self.model, epoch, named_by_step=named_by_step)
            except BaseException:
                # Rejected before its first step: there is nothing to save at exit.
                self._end_training("FAILED", limit=0.0, quietly=True)
                raise
            self._first_epoch_checked = True
        self._validated = False
        if self._fit is not None:
            self._fit.begin_epoch(epoch, done)
        if first or not self._observed:
            self._pause()

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Stop if a signal was received: between two batches the model is consistent."""
        # Keras may report the end of a batch late, but never the start of the next one.
        self._batches.end_batch(batch - 1)
        if not self._observed:
            self._pause()
        self._batches.begin_batch(batch)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Save within an epoch if `save_freq` is a number of batches."""
        self._batches.end_batch(batch)
        if self._session.is_beside_steps and logs:
            self._session.step_metrics = frozenset(logs)
        lead = self._lead
        # `self.model` would end what JAX computes ahead.
        if self._member.may_be_due and self._member.is_due(self.model, lead._session.saved_step):
            metrics = scalars(logs)
            if lead._is_last_batch or self._member.lacks_monitor(metrics):
                # Save at the end of the epoch instead, after validation and the other callbacks.
                self._member.due = True
            else:
                self._request("step", metrics)
        if lead._session.group.saves_within_epochs:
            lead._save_requested(self)

    @property
    def _is_last_batch(self) -> bool:
        """Whether all batches of the epoch are completed, as far as their number is known."""
        steps = None if self._fit is None else self._fit.steps(self.params)
        return steps is not None and self._batches.batch >= steps

    def _request(self, unit: str, metrics: Mapping[str, float]) -> None:
        """Ask for a checkpoint of the present state."""
        number = self._batches.epoch if unit == "epoch" else introspection.step_of(self.model)
        self._lead._session.request(
            *(self._member, self.model, CheckpointName(unit, number), metrics, self.params)
        )

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Record that no training step is in progress, but a validation."""
        self._batches.rest()
        self._validated = True
        if self._training and self._fit is not None:
            self._fit.begin_validation()

    def on_test_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Stop if a signal was received."""
        if self._training:
            self._pause()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Log the epoch's metrics and save its checkpoint."""
        metrics = scalars(logs)
        if self._training:
            self._end_epoch(epoch + 1, metrics)
        self._batches.begin_epoch(epoch + 1)
        if self.save_freq == "epoch" or self._member.due:
            if self._member.lacks_monitor(metrics) and self._lead._validates_later:
                self._member.print_waiting(self.params)
            else:
                self._member.due = False
                self._request(self._member.unit, metrics)
        self._lead._save_requested(self, ended=True)

    @property
    def _validates_later(self) -> bool:
        """Whether the epoch ended without the validation that `fit` makes in other epochs."""
        return self._fit is not None and self._fit.validates and not self._validated

    def _end_epoch(self, completed: int, metrics: Mapping[str, float]) -> None:
        if self._fit is not None:
            self._fit.end_epoch(self._batches.batch)
        if metrics and not self._others_log:
            self._session.log_metrics(metrics, completed)

    def _save_requested(self, asking: MlflowCheckpoint, *, ended: bool = False) -> None:
        """Save what was requested, once the last of the callbacks could request it."""
        if asking is not [self, *self._followers][-1]:
            return
        if not ended and not self._session.has_requests:
            return
        saved = self._session.save_requested(
            self.model, epoch=self._batches.epoch, capture=self._capture, ended=ended
        )
        if saved or ended:
            self._session.notify(self.params)

    def _capture(self) -> TrainingState:
        """Capture the training state that is not part of the model."""
        if self._fit is None:
            return TrainingState()
        return self._fit.capture(batch=self._batches.batch, params=self.params)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Wait for all uploads, and end the run if this callback started it."""
        lead = self._lead
        if self is [lead, *lead._followers][-1]:
            lead._end_as_planned()

    def _end_as_planned(self) -> None:
        """End a training that came to its end, though a signal may have been received."""
        signalled = self._signals.received is not None
        self._end_training("FINISHED", limit=self._patience if signalled else None)
        if not self._others_of_fit():
            self._signals.raise_received()

    def _others_of_fit(self) -> list[MlflowCheckpoint]:
        """Return the callbacks that save the same `fit` to other runs."""
        return [
            other
            for other in _running
            if other is not self and self._fit and other._fit and self._fit.is_of(other._fit)
        ]

    @property
    def _patience(self) -> float:
        return max(callback.drain_timeout for callback in (self, *self._followers))

    def _pause_before_all(self) -> None:
        """Do the same before other callbacks are told that an epoch or a batch begins."""
        if self._first_epoch_checked:
            self._pause()

    def _pause(self) -> None:
        """End the training between two batches if a signal was received."""
        if self._signals.received is None:
            return
        reason = str(self._signals.reason)
        trainings = [self, *self._others_of_fit()]
        if self._fit is not None:
            self._fit.await_reports()
        patience = max(training._patience for training in trainings)
        self._session.group.messages.notify_interrupted(reason, patience)
        end = time.monotonic() + patience
        with ExitStack() as stack:
            for training in trainings:
                stack.callback(training._end_interrupted, end)
            for training in trainings:
                training._save_interrupted(reason)
        self._signals.raise_received()

    def _save_interrupted(self, reason: str) -> None:
        self._session.save_interrupted(*(self.model, self._batches, reason, self._capture))

    def _end_interrupted(self, end: float) -> None:
        """End the training, and wait for its uploads until `end` in monotonic seconds."""
        self._end_training("KILLED", limit=max(0.0, end - time.monotonic()), quietly=True)

    def _break_off(self, exc: BaseException | None) -> None:
        """Save the last consistent state of a training that an exception ended."""
        interrupted = isinstance(exc, KeyboardInterrupt)
        reason = "exit" if exc is None else type(exc).__name__
        try:
            if not isinstance(exc, MlflowCkptError):
                self._save_if_whole(exc, reason)
        finally:
            limit = self._patience if interrupted else None
            self._end_training("KILLED" if interrupted else "FAILED", limit=limit, quietly=True)

    def _save_if_whole(self, exc: BaseException | None, reason: str) -> None:
        if not self._first_epoch_checked:
            return  # nothing has been trained, and Keras has not told at which epoch
        if self._fit is not None:
            self._fit.await_reports()
        if getattr(self.model, "history", None) is not self._history:
            when = f"({reason}), and the model has been trained further since"
        elif not is_whole(self.model, exc, in_step=self._batches.in_step):
            when = f"inside a step ({reason}), which may have left the model half updated"
        else:
            self._save_interrupted(reason)
            return
        self._session.group.messages.warn(
            f"Training was interrupted {when}, so its state was not saved. Checkpoints are intact."
        )

    @property
    def _run_id(self) -> str:
        return self._session.saver.run_id

    def _settle(self, continued_by: keras.Model | None) -> None:
        """End this training if an exception did, and wait for its uploads. See `settle_run`."""
        if not self._signals.is_abandoned:
            self._session.saver.flush(patience=self._patience)
        elif self.model is continued_by:
            self._end_training("FAILED", quietly=True)
        else:
            self._break_off(sys.exception() or getattr(sys, "last_value", None))

    def _at_exit(self) -> None:
        # A forked child inherits this handler, but neither the threads nor the training.
        if not self._training or self._process != os.getpid():
            return
        if self._thread is threading.current_thread():
            self._break_off(getattr(sys, "last_value", None))
        else:
            # The training thread may be in the middle of a step.
            self._end_training("FAILED", quietly=True)

    def _end_training(
        self, status: str, *, limit: float | None = None, quietly: bool = False
    ) -> None:
        self._training = False
        for follower in self._followers:
            if follower._leader is self:
                follower._leader = None
        with suppress(ValueError):
            _running.remove(self)
        seconds = time.monotonic() - self._began
        atexit.unregister(self._at_exit)
        self._session.end(
            status,
            self._signals,
            patience=self._patience,
            limit=limit,
            params=self.params,
            quietly=quietly,
            report=self._session.group.wants_report(seconds),
        )


# The trainings in this process that have begun and not ended.
_running: list[MlflowCheckpoint] = []


def settle_run(run_id: str | None, *, continued_by: keras.Model | None = None) -> None:
    """Make what this process has trained in a run available, before training goes on from it.

    A training that an exception ended without a context manager is ended now instead of at exit:
    its last consistent state is saved, and it never writes again. Waits for all uploads.

    Args:
        run_id: The run; None for no run.
        continued_by: The model that is trained next, whose own state need not be saved.
    """
    for callback in [callback for callback in _running if callback._run_id == run_id]:
        callback._settle(continued_by)


def _leader_of(callback: MlflowCheckpoint) -> MlflowCheckpoint | None:
    """Return the callback of the running `fit` that saves for this one too, if any."""
    for leader in list(_running):
        if leader._fit is not None and leader._fit.is_running and callback in leader._followers:
            return leader
    return None


def _active_run_id() -> str | None:
    active = mlflow.active_run()
    return None if active is None else str(active.info.run_id)
