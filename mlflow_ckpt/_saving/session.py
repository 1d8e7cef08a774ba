"""A run that trainings save into, one after another: what is saved, sent, and told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import mlflow

from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.lineage import Origin
from mlflow_ckpt._model import keras_private
from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._saving.arguments import CallbackArguments
from mlflow_ckpt._saving.batch_counter import BatchCounter
from mlflow_ckpt._saving.best import BestTracker
from mlflow_ckpt._saving.managed_run import ManagedRun
from mlflow_ckpt._saving.messages import Messages
from mlflow_ckpt._saving.overwrites import check_no_overwrite
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._saving.signals import SignalHandler
from mlflow_ckpt._tracking import mlflow_private, resumed_runs, tags
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import MlflowCkptError, TrackingError, TrackingUnavailableError


class Session:
    """The trainings of one callback.

    Args:
        arguments: Those of the callback.
        best: Judges which checkpoint is the best.
        messages: Tells the user what happened.

    Attributes:
        saved_step: The optimizer's step at the last checkpoint; -1 before there is one.
    """

    def __init__(
        self,
        arguments: CallbackArguments,
        best: BestTracker,
        messages: Messages,
    ) -> None:
        self.saved_step = -1
        self._arguments = arguments
        self._best = best
        self._messages = messages
        self._managed_run = ManagedRun()
        self._store: RunStore | None = None
        self._saver: CheckpointSaver | None = None
        self._origin: Origin | None = None
        self._logged: Mapping[str, set[int]] = {}

    def begin(
        self,
        model: keras.Model,
        run_id: str | None,
        origin: Origin | None = None,
        *,
        in_place: bool = False,
    ) -> None:
        """Find or start the run, and refuse what could not be saved.

        Args:
            model: The model that is to be trained.
            run_id: The run; MLflow's active one if None, or a new one.
            origin: What the training goes on from; None if it starts fresh.
            in_place: Whether it goes on in the same run.

        Raises:
            InvalidArgumentError: If it is to go on in the same run, and another one is active.
            UnsupportedModelError: If Keras cannot save the model.
        """
        keras_private.mention_untested_version()
        mlflow_private.mention_untested_version()
        same = in_place and origin is not None and run_id == origin.run_id
        chosen = None if same else run_id
        try:
            saver = self._open(chosen or self._managed_run.active_or_new(origin, in_place=in_place))
            saver.check(model)
        except BaseException:
            self._managed_run.end("FAILED")
            raise
        self.saved_step = -1
        self._origin, self._logged = origin, {}
        saver.set_lineage({} if origin is None else origin.to_dict())
        if origin is not None and self._store is not None:
            new = resumed_runs.lineage_tags(origin, self._store)
            if new:
                saver.set_tags(new)

    def _open(self, run_id: str) -> CheckpointSaver:
        if self._saver is None or self._saver.run_id != run_id:
            self._best.reset()
            self._store = RunStore(run_id)
            arguments = self._arguments
            self._saver = CheckpointSaver(
                self._store,
                forms=arguments.forms,
                full_format=arguments.full_format,
                metadata=arguments.metadata,
                retention=arguments.retention,
                weight_metrics=arguments.weight_metrics,
            )
        return self._saver

    def defer_metrics(self, *, others_log: bool) -> bool:
        """Leave the run's metrics to MLflow's own callback, if there is one and it logs to it.

        Args:
            others_log: Whether one logs each epoch's metrics to MLflow's active run.

        Returns:
            Whether it logs to this run.
        """
        active = mlflow.active_run()
        same = active is not None and active.info.run_id == self.saver.run_id
        if self._store is not None:
            self._store.others_log = others_log and same
        return others_log and same

    def check_run(self, model: keras.Model, epoch: int, *, named_by_step: bool) -> None:
        """Refuse to repeat what the run holds; go on without a look if its server is away.

        Args:
            model: The model, before its first step.
            epoch: Number of completed epochs.
            named_by_step: Whether checkpoints are saved inside epochs.

        Raises:
            CheckpointExistsError: If the training would write checkpoints again.
        """
        waiting = self.saver.adopt()
        step = self.saved_step = introspection.step_of(model)
        if self._store is None:
            return
        try:
            self._store.require_answer()
            previous = check_no_overwrite(
                self._store, waiting, epoch, step if named_by_step else None
            )
        except TrackingUnavailableError as error:
            self._messages.tell_unavailable(error)
        else:
            self._best.recall(previous)
            if self._origin is not None:
                self._continue(self._store, self._origin, waiting)

    def _continue(self, store: RunStore, origin: Origin, waiting: Sequence[Entry]) -> None:
        """Tie a resumed training to what was there before."""
        try:
            if origin.run_id == store.run_id:
                resumed_runs.clear_tag(store, tags.INTERRUPTED)
                self._logged = resumed_runs.logged_steps(store, waiting)
            else:
                resumed_runs.tell_parent(store, origin)
        except (TrackingError, LookupError) as error:
            self._messages.warn(f"The run that the training goes on from was not told: {error}")

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log an epoch's metrics, but for those that the run has at that step already."""
        new = resumed_runs.unlogged(self._messages.loggable(metrics), step, self._logged)
        if new:
            self.saver.log_metrics(new, step)

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
        capture: Callable[[], TrainingState],
    ) -> None:
        """Save a checkpoint, unless only the best is saved and this is not it."""
        saver = self.saver
        monitor, improved = self._best.judge(model, metrics)
        if monitor is not None and self._best.is_skipped(improved):
            self._messages.say(
                f"{name}: {monitor.name} did not improve from {self._best.best}, not saved",
                params,
            )
            return
        before = self._best.best
        if improved and monitor is not None:
            # The state that is saved includes it.
            self._best.best = metrics[monitor.name]
        try:
            self.saved_step = saver.save(
                *(model, name),
                epoch=epoch,
                metrics=metrics,
                monitor=monitor,
                best=improved,
                training=capture(),
            )
        except BaseException as error:
            self._best.best = before
            if not isinstance(error, (MlflowCkptError, OSError, MemoryError)):
                raise
            self._messages.tell_unsaved(name, error)

    def save_interrupted(
        self,
        model: keras.Model,
        position: BatchCounter,
        reason: str,
        capture: Callable[[], TrainingState],
    ) -> None:
        """Save the state of a training that breaks off, unless it is that of the last checkpoint.

        Args:
            model: The model, whole.
            position: Where the training is.
            reason: What breaks it off, such as `"SIGTERM"`.
            capture: Captures the state of the training.
        """
        saver = self._saver
        if saver is None or not model.built:
            return
        try:
            step = introspection.step_of(model)
            if step > self.saved_step:
                name = CheckpointName("step", step)
                saver.save(
                    *(model, name),
                    epoch=position.epoch,
                    metrics={},
                    interrupted=reason,
                    training=capture(),
                )
                self.saved_step = step
            elif step == 0 and position.inside_epoch:
                self._messages.warn(
                    "The model's optimizer counts no steps, so there is no step to name the state "
                    "of the interrupted training by: it was not saved."
                )
            saver.set_tags({tags.INTERRUPTED: f"{reason} at step {step}"})
        except Exception as error:  # noqa: BLE001 - another exception is on its way already
            self._messages.warn(
                f"The interrupted training's state was not saved: {type(error).__name__}: {error}"
            )

    def tell(self, params: Mapping[str, Any] | None) -> None:
        """Tell what happened since the last call."""
        self._messages.tell(self.saver.outcomes(), params)

    def end(
        self,
        status: str,
        interruption: SignalHandler,
        *,
        patience: float,
        limit: float | None,
        params: Mapping[str, Any] | None,
        quietly: bool,
        report: bool = False,
    ) -> None:
        """Wait until everything is sent, tell what is not, and end a run of our own.

        Args:
            status: What the training ended as: `"FINISHED"`, `"FAILED"` or `"KILLED"`.
            interruption: Tells of signals, after which the waiting is limited.
            patience: Seconds to wait for a server that does not answer.
            limit: Seconds to wait in all; as long as there is progress if None.
            params: What Keras says of the training.
            quietly: Raise nothing, because an exception is on its way already.
            report: Whether to publish the run's report, if all went well.
        """
        saver = self._saver
        try:
            if saver is not None:
                if self._managed_run.is_active:
                    saver.end_run(status)
                left = _finish(saver, interruption, patience, limit)
                self._messages.tell(saver.outcomes(), params, quietly=quietly)
                self._messages.tell_left(left, saver, quietly=quietly)
                if report and status == "FINISHED" and not left:
                    self._publish_report()
        except BaseException:
            status = "FAILED" if status == "FINISHED" else status
            raise
        finally:
            interruption.restore()
            self._managed_run.end(status)

    def _publish_report(self) -> None:
        """Draw and upload the run's report; where that fails, the training has not."""
        from mlflow_ckpt import _report  # matplotlib, which only those need who ask for it

        if self._store is None:
            return
        try:
            self._store.require_answer()
            _report.publish(self._store)
        except Exception as error:  # noqa: BLE001 - told, and the checkpoints are whole
            self._messages.warn(
                f"The run's report could not be made: {type(error).__name__}: {error} "
                f"Try again: mlflow-ckpt report {self._store.run_id}"
            )


def _finish(
    saver: CheckpointSaver, interruption: SignalHandler, patience: float, limit: float | None
) -> list[Entry]:
    """Wait until everything is sent; once a signal comes, only so long."""
    known = interruption.received

    def signalled() -> bool:
        return interruption.received != known

    left = saver.finish(patience=patience, limit=limit, unless=signalled)
    return saver.finish(patience=patience, limit=patience) if left and signalled() else left
