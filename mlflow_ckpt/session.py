"""A run that trainings save into, one after another: what is saved, sent, and told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from mlflow_ckpt.errors import MlflowCkptError, TrackingUnavailableError
from mlflow_ckpt.format.layout import CheckpointName
from mlflow_ckpt.guards import require_to_go_forward
from mlflow_ckpt.improvement import Improvement
from mlflow_ckpt.interruption import Interruption
from mlflow_ckpt.messages import Messages
from mlflow_ckpt.model import live
from mlflow_ckpt.own_run import OwnRun
from mlflow_ckpt.position import Position
from mlflow_ckpt.saver import CheckpointSaver
from mlflow_ckpt.tracking.entries import Entry
from mlflow_ckpt.tracking.store import RunStore

INTERRUPTED_TAG = "mlflow_ckpt.interrupted"


class Session:
    """The trainings of one callback.

    Args:
        make_saver: Makes what saves into a run.
        improvement: Tells which checkpoint is the best.
        messages: Tells what happened.

    Attributes:
        saved_step: The optimizer's step at the last checkpoint; -1 before there is one.
    """

    def __init__(
        self,
        make_saver: Callable[[RunStore], CheckpointSaver],
        improvement: Improvement,
        messages: Messages,
    ) -> None:
        self.saved_step = -1
        self._make_saver = make_saver
        self._improvement = improvement
        self._messages = messages
        self._own_run = OwnRun()
        self._store: RunStore | None = None
        self._saver: CheckpointSaver | None = None

    def begin(self, model: keras.Model, run_id: str | None) -> None:
        """Find or start the run, and refuse what could not be saved.

        Args:
            model: The model that is to be trained.
            run_id: The run; MLflow's active one if None, or a new one.

        Raises:
            UnsupportedModelError: If Keras cannot save the model.
        """
        try:
            self._open(run_id or self._own_run.active_or_new()).check(model)
        except BaseException:
            self._own_run.end("FAILED")
            raise
        self.saved_step = -1

    def _open(self, run_id: str) -> CheckpointSaver:
        if self._saver is None or self._saver.run_id != run_id:
            self._improvement.reset()
            self._store = RunStore(run_id)
            self._saver = self._make_saver(self._store)
        return self._saver

    def look_at_run(self, model: keras.Model, epoch: int, *, named_by_step: bool) -> None:
        """Refuse to repeat what the run holds; go on without a look if its server is away.

        Args:
            model: The model, before its first step.
            epoch: Number of completed epochs.
            named_by_step: Whether checkpoints are saved inside epochs.

        Raises:
            CheckpointExistsError: If the training would write checkpoints again.
        """
        waiting = self.saver.adopt()
        step = self.saved_step = live.step_of(model)
        if self._store is None:
            return
        try:
            self._store.require_answer()
            previous = require_to_go_forward(
                self._store, waiting, epoch, step if named_by_step else None
            )
        except TrackingUnavailableError as error:
            self._messages.tell_unavailable(error)
        else:
            self._improvement.recall(previous)

    @property
    def saver(self) -> CheckpointSaver:
        """What saves into the run.

        Raises:
            RuntimeError: If no training has begun.
        """
        if self._saver is None:
            raise RuntimeError("MlflowCheckpoint saves during fit only")
        return self._saver

    def save(
        self,
        model: keras.Model,
        name: CheckpointName,
        *,
        epoch: int,
        metrics: Mapping[str, float],
        params: Mapping[str, Any] | None,
    ) -> None:
        """Save a checkpoint, unless only the best is saved and this is not it."""
        saver = self.saver
        monitor, improved = self._improvement.judge(model, metrics)
        if monitor is not None and self._improvement.is_skipped(improved):
            self._messages.say(
                f"{name}: {monitor.name} did not improve from {self._improvement.best}, not saved",
                params,
            )
            return
        try:
            self.saved_step = saver.save(
                model, name, epoch=epoch, metrics=metrics, monitor=monitor, best=improved
            )
        except (MlflowCkptError, OSError, MemoryError) as error:
            self._messages.tell_unsaved(name, error)
            return
        if improved and monitor is not None:
            self._improvement.best = metrics[monitor.name]

    def save_interrupted(self, model: keras.Model, position: Position, reason: str) -> None:
        """Save the state of a training that breaks off, unless it is that of the last checkpoint.

        Args:
            model: The model, whole.
            position: Where the training is.
            reason: What breaks it off, such as `"SIGTERM"`.
        """
        saver = self._saver
        if saver is None or not model.built:
            return
        try:
            step = live.step_of(model)
            if step > self.saved_step:
                name = CheckpointName("step", step)
                saver.save(model, name, epoch=position.epoch, metrics={}, interrupted=reason)
                self.saved_step = step
            elif step == 0 and position.inside_epoch:
                self._messages.warn(
                    "The model's optimizer counts no steps, so there is no step to name the state "
                    "of the interrupted training by: it was not saved."
                )
            saver.set_tags({INTERRUPTED_TAG: f"{reason} at step {step}"})
        except Exception as error:  # noqa: BLE001 - another exception is on its way already
            self._messages.warn(
                f"The interrupted training's state was not saved: {type(error).__name__}: {error}"
            )

    def tell(self, params: Mapping[str, Any] | None) -> None:
        """Tell what happened since the last call."""
        self._messages.tell(self.saver.reports(), params)

    def end(
        self,
        status: str,
        interruption: Interruption,
        *,
        patience: float,
        limit: float | None,
        params: Mapping[str, Any] | None,
        quietly: bool,
    ) -> None:
        """Wait until everything is sent, tell what is not, and end a run of our own.

        Args:
            status: What the training ended as: `"FINISHED"`, `"FAILED"` or `"KILLED"`.
            interruption: Tells of signals, after which the waiting is limited.
            patience: Seconds to wait for a server that does not answer.
            limit: Seconds to wait in all; as long as there is progress if None.
            params: What Keras says of the training.
            quietly: Raise nothing, because an exception is on its way already.
        """
        saver = self._saver
        try:
            if saver is not None:
                if self._own_run.is_active:
                    saver.end_run(status)
                left = _finish(saver, interruption, patience, limit)
                self._messages.tell(saver.reports(), params, quietly=quietly)
                self._messages.tell_left(left, saver, quietly=quietly)
        except BaseException:
            status = "FAILED" if status == "FINISHED" else status
            raise
        finally:
            interruption.restore()
            self._own_run.end(status)


def _finish(
    saver: CheckpointSaver, interruption: Interruption, patience: float, limit: float | None
) -> list[Entry]:
    """Wait until everything is sent; once a signal comes, only so long."""
    known = interruption.received

    def signalled() -> bool:
        return interruption.received != known

    left = saver.finish(patience=patience, limit=limit, unless=signalled)
    return saver.finish(patience=patience, limit=patience) if left and signalled() else left
