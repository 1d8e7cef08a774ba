"""Saves checkpoints of a model to a run in background threads.

    snapshot (caller's thread) -> write to the spool (writer) -> upload (uploader)

Independent of callbacks and training loops: `MlflowCheckpoint` calls it on Keras's events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import LifoQueue
from types import TracebackType
from typing import Any

import keras

from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt._format.retention import RetentionPolicy
from mlflow_ckpt._format.signing.keys import SigningKey
from mlflow_ckpt._model.capture.buffers import Buffers
from mlflow_ckpt._model.capture.updates import Updates
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._saving.arguments import check_forms, check_full_format, check_metadata
from mlflow_ckpt._saving.compose import Composer, Content, Job
from mlflow_ckpt._saving.first_load import FirstLoad
from mlflow_ckpt._saving.outcomes import Outcomes
from mlflow_ckpt._saving.signing import Signing
from mlflow_ckpt._saving.worker import Worker
from mlflow_ckpt._saving.write import CheckpointWriter
from mlflow_ckpt._tracking import prune_plan, removal
from mlflow_ckpt._tracking.environment import keep_retries_from_random_numbers
from mlflow_ckpt._tracking.spool import entries, lifetime
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.spool.outcome import Outcome
from mlflow_ckpt._tracking.spool.sending import entries_for
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.spool.uploader import Uploader
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.ui.weight_metrics import weight_metrics
from mlflow_ckpt.errors import InvalidArgumentError, TrackingError

# Number of snapshots that may wait to be written; another save blocks, which bounds memory.
IN_FLIGHT = 2


class CheckpointSaver:
    """Saves checkpoints to one run.

    Args:
        store: The run.
        forms: `"full"`, `"split"` or both.
        full_format: `"keras"` or `"h5"`.
        metadata: JSON-serializable values to store in every checkpoint, such as class names.
        retention: Which checkpoints the run keeps; all if None.
        weight_metrics: Whether to log the norm of every weight, and of its change since the last
            checkpoint, as metrics of the run.
        test_load: Whether to load the first checkpoint in the background; if that fails, it is
            among the outcomes.
        sign: What to sign checkpoints with; if None, they are not signed.

    Raises:
        InvalidArgumentError: If an argument is invalid.
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
        test_load: bool = False,
        sign: SigningKey | None = None,
    ) -> None:
        check_full_format(full_format)
        keep_retries_from_random_numbers()
        self._store = store
        self._weight_metrics = weight_metrics
        self._updates = Updates()
        self._content = Content(check_forms(forms), full_format, check_metadata(metadata))
        self._composer = Composer(store.run_id)
        self._retention = retention
        self._outcomes = Outcomes()
        self._signing = None if sign is None else Signing(sign, self._outcomes)
        self._checkpoint_writer = CheckpointWriter(
            self._composer, store, self._complete, self._outcomes.add_error
        )
        self._first_load = None
        if test_load:
            self._first_load = FirstLoad(lambda: self.spool, store.run_id, self._outcomes)
        self._uploader = Uploader(
            self.spool, store, after=None if retention is None else self._retain
        )
        self._writer = Worker("mlflow_ckpt writer", self._outcomes.add_error)
        # Last in, first out: the second set allocates memory only if it is needed.
        self._buffers: LifoQueue[Buffers] = LifoQueue()
        for _ in range(IN_FLIGHT):
            self._buffers.put(Buffers())
        if self._checkpoint_writer.problem is not None:
            self._outcomes.add_error(self._checkpoint_writer.problem)

    @property
    def run_id(self) -> str:
        """The run that checkpoints are saved to."""
        return self._store.run_id

    @property
    def failure(self) -> Exception | None:
        """Error of the last attempt to send an entry; None if it succeeded."""
        return self._uploader.failure

    @property
    def spool(self) -> Spool:
        """The spool that holds checkpoints until they are uploaded."""
        return self._checkpoint_writer.spool

    def is_losing_data(self) -> bool:
        """Whether the spool holds entries of the run, and is about to be lost."""
        return lifetime.ends_with(self.spool) is not None and bool(self.spool.entries(self.run_id))

    def adopt(self) -> list[Entry]:
        """Queue and return the entries that earlier processes left in the spool for this run."""
        self.spool.sweep(self.run_id)
        adopted = []
        for entry in entries_for(self.spool, self._store):
            if entry.kind == entries.STATUS:
                self._discard_status(entry)
            else:
                adopted.append(entry)
                self._uploader.add(entry)
        return adopted

    def _discard_status(self, entry: Entry) -> None:
        """Remove the final status of an earlier training, because the run continues."""
        with self.spool.locked(entry) as is_locked:
            if is_locked:
                self.spool.remove(entry)

    def check(self, model: keras.Model, contents: Iterable[Content] = ()) -> None:
        """Check that a model can be saved, before it is trained.

        Of a model that has no weights yet, only the architecture is checked.

        Args:
            model: The model.
            contents: What checkpoints will contain besides what the saver was created with.

        Raises:
            UnsupportedModelError: If Keras cannot save the whole model in the requested forms.
        """
        for content in contents:
            if content.format_of_full not in (None, self._content.format_of_full):
                self._composer.check(model, content)
        shapes = self._composer.check(model, self._content)
        buffers = self._buffers.get()

        def reserve() -> None:
            try:
                with suppress(MemoryError):  # if memory is short, the first snapshot will raise it
                    buffers.reserve(shapes)
            finally:
                self._buffers.put(buffers)

        # In the background, because the first allocation of this much memory is slow.
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
        content: Content | None = None,
    ) -> int:
        """Save a checkpoint atomically. Returns once the state is copied.

        Blocks while two checkpoints wait to be written to disk.

        Args:
            model: A built model.
            name: The checkpoint's name, such as `epoch_0003`.
            epoch: Number of completed epochs.
            metrics: The metrics to record with the checkpoint.
            monitor: The metric that decides which checkpoint is best.
            best: Whether this checkpoint is the best so far.
            interrupted: What interrupted the training, such as `"SIGTERM"`; None if nothing did.
            training: State of the training besides the model; None if unknown.
            content: What it contains, if not what the saver was created with.

        Returns:
            The optimizer's step.

        Raises:
            InvalidArgumentError: If `name` is not a valid checkpoint name.
            UnsupportedModelError: If Keras cannot save the model in the requested forms.
        """
        _require_name(name)
        if self._first_load is not None:
            self._first_load.prepare(model)
        content = content or self._content
        buffers = self._buffers.get()
        try:
            snapshot = self._composer.take(model, buffers, content)
        except BaseException:
            self._buffers.put(buffers)
            raise
        job = Job(
            *(snapshot, content, str(name), epoch, dict(metrics)),
            *(monitor, best, interrupted, training),
        )

        def write() -> None:
            try:
                update = self._updates.measure(snapshot.tensors, job.name)
                self._keep(replace(job, update=update))
            finally:
                snapshot.close()
                self._buffers.put(buffers)

        self._writer.submit(write)
        return snapshot.step

    def set_lineage(self, lineage: Mapping[str, Any]) -> None:
        """Set the lineage to record in all further checkpoints."""
        self._composer.lineage = dict(lineage)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics at one step of MLflow's charts. Returns immediately."""
        timestamp = int(time.time() * 1000)
        self._submit_record(
            kind=entries.METRICS, metrics=dict(metrics), step=step, timestamp=timestamp
        )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run. Returns immediately."""
        self._submit_record(kind=entries.TAGS, tags=dict(tags))

    def end_run(self, status: str) -> None:
        """Set the status of the run, such as `"FINISHED"`. Returns immediately."""
        timestamp = int(time.time() * 1000)
        self._submit_record(kind=entries.STATUS, status=status, timestamp=timestamp)

    def _submit_record(self, **values: Any) -> None:
        self._writer.submit(lambda: self._record(**values))

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes since the last call."""
        self._outcomes.add_sent(self._uploader.outcomes())
        return self._outcomes.take()

    def finish(
        self,
        *,
        patience: float,
        limit: float | None = None,
        unless: Callable[[], bool] = lambda: False,
    ) -> list[Entry]:
        """Wait until all is written and sent; return the unsent entries, which stay in the spool.

        Args:
            patience: Seconds to wait for a server that does not answer.
            limit: Total seconds to wait for uploads; None to wait while there is progress. Writes
                to this machine's disk are always completed.
            unless: Polled while waiting; stop waiting once it returns True.
        """
        self.flush(patience=patience, limit=limit, unless=unless)
        if self._first_load is not None and limit is None:
            self._first_load.join()
        self._writer.close()
        self._uploader.close()
        self._updates.forget()
        self._release_memory()
        return self._uploader.pending()

    def flush(
        self,
        *,
        patience: float,
        limit: float | None = None,
        unless: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait until all is written and sent. Arguments as in `finish`; may be called any time."""
        started = time.monotonic()
        self._writer.join()
        if limit is not None:
            limit = max(0.0, limit - (time.monotonic() - started))
        self._uploader.drain(patience=patience, limit=limit, unless=unless)

    def _release_memory(self) -> None:
        """Free the memory of the buffers that are not in use."""
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
        """Wait for all uploads, and raise the first error."""
        unsent = self.finish(patience=30.0)
        failures = [outcome.error for outcome in self.outcomes() if outcome.error is not None]
        if exc is None and failures:
            raise failures[0]
        if exc is None and unsent:
            raise TrackingError(
                f"{unsent[0].label} of the run {self.run_id} could not be sent in time. It stays "
                f"in the spool {self.spool.root}."
            )

    def _complete(self, directory: Path, manifest: Manifest) -> None:
        """Sign a checkpoint that is written and not sent, and load the first one."""
        if self._signing is not None:
            self._signing.sign(directory, manifest)
        if self._first_load is not None:
            self._first_load.load(directory, manifest)

    def _keep(self, job: Job) -> None:
        saved, entry = self._checkpoint_writer.keep(job)
        self._outcomes.add_written(saved)
        self._uploader.add(entry)
        if self._weight_metrics and job.interrupted is None:
            metrics = weight_metrics(saved.fingerprint)
            timestamp = int(job.snapshot.created.timestamp() * 1000)
            step = saved.manifest.chart_step
            self._record(kind=entries.METRICS, metrics=metrics, step=step, timestamp=timestamp)

    def _record(self, **values: Any) -> None:
        entry = self._checkpoint_writer.record(**values)
        if entry is not None:
            self._uploader.add(entry)

    def _retain(self, _: Manifest) -> None:
        """Apply the retention policy. Runs on the uploader's thread."""
        if self._retention is None:
            return
        try:
            removal.remove_planned(self._store, prune_plan.plan(self._store, self._retention))
        except Exception as error:  # noqa: BLE001 - a policy is user code; see `outcomes`
            self._outcomes.add_error(error)


def _require_name(name: CheckpointName | str) -> None:
    if CheckpointName.parse(str(name)) is None:
        raise InvalidArgumentError(
            "Expected a checkpoint's name, such as 'epoch_0003' or 'step_00001500'. "
            f"Received: {str(name)!r}"
        )
