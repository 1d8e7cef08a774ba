"""Saves checkpoints of a model into a run, behind the back of whoever trains it.

    snapshot (caller's thread) -> write into the spool (writer) -> send (uploader)

A plain object that knows neither callbacks nor training loops: `MlflowCheckpoint` translates
Keras's events into calls of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from queue import LifoQueue
from types import TracebackType
from typing import Any

import keras

from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt._format.retention import RetentionPolicy
from mlflow_ckpt._model.capture.buffers import Buffers
from mlflow_ckpt._model.capture.updates import Updates
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._saving.arguments import check_forms, check_full_format, check_metadata
from mlflow_ckpt._saving.compose import Composer, Job
from mlflow_ckpt._saving.outcomes import Outcomes
from mlflow_ckpt._saving.worker import Worker
from mlflow_ckpt._saving.write import CheckpointWriter
from mlflow_ckpt._tracking import prune_plan, removal
from mlflow_ckpt._tracking.spool import entries
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.spool.outcome import Outcome
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.spool.uploader import Uploader
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.ui.weight_metrics import weight_metrics
from mlflow_ckpt.errors import InvalidArgumentError, TrackingError

# Snapshots that may wait to be written. A third waits for the first: memory stays bounded.
IN_FLIGHT = 2


class CheckpointSaver:
    """Saves checkpoints into one run.

    Args:
        store: The run.
        forms: `"full"`, `"split"` or both.
        full_format: `"keras"` or `"h5"`.
        metadata: Plain values to keep in every checkpoint, such as class names.
        retention: Which checkpoints the run keeps; all if None.
        weight_metrics: Whether to log the norm of every weight, and of its change since the last
            checkpoint, as metrics of the run.

    Raises:
        InvalidArgumentError: If an argument is none of these.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        forms: Sequence[str] = ("full",),
        full_format: str = "keras",
        metadata: Mapping[str, Any] | None = None,
        retention: RetentionPolicy | None = None,
        weight_metrics: bool = False,
    ) -> None:
        check_full_format(full_format)
        self._store = store
        self._weight_metrics = weight_metrics
        self._updates = Updates()
        self._composer = Composer(
            store.run_id,
            forms=check_forms(forms),
            full_format=full_format,
            metadata=check_metadata(metadata),
        )
        self._retention = retention
        self._outcomes = Outcomes()
        self._checkpoint_writer = CheckpointWriter(self._composer, store)
        self._uploader = Uploader(
            self.spool, store, after=None if retention is None else self._retain
        )
        self._writer = Worker("mlflow_ckpt writer", self._outcomes.add_error)
        # The last one used first: the second takes memory only if it is needed.
        self._buffers: LifoQueue[Buffers] = LifoQueue()
        for _ in range(IN_FLIGHT):
            self._buffers.put(Buffers())
        if self._checkpoint_writer.problem is not None:
            self._outcomes.add_error(self._checkpoint_writer.problem)

    @property
    def run_id(self) -> str:
        """The run that checkpoints go to."""
        return self._store.run_id

    @property
    def failure(self) -> Exception | None:
        """Why the last attempt to send something failed; None if it did not."""
        return self._uploader.failure

    @property
    def spool(self) -> Spool:
        """Where checkpoints are until the run has them."""
        return self._checkpoint_writer.spool

    def adopt(self) -> list[Entry]:
        """Take on what earlier processes left in the spool for this run, and return it."""
        self.spool.sweep(self.run_id)
        found = []
        for entry in self.spool.entries(self.run_id):
            if entry.tracking_uri != self._store.tracking_uri:
                continue
            if entry.kind == entries.STATUS:
                self._forget(entry)
            else:
                found.append(entry)
                self._uploader.add(entry)
        return found

    def _forget(self, entry: Entry) -> None:
        """Drop how an earlier training ended: the run goes on."""
        with self.spool.locked(entry) as held:
            if held:
                self.spool.remove(entry)

    def check(self, model: keras.Model) -> None:
        """Try out what a save would do, so that nobody trains what cannot be saved.

        Of a model that has no weights yet, only the architecture is tried.

        Raises:
            UnsupportedModelError: If Keras cannot save the model, whole, in the forms asked for.
        """
        shapes = self._composer.check(model)
        buffers = self._buffers.get()

        def reserve() -> None:
            try:
                with suppress(MemoryError):  # then the first snapshot tells, if it has none either
                    buffers.reserve(shapes)
            finally:
                self._buffers.put(buffers)

        # Meanwhile training begins: it is slow to get so much memory for the first time.
        self._writer.submit(reserve)

    def save(
        self,
        model: keras.Model,
        name: CheckpointName | str,
        *,
        epoch: int,
        metrics: Mapping[str, float],
        monitor: Monitor | None = None,
        best: bool = False,
        interrupted: str | None = None,
        training: TrainingState | None = None,
    ) -> int:
        """Save a checkpoint, whole or not at all. Returns once the state is copied.

        Waits if two checkpoints are still to be written to disk.

        Args:
            model: A built model.
            name: What to call the checkpoint, such as `epoch_0003`.
            epoch: Number of completed epochs.
            metrics: Values that belong to this moment.
            monitor: The metric that tells which checkpoint is best.
            best: Whether this one is the best so far.
            interrupted: What breaks the training off, such as `"SIGTERM"`; None for nothing.
            training: The state of what trains the model, if it is known.

        Returns:
            The optimizer's step.

        Raises:
            InvalidArgumentError: If `name` is not how a checkpoint is named.
            UnsupportedModelError: If Keras cannot save the model in the forms asked for.
        """
        if CheckpointName.parse(str(name)) is None:
            raise InvalidArgumentError(
                "Expected a checkpoint's name, such as 'epoch_0003' or 'step_00001500'. "
                f"Received: {str(name)!r}"
            )
        buffers = self._buffers.get()
        try:
            taken = self._composer.take(model, buffers)
        except BaseException:
            self._buffers.put(buffers)
            raise
        job = Job(taken, str(name), epoch, dict(metrics), monitor, best, interrupted, training)

        def write() -> None:
            try:
                update = self._updates.measure(taken.tensors, job.name)
                self._keep(replace(job, update=update))
            finally:
                taken.close()
                self._buffers.put(buffers)

        self._writer.submit(write)
        return taken.step

    def set_lineage(self, lineage: Mapping[str, Any]) -> None:
        """Note in every further checkpoint where its training came from."""
        self._composer.lineage = dict(lineage)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics at one step of MLflow's charts. Returns at once."""
        timestamp = int(time.time() * 1000)
        self._submit_record(
            kind=entries.METRICS, metrics=dict(metrics), step=step, timestamp=timestamp
        )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run. Returns at once."""
        self._submit_record(kind=entries.TAGS, tags=dict(tags))

    def end_run(self, status: str) -> None:
        """Set the status of the run to `"FINISHED"` or the like. Returns at once."""
        timestamp = int(time.time() * 1000)
        self._submit_record(kind=entries.STATUS, status=status, timestamp=timestamp)

    def _submit_record(self, **values: Any) -> None:
        self._writer.submit(lambda: self._record(values))

    def outcomes(self) -> list[Outcome]:
        """Return what happened since the last call."""
        self._outcomes.add_sent(self._uploader.outcomes())
        return self._outcomes.take()

    def finish(
        self,
        *,
        patience: float,
        limit: float | None = None,
        unless: Callable[[], bool] = lambda: False,
    ) -> list[Entry]:
        """Wait until everything is written and sent.

        Args:
            patience: Seconds to wait for a server that does not answer.
            limit: Seconds to wait for uploads in all; as long as there is progress if None. What
                has not been written to this machine's disk is waited for.
            unless: Tells, asked again and again, that there is a reason to wait no longer.

        Returns:
            What is left, and stays in the spool.
        """
        started = time.monotonic()
        self._writer.join()
        if limit is not None:
            limit = max(0.0, limit - (time.monotonic() - started))
        self._uploader.drain(patience=patience, limit=limit, unless=unless)
        self._writer.close()
        self._uploader.close()
        self._updates.forget()
        self._release_memory()
        return self._uploader.pending()

    def _release_memory(self) -> None:
        """Give back the buffers' memory; those that are still being written keep theirs."""
        free = []
        while not self._buffers.empty():
            free.append(self._buffers.get())
        for _ in free:
            self._buffers.put(Buffers())

    def __enter__(self) -> CheckpointSaver:
        """Return the saver itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait until everything is sent, and raise the first thing that went wrong."""
        left = self.finish(patience=30.0)
        failures = [outcome.error for outcome in self.outcomes() if outcome.error is not None]
        if exc is None and failures:
            raise failures[0]
        if exc is None and left:
            raise TrackingError(
                f"{left[0].label} of the run {self.run_id} could not be sent in time. It stays in "
                f"the spool {self.spool.root}."
            )

    def _keep(self, job: Job) -> None:
        saved, entry = self._checkpoint_writer.keep(job)
        self._outcomes.add_written(saved)
        self._uploader.add(entry)
        if self._weight_metrics and job.interrupted is None:
            values = {"metrics": weight_metrics(saved.fingerprint)}
            timestamp = int(job.taken.created.timestamp() * 1000)
            step = saved.manifest.chart_step
            self._record({"kind": entries.METRICS, **values, "step": step, "timestamp": timestamp})

    def _record(self, values: dict[str, Any]) -> None:
        entry = self._checkpoint_writer.record(values)
        if entry is not None:
            self._uploader.add(entry)

    def _retain(self, _: Manifest) -> None:
        """Remove what the retention policy does not keep; on the uploader's thread."""
        if self._retention is None:
            return
        try:
            removal.remove_planned(self._store, prune_plan.plan(self._store, self._retention))
        except Exception as error:  # noqa: BLE001 - a policy is the user's code; see `outcomes`
            self._outcomes.add_error(error)
