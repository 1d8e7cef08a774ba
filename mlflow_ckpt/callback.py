"""Translates Keras's training events into checkpoints and metrics of an MLflow run."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import keras

from mlflow_ckpt.errors import InvalidArgumentError, MlflowCkptError, TrackingUnavailableError
from mlflow_ckpt.format.layout import CheckpointName
from mlflow_ckpt.format.monitor import MODES
from mlflow_ckpt.format.retention import LatestN, RetentionPolicy, check_policy
from mlflow_ckpt.guards import require_to_go_forward
from mlflow_ckpt.improvement import Improvement
from mlflow_ckpt.interruption import Interruption, is_whole
from mlflow_ckpt.messages import Messages
from mlflow_ckpt.model import snapshot
from mlflow_ckpt.own_run import OwnRun
from mlflow_ckpt.saver import CheckpointSaver
from mlflow_ckpt.settings import check_forms, check_full_format, check_metadata
from mlflow_ckpt.tracking.spool import Entry
from mlflow_ckpt.tracking.store import RunStore

# Batches in which even a patient optimizer, accumulating gradients, has made a step.
_LONGEST_ACCUMULATION = 64
INTERRUPTED_TAG = "mlflow_ckpt.interrupted"


class MlflowCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Logs checkpoints, fingerprints and metrics of a training into an MLflow run.

    Takes the place of `keras.callbacks.ModelCheckpoint`, with the same words:

        with mlflow.start_run(), mlflow_ckpt.MlflowCheckpoint() as checkpoints:
            model.fit(x, y, epochs=5, callbacks=[checkpoints])

    Each checkpoint is a directory of run artifacts, `checkpoints/epoch_0003` at the end of an
    epoch or `checkpoints/step_00001500` inside one, complete or invisible (docs/format.md).

    Training waits only while its state is copied in memory. Everything else happens in threads: a
    checkpoint is written to disk, then sent, and what the server has not confirmed stays in a spool
    on this machine (docs/saving.md). When `fit` returns, all is done; when training breaks off, the
    last whole state is saved, at once where the callback is used as a context manager, else when
    the process ends.

    Args:
        monitor: The metric that tells which checkpoint is best.
        verbose: 1 prints one line a checkpoint, 0 nothing.
        save_best_only: Save only when the monitored metric improved.
        mode: `"min"`, `"max"`, or `"auto"` to tell from the metric.
        save_freq: `"epoch"`, or a number of batches.
        initial_value_threshold: Value that the metric must beat to be the best.
        max_to_keep: How many checkpoints the run keeps, the newest and always the best: short for
            `retention=LatestN(max_to_keep)`.
        forms: `"full"` (architecture, weights, optimizer and compile settings in one file),
            `"split"` (architecture and weights apart), or both.
        full_format: `"keras"`, or `"h5"` for the legacy HDF5 format.
        run_id: The run to log to; the active run if None. Where there is none, the callback starts
            one, and ends it when training ends.
        log_metrics: Log the epoch's metrics to the run, at step = completed epochs.
        metadata: Plain values to keep in every checkpoint, such as class names.
        retention: Which checkpoints the run keeps: `LatestN`, `BestN`, `EveryN`, `AnyOf`.
        on_error: What to do where a checkpoint cannot be saved or sent: `"warn"`, and go on
            training, or `"raise"` at the end of the batch or epoch.
        drain_timeout: Seconds to wait, when training ends, for a server that does not answer; after
            a signal, seconds to wait in all. What is left then stays in the spool.

    Raises:
        InvalidArgumentError: If an argument is none of these.
    """

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
    ) -> None:
        super().__init__()
        _check_arguments(mode, save_freq, save_best_only, monitor, on_error, drain_timeout)
        self.monitor = monitor
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.mode = mode
        self.save_freq = save_freq
        self.run_id = run_id
        self.log_metrics = log_metrics
        self.drain_timeout = drain_timeout
        # Keras may call the end of a batch late, from another thread, where nothing is saved there.
        self.async_safe = save_freq == "epoch"
        self._forms = check_forms(forms)
        self._full_format = check_full_format(full_format)
        self._metadata = check_metadata(metadata)
        self._retention = _check_retention(max_to_keep, retention)
        self._improvement = Improvement(
            monitor,
            mode,
            initial_value_threshold,
            save_best_only=save_best_only,
            inside_epochs=save_freq != "epoch",
        )
        self._messages = Messages(verbose=bool(verbose), raising=on_error == "raise")
        self._interruption = Interruption(self)
        self._saver: CheckpointSaver | None = None
        self._store: RunStore | None = None
        self._own_run = OwnRun()
        self._training = False
        self._process = 0
        self._thread: threading.Thread | None = None
        self._history: Any = None
        self._epoch = 0
        self._first_epoch_checked = False
        self._batches_since_save = 0
        self._begun = self._ended = -1
        self._last_batch = -1
        self._last_step = -1

    @property
    def best(self) -> float | None:
        """The best value of the monitored metric so far; None before the first."""
        return self._improvement.best

    def __enter__(self) -> Self:
        """Return the callback itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Save and send what is left of a training that broke off."""
        if self._training:
            self._break_off(exc)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Find or start the run, and refuse what could not be saved, before any training."""
        if self._training:
            # An exception left the last training, and whoever caught it went on.
            self._end_training("FAILED", quietly=True)
        try:
            self._prepare(self.run_id or self._own_run.active_or_new())
        except BaseException:
            self._own_run.end("FAILED")
            raise
        self._first_epoch_checked = False
        self._last_step = -1
        self._process, self._thread = os.getpid(), threading.current_thread()
        self._history = getattr(self.model, "history", None)
        self._training = True
        self._interruption.install()
        atexit.register(self._at_exit)

    def _prepare(self, run_id: str) -> None:
        saver = self._saver
        if saver is None or saver.run_id != run_id:
            self._improvement.reset()
            self._store = RunStore(run_id)
            saver = self._saver = CheckpointSaver(
                self._store,
                forms=self._forms,
                full_format=self._full_format,
                metadata=self._metadata,
                retention=self._retention,
            )
        saver.check(self.model)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Note the epoch; before the first, make sure that nothing would be overwritten."""
        self._epoch = epoch
        self._last_batch = self._begun = self._ended = -1
        if not self._first_epoch_checked:
            try:
                self._look_at_run(epoch)
            except BaseException:
                # Refused before its first step: there is nothing to save when the process ends.
                self._end_training("FAILED", limit=0.0, quietly=True)
                raise
            self._first_epoch_checked = True
        self._pause()

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Between two batches the model is whole: end here if a signal asked for it."""
        self._pause()
        self._begun = batch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Save inside an epoch, if that is asked for."""
        self._ended = max(self._ended, batch)
        if self.save_freq != "epoch":
            self._save_inside_epoch(batch, logs)

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Note that no step is under way: data of unknown length ends with one that began."""
        self._begun = self._ended

    def on_test_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """End here if a signal asked for it."""
        if self._training:
            self._pause()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Log the epoch's metrics and save its checkpoint."""
        completed = epoch + 1
        metrics = _scalars(logs)
        saver = self._require_saver()
        self._epoch = completed
        self._begun = self._ended = -1
        if self.log_metrics and metrics:
            saver.log_metrics(self._messages.loggable(metrics), completed)
        if self.save_freq == "epoch":
            self._save(CheckpointName("epoch", completed), completed, metrics)
        self._tell()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Wait until everything is sent, and end the run that this callback started."""
        self._end_training("FINISHED")
        self._interruption.raise_received()

    def _pause(self) -> None:
        """End the training between two batches if a signal asked for it."""
        if self._interruption.received is None:
            return
        reason = str(self._interruption.reason)
        self._messages.tell_interrupted(reason, self.drain_timeout)
        try:
            self._save_interrupted(reason)
        finally:
            self._end_training("KILLED", limit=self.drain_timeout, quietly=True)
        self._interruption.raise_received()

    def _break_off(self, exc: BaseException | None) -> None:
        """Save the last whole state of a training that an exception ended."""
        interrupted = isinstance(exc, KeyboardInterrupt)
        reason = "exit" if exc is None else type(exc).__name__
        try:
            if not isinstance(exc, MlflowCkptError):
                self._save_if_whole(exc, reason)
        finally:
            limit = self.drain_timeout if interrupted else None
            self._end_training("KILLED" if interrupted else "FAILED", limit=limit, quietly=True)

    def _save_if_whole(self, exc: BaseException | None, reason: str) -> None:
        if getattr(self.model, "history", None) is not self._history:
            why = f"({reason}), and the model has been trained further since"
        elif not is_whole(self.model, exc, in_step=self._begun > self._ended):
            why = f"inside a step ({reason}), which may have left the model half updated"
        else:
            self._save_interrupted(reason)
            return
        self._messages.warn(
            f"The training broke off {why}, so its state was not saved. The checkpoints are whole."
        )

    def _at_exit(self) -> None:
        # A forked child inherits this, but not the threads, nor the training.
        if not self._training or self._process != os.getpid():
            return
        if self._thread is threading.current_thread():
            self._break_off(getattr(sys, "last_value", None))
        else:
            # That thread may be in the middle of a step.
            self._end_training("FAILED", quietly=True)

    def _end_training(
        self, status: str, *, limit: float | None = None, quietly: bool = False
    ) -> None:
        """Wait until everything is sent, tell what is not, and end a run of our own."""
        self._training = False
        atexit.unregister(self._at_exit)
        saver = self._saver
        try:
            if saver is not None:
                if self._own_run.is_active:
                    saver.end_run(status)
                left = self._finish(saver, limit)
                self._messages.tell(saver.reports(), self.params, quietly=quietly)
                self._messages.tell_left(left, saver, quietly=quietly)
        except BaseException:
            status = "FAILED" if status == "FINISHED" else status
            raise
        finally:
            self._interruption.restore()
            self._own_run.end(status)

    def _finish(self, saver: CheckpointSaver, limit: float | None) -> list[Entry]:
        """Wait until everything is sent; once a signal comes, only so long."""
        patience, known = self.drain_timeout, self._interruption.received

        def signalled() -> bool:
            return self._interruption.received != known

        left = saver.finish(patience=patience, limit=limit, unless=signalled)
        return saver.finish(patience=patience, limit=patience) if left and signalled() else left

    def _save_interrupted(self, reason: str) -> None:
        """Save the state between two checkpoints, unless it is that of the last one."""
        saver = self._saver
        if saver is None or not self.model.built:
            return
        try:
            step = snapshot.step_of(self.model)
            if step > self._last_step:
                name = CheckpointName("step", step)
                saver.save(self.model, name, epoch=self._epoch, metrics={}, interrupted=reason)
                self._last_step = step
            elif step == 0 and self._ended >= 0:
                self._messages.warn(
                    "The model's optimizer counts no steps, so there is no step to name the state "
                    "of the interrupted training by: it was not saved."
                )
            saver.set_tags({INTERRUPTED_TAG: f"{reason} at step {step}"})
        except Exception as error:  # noqa: BLE001 - another exception is on its way already
            self._messages.warn(
                f"The interrupted training's state was not saved: {type(error).__name__}: {error}"
            )

    def _save_inside_epoch(self, batch: int, logs: Mapping[str, Any] | None) -> None:
        # With steps_per_execution, this is called for the last batch of several.
        self._batches_since_save += batch - self._last_batch
        self._last_batch = batch
        if self._batches_since_save < int(self.save_freq):
            return
        step = snapshot.step_of(self.model)
        if step <= self._last_step:
            # Gradients are being accumulated, or a step overflowed: save with the next real step.
            patience = 2 * int(self.save_freq) + _LONGEST_ACCUMULATION
            if self._batches_since_save > patience:
                self._messages.warn_once(
                    f"The model's optimizer made no step in {patience} batches, so "
                    "there is no step to name a checkpoint by. A model that trains with optimizers "
                    "of its own counts no steps: use save_freq='epoch'."
                )
            return
        self._batches_since_save = 0
        completed = self._epoch + (1 if batch + 1 == self.params.get("steps") else 0)
        self._save(CheckpointName("step", step), completed, _scalars(logs))
        self._tell()

    def _save(self, name: CheckpointName, epoch: int, metrics: Mapping[str, float]) -> None:
        monitor, improved = self._improvement.judge(self.model, metrics)
        if self.save_best_only and monitor is not None and not improved:
            self._messages.say(
                f"{name}: {self.monitor} did not improve from {self.best}, not saved", self.params
            )
            return
        saver = self._require_saver()
        try:
            self._last_step = saver.save(
                self.model, name, epoch=epoch, metrics=metrics, monitor=monitor, best=improved
            )
        except (MlflowCkptError, OSError, MemoryError) as error:
            self._messages.tell_unsaved(name, error)
            return
        if improved and monitor is not None:
            self._improvement.best = metrics[monitor.name]

    def _look_at_run(self, epoch: int) -> None:
        """Refuse to repeat what the run holds; go on without a look if its server is away."""
        saver, store = self._require_saver(), self._store
        waiting = saver.adopt()
        step = snapshot.step_of(self.model)
        self._last_step = step
        if store is None:
            return
        try:
            store.require_answer()
            previous = require_to_go_forward(
                store, waiting, epoch, None if self.save_freq == "epoch" else step
            )
        except TrackingUnavailableError as error:
            self._messages.tell_unavailable(error)
        else:
            self._improvement.recall(previous)

    def _tell(self) -> None:
        self._messages.tell(self._require_saver().reports(), self.params)

    def _require_saver(self) -> CheckpointSaver:
        if self._saver is None:
            raise RuntimeError("MlflowCheckpoint saves during fit only")
        return self._saver


def _check_retention(
    max_to_keep: int | None, retention: RetentionPolicy | None
) -> RetentionPolicy | None:
    if max_to_keep is not None and retention is not None:
        raise InvalidArgumentError(
            "max_to_keep and retention contradict each other. Expected one of them. "
            f"Received: max_to_keep={max_to_keep!r}, retention={retention!r}"
        )
    if max_to_keep is not None:
        return LatestN(max_to_keep)
    if retention is not None:
        check_policy(retention)
    return retention


def _check_arguments(
    mode: str,
    save_freq: str | int,
    save_best_only: bool,
    monitor: str,
    on_error: str,
    drain_timeout: float,
) -> None:
    if mode not in ("auto", *MODES):
        raise InvalidArgumentError(
            f"Unrecognized mode. Expected 'auto', 'min' or 'max'. Received: mode={mode!r}"
        )
    if save_freq != "epoch" and (
        isinstance(save_freq, bool) or not isinstance(save_freq, int) or save_freq < 1
    ):
        raise InvalidArgumentError(
            "Unrecognized save_freq. Expected 'epoch' or a number of batches, 1 or more. "
            f"Received: save_freq={save_freq!r}"
        )
    if save_best_only and save_freq != "epoch" and monitor.startswith("val_"):
        raise InvalidArgumentError(
            "Inside an epoch there is no validation. Expected, with save_best_only and "
            "save_freq in batches, a monitor of the training such as 'loss'. "
            f"Received: monitor={monitor!r}"
        )
    if on_error not in ("warn", "raise"):
        raise InvalidArgumentError(
            f"Unrecognized on_error. Expected 'warn' or 'raise'. Received: on_error={on_error!r}"
        )
    if isinstance(drain_timeout, bool) or not drain_timeout >= 0:
        raise InvalidArgumentError(
            "Unrecognized drain_timeout. Expected a number of seconds, 0 or more. "
            f"Received: drain_timeout={drain_timeout!r}"
        )


def _scalars(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the scalar values among the logs, which may be NumPy's or the backend's."""
    scalars = {}
    for name, value in (logs or {}).items():
        array = keras.ops.convert_to_numpy(value)
        if array.size == 1 and array.dtype.kind in "biuf":
            scalars[name] = float(array.reshape(()))
    return scalars
