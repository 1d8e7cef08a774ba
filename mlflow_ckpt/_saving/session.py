"""The saving side of a callback: its run, its checkpoints, and its messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import keras
import mlflow

from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.lineage import Origin
from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._model.keras_private import keras_version
from mlflow_ckpt._saving.batch_counter import BatchCounter
from mlflow_ckpt._saving.group import Group, joined
from mlflow_ckpt._saving.limited import limited
from mlflow_ckpt._saving.managed_run import ManagedRun
from mlflow_ckpt._saving.member import Member, Request
from mlflow_ckpt._saving.messages import Messages
from mlflow_ckpt._saving.overwrites import check_no_overwrite
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._saving.signals import SignalHandler
from mlflow_ckpt._tracking import resumed_runs, tags
from mlflow_ckpt._tracking.metric_names import epoch_name
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import MlflowCkptError, TrackingError

# How long it takes to draw a report, at most, apart from waiting for a store that hangs.
_DRAWING_SECONDS = 60


class Session:
    """Saves the trainings of one callback, one after another, for others of the same run too.

    Args:
        member: The callback.

    Attributes:
        saved_step: The optimizer's step at the last checkpoint; -1 before the first.
        group: The callback, and those that save to the same run in the same training.
        is_beside_steps: Whether MLflow's own callback logs metrics to the run every few steps.
        step_metrics: Names of those metrics.
    """

    def __init__(self, member: Member) -> None:
        self.saved_step = -1
        self.group = Group([member])
        self.is_beside_steps = False
        self.step_metrics: frozenset[str] = frozenset()
        self._member = member
        self._requests: list[Request] = []
        self._is_partial = False  # the last checkpoint lacks a form that another callback saves
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
        others: Callable[[str], Sequence[Member]] = lambda _: (),
    ) -> None:
        """Find or start the run, and check that the model can be saved.

        Args:
            model: The model to train.
            run_id: The run; if None, MLflow's active run, or a new one if none is active.
            origin: The checkpoint that the training continues from; None for a new training.
            in_place: Whether it continues in the same run.
            others: Returns the other callbacks of the training that save to a run.

        Raises:
            InvalidArgumentError: If it continues in the same run while another one is active, or
                callbacks contradict each other.
            UnsupportedModelError: If Keras cannot save the model.
        """
        keras_version.mention_untested_version()
        same = in_place and origin is not None and run_id == origin.run_id
        try:
            if same or not run_id:
                run_id = self._managed_run.active_or_new(origin, in_place=in_place)
            saver = self._open(run_id, [self._member, *others(run_id)])
            saver.check(model, [member.content for member in self.group.members])
        except BaseException:
            self._managed_run.end("FAILED")
            raise
        self.saved_step, self._requests, self._is_partial = -1, [], False
        self._origin, self._logged, self.step_metrics = origin, {}, frozenset()
        saver.set_lineage({} if origin is None else origin.to_dict())
        if origin is not None and self._store is not None:
            lineage_tags = resumed_runs.lineage_tags(origin, self._store)
            if lineage_tags:
                saver.set_tags(lineage_tags)

    def _open(self, run_id: str, members: Sequence[Member]) -> CheckpointSaver:
        for member in members:
            member.begin(run_id, shared=len(members) > 1)
        same = self._saver is not None and self._saver.run_id == run_id
        if self._saver is None or not same or self.group.members != tuple(members):
            self.group = group = Group(members)
            self._store = RunStore(run_id)
            self._saver = CheckpointSaver(
                self._store,
                forms=group.content.forms,
                full_format=group.content.full_format,
                metadata=group.content.metadata,
                retention=group.retention,
                weight_metrics=group.wants("weight_metrics"),
                test_load=group.wants("test_load"),
                sign=group.signing_key,
            )
        return self._saver

    @property
    def _messages(self) -> Messages:
        return self.group.messages

    def defer_metrics(self, *, others_log: bool, by_steps: bool) -> bool:
        """Leave metrics to MLflow's own callback if it logs to this run; return whether it does.

        Args:
            others_log: Whether such a callback logs every epoch's metrics to MLflow's active run.
            by_steps: Whether one logs metrics every few steps.
        """
        active = mlflow.active_run()
        same = active is not None and active.info.run_id == self.saver.run_id
        if self._store is not None:
            self._store.others_log = others_log and same
        self.is_beside_steps = by_steps and same
        return others_log and same

    def check_run(self, model: keras.Model, epoch: int, *, named_by_step: bool) -> None:
        """Check that no checkpoint of the run would be overwritten, unless its store is away.

        Raises:
            CheckpointExistsError: If the training would overwrite checkpoints.
            RunNotFoundError: If the run does not exist.
        """
        waiting = self._adopt()
        step = self.saved_step = introspection.step_of(model)
        store = self._store
        if store is None:
            return
        try:
            previous = limited(
                lambda: check_no_overwrite(store, waiting, epoch, step if named_by_step else None),
                store,
                "list the run's checkpoints",
            )
        except TrackingError as error:
            self._messages.warn_of_unavailable_store(error)
        else:
            self.group.recall(previous)
            if self._origin is not None:
                self._link_to_origin(store, self._origin, waiting)

    def _adopt(self) -> list[Entry]:
        """Let what earlier processes left in the spool for this run be sent."""
        try:
            return self.saver.adopt()
        except OSError as error:
            self._messages.warn_once(
                f"What waits for this run in the spool {self.saver.spool.root} is not sent: {error}"
            )
            return []

    def _link_to_origin(self, store: RunStore, origin: Origin, waiting: Sequence[Entry]) -> None:
        """Link a resumed training to the run that it continues."""

        def link() -> Mapping[str, set[int]]:
            if origin.run_id != store.run_id:
                resumed_runs.tag_parent(store, origin)
                return {}
            resumed_runs.clear_tag(store, tags.INTERRUPTED)
            return resumed_runs.logged_steps(store, waiting)

        try:
            self._logged = limited(link, store, "mark the run as resumed")
        except (TrackingError, LookupError) as error:
            self._messages.warn(f"The run {origin.run_id} was not marked as resumed: {error}")

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log an epoch's metrics, if wanted, except those that the run already has at that step."""
        if not self.group.wants("log_metrics"):
            return
        loggable = {
            self._name_of(name): value for name, value in self._messages.loggable(metrics).items()
        }
        if any(0 in self._logged.get(name, ()) for name in loggable):
            step -= 1  # MLflow's own callback, which counts from 0, began the curves of the run
        unlogged = resumed_runs.unlogged(loggable, step, self._logged)
        if unlogged:
            self.saver.log_metrics(unlogged, step)

    def _name_of(self, metric: str) -> str:
        """Return the name of an epoch's metric: another one if the run has it by steps."""
        by_steps = metric in self.step_metrics or epoch_name(metric) in self._logged
        return epoch_name(metric) if by_steps else metric

    @property
    def saver(self) -> CheckpointSaver:
        """The saver of the current run.

        Raises:
            RuntimeError: If no training has begun.
        """
        if self._saver is None:
            raise RuntimeError("MlflowCheckpoint saves only during fit")
        return self._saver

    def request(
        self,
        member: Member,
        model: keras.Model,
        name: CheckpointName,
        metrics: Mapping[str, float],
        params: Mapping[str, Any] | None,
    ) -> None:
        """Note that a callback wants a checkpoint of the present state, unless it declines it."""
        request = member.ask(model, name, metrics)
        if not request.declined:
            self._requests.append(request)
        elif request.monitor is not None:
            member.messages.print_line(
                f"{name}: {request.monitor.name} did not improve from {member.best.best}, "
                "not saved",
                params,
            )

    @property
    def has_requests(self) -> bool:
        """Whether callbacks have requested what is not saved yet."""
        return bool(self._requests)

    def save_requested(
        self,
        model: keras.Model,
        *,
        epoch: int,
        capture: Callable[[], TrainingState],
        ended: bool = False,
    ) -> bool:
        """Save what callbacks requested since the last call; return whether they did.

        Args:
            model: The model.
            epoch: Number of completed epochs.
            capture: Captures the state of the training.
            ended: Whether an epoch has ended.
        """
        requests, self._requests = self._requests, []
        for request in requests:
            request.member.saved |= {str(request.name)}
        # Once for all of them: some state is handed over when it is captured.
        captured = cache(capture)
        for name in dict.fromkeys(request.name for request in requests):
            same = [request for request in requests if request.name == name]
            self._save(model, same, epoch, captured, ended=ended)
        return bool(requests)

    def _save(
        self,
        model: keras.Model,
        requests: Sequence[Request],
        epoch: int,
        capture: Callable[[], TrainingState],
        *,
        ended: bool,
    ) -> None:
        """Save one checkpoint for all who requested it."""
        name = requests[0].name
        content = joined(request.member for request in requests)
        monitor, best = self.group.judge(model, requests, ended=ended)
        try:
            self.saved_step = self.saver.save(
                *(model, name),
                epoch=epoch,
                metrics=requests[0].metrics,
                monitor=monitor,
                best=best,
                training=capture(),
                content=content,
            )
            self._is_partial = content.forms != self.group.content.forms
        except BaseException as error:
            for request in requests:
                request.withdraw()
            if not isinstance(error, (MlflowCkptError, OSError, MemoryError)):
                raise
            self._messages.warn_of_unsaved(name, error)

    def save_interrupted(
        self,
        model: keras.Model,
        batches: BatchCounter,
        reason: str,
        capture: Callable[[], TrainingState],
    ) -> None:
        """Save the state of an interrupted training, unless the last checkpoint already holds it.

        Args:
            model: The model, in a consistent state.
            batches: The epochs and batches that are completed.
            reason: What interrupted it, such as `"SIGTERM"`.
            capture: Captures the state of the training.
        """
        saver = self._saver
        if saver is None or not introspection.has_weights(model):
            return
        try:
            step = introspection.step_of(model)
            name = CheckpointName("step", step)
            more = self._is_partial and str(name) not in self.group.saved
            if step > self.saved_step or more:
                saver.save(
                    *(model, name),
                    epoch=batches.epoch,
                    metrics={},
                    interrupted=reason,
                    training=capture(),
                )
                self.saved_step, self._is_partial = step, False
            elif step == 0 and batches.batch > 0:
                self._messages.warn(
                    "The interrupted training's state was not saved: it is named by its step, but "
                    "the model's optimizer counts no steps."
                )
            saver.set_tags({tags.INTERRUPTED: f"{reason} at step {step}"})
        except Exception as error:  # noqa: BLE001 - another exception is propagating
            self._messages.warn(
                f"The interrupted training's state was not saved: {type(error).__name__}: {error}"
            )

    def notify(self, params: Mapping[str, Any] | None) -> None:
        """Show the outcomes since the last call."""
        self._messages.notify(self.saver.outcomes(), params)

    def end(
        self,
        status: str,
        signals: SignalHandler,
        *,
        patience: float,
        limit: float | None,
        params: Mapping[str, Any] | None,
        quietly: bool,
        report: bool = False,
    ) -> None:
        """Wait for all uploads, warn of unsent entries, and end the run if the callback started it.

        Args:
            status: Final status of the training: `"FINISHED"`, `"FAILED"` or `"KILLED"`.
            signals: Receives signals, after which the wait is limited to `patience`.
            patience: Seconds to wait for a server that does not answer.
            limit: Total seconds to wait; None to wait while there is progress.
            params: The training's parameters as Keras reports them.
            quietly: Warn rather than raise, because another exception is propagating.
            report: Whether to publish the run's report if everything was uploaded.
        """
        saver = self._saver
        try:
            if saver is not None:
                if self._managed_run.is_active:
                    saver.end_run(status)
                unsent = _finish(saver, signals, patience, limit)
                self._messages.is_losing_data = saver.is_losing_data()
                self._messages.notify(saver.outcomes(), params, quietly=quietly)
                self._messages.warn_of_unsent(unsent, saver, quietly=quietly)
                is_stopped = limit is not None or signals.received is not None
                if report and status == "FINISHED" and not (unsent or is_stopped):
                    self._publish_report(patience, signals)
        except BaseException:
            status = "FAILED" if status == "FINISHED" else status
            raise
        finally:
            for member in self.group.members:
                member.messages.is_losing_data = self.group.messages.is_losing_data
            signals.restore()
            self._managed_run.end(status)

    def _publish_report(self, patience: float, signals: SignalHandler) -> None:
        """Draw and upload the run's report; warn if that fails."""
        from mlflow_ckpt import _report  # imports matplotlib

        store = self._store
        if store is None:
            return
        seconds = patience + _DRAWING_SECONDS
        try:
            limited(
                *(lambda: _report.publish(store), store, "publish the report"),
                seconds=seconds,
                unless=lambda: signals.received is not None,
            )
        except Exception as error:  # noqa: BLE001 - the checkpoints are complete
            self._messages.warn(
                f"The run's report could not be created: {type(error).__name__}: {error} "
                f"Try again: mlflow-ckpt report {store.run_id}"
            )


def _finish(
    saver: CheckpointSaver, signals: SignalHandler, patience: float, limit: float | None
) -> list[Entry]:
    """Wait for all uploads; after a signal, at most `patience` seconds longer."""
    initial = signals.received

    def signalled() -> bool:
        return signals.received != initial

    unsent = saver.finish(patience=patience, limit=limit, unless=signalled)
    return saver.finish(patience=patience, limit=patience) if unsent and signalled() else unsent
