"""The Keras callback that saves checkpoints and metrics of a training to an MLflow run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from mlflow_ckpt._format.lineage import Origin
from mlflow_ckpt._format.retention import RetentionPolicy
from mlflow_ckpt._format.signing.keys import Location, SigningKey
from mlflow_ckpt._model.keras_private.callback_internals import SET_BY_KERAS
from mlflow_ckpt._model.training.data.feed import STATE_LIMIT
from mlflow_ckpt._saving.arguments import CallbackArguments, check_run_id
from mlflow_ckpt._saving.batch_counter import BatchCounter
from mlflow_ckpt._saving.member import Member
from mlflow_ckpt._saving.scalars import scalars
from mlflow_ckpt._saving.training import Participant, SavingCallback, Training, leader_of

# Attributes that copies have anew.
_OF_TRAININGS = SET_BY_KERAS | {"_in_place", "participant"}


class MlflowCheckpoint(SavingCallback):
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
        sign: What to sign every checkpoint with: the path of a private key, `"sigstore"`, or a
            `SigningKey` (docs/signing.md). If None, the key that `MLFLOW_CKPT_SIGNING_KEY` names;
            without one, nothing is signed.

    Raises:
        InvalidArgumentError: If an argument is invalid.
    """

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
        sign: SigningKey | Location | None = None,
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
            sign=sign,
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
        self.participant = Participant(self, Member(arguments))

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
    def is_losing_data(self) -> bool:
        """Whether the last training left data in a spool that is about to be lost.

        So it is if the server did not take everything, and the spool is a temporary directory or on
        a container's own file system. A script may then end with another exit code.
        """
        return self._member.messages.is_losing_data

    @property
    def _member(self) -> Member:
        return self.participant.member

    @property
    def _training(self) -> Training:
        return self.participant.training

    @property
    def _batches(self) -> BatchCounter:
        return self._member.batches

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
        if self.participant.lead.is_running:
            self.participant.lead.break_off(exc)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Find or start the run, and check that the model can be saved before it is trained."""
        own = self._training
        if own.is_running:
            # The previous training ended in an exception that the caller caught.
            own.end("FAILED", quietly=True)
        self._batches.begin_epoch(0)
        own.followers, leader = [], leader_of(self.participant)
        self.participant.leader = leader
        if leader is None:
            own.begin(self._origin, in_place=self._in_place)
            own.signals.install()
        elif leader.fit is not None:
            # After the leader, so that all have asked for their checkpoints when the last one has.
            leader.fit.move_to_end(self)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Start an epoch; before the first one, check that no checkpoint would be overwritten."""
        done, self._begun_batches = self._begun_batches, 0
        if self.participant.leader is not None:
            self._batches.begin_epoch(epoch, self.participant.leader.batch)
            return
        # Unless the data continue where they were, the epoch is repeated from its start.
        done = self._training.skipped(done)
        self._batches.begin_epoch(epoch, done)
        self._training.begin_epoch(epoch, done)

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Stop if a signal was received: between two batches the model is consistent."""
        # Keras may report the end of a batch late, but never the start of the next one.
        self._batches.end_batch(batch - 1)
        if not self._training.is_observed:
            self._training.pause()
        self._batches.begin_batch(batch)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Save within an epoch if `save_freq` is a number of batches."""
        self._batches.end_batch(batch)
        lead = self.participant.lead
        if self._training.session.is_beside_steps and logs:
            self._training.session.step_metrics = frozenset(logs)
        # `self.model` would end what JAX computes ahead.
        if self._member.may_be_due and self._member.is_due(self.model, lead.session.saved_step):
            metrics = scalars(logs)
            if lead.is_last_batch(self.params) or self._member.lacks_monitor(metrics):
                # Save at the end of the epoch instead, after validation and the other callbacks.
                self._member.due = True
            else:
                lead.request(self.participant, "step", metrics)
        if lead.session.group.saves_within_epochs:
            lead.save_requested(self.participant)

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Record that no training step is in progress, but a validation."""
        self._batches.rest()
        self._training.begin_validation()

    def on_test_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Stop if a signal was received."""
        if self._training.is_running:
            self._training.pause()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Log the epoch's metrics and save its checkpoint."""
        metrics, lead = scalars(logs), self.participant.lead
        if self._training.is_running:
            self._training.end_epoch(epoch + 1, metrics)
        self._batches.begin_epoch(epoch + 1)
        if self.save_freq == "epoch" or self._member.due:
            if self._member.lacks_monitor(metrics) and lead.validates_later:
                self._member.print_waiting(self.params)
            else:
                self._member.due = False
                lead.request(self.participant, self._member.unit, metrics)
        lead.save_requested(self.participant, ended=True)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Wait for all uploads, and end the run if this callback started it."""
        self.participant.lead.end_as_planned(self.participant)
