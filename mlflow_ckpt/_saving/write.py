"""Writes checkpoints and records to disk: directly into the run's artifacts, or to the spool."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._saving.compose import Composer, Job
from mlflow_ckpt._tracking.spool import entries, sending
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.spool.outcome import SavedCheckpoint
from mlflow_ckpt._tracking.spool.spool_directory import ENVIRONMENT_VARIABLE, Spool
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import OutputError

Written = Callable[[Path, Manifest], None]
Moved = Callable[[OutputError], None]


class CheckpointWriter:
    """Writes checkpoints and records of a run to this machine's disk.

    Args:
        composer: Writes the files of a checkpoint.
        store: The run.
        written: Called with the directory and the manifest of each checkpoint before it is sent.
        moved: Called with the reason when the spool's disk fails, and another one is used.

    Attributes:
        spool: Holds entries until they are sent. A temporary directory if the default spool is
            not writable, or its disk has become full.
        problem: Why the default spool is not used; None if it is.
    """

    def __init__(
        self,
        composer: Composer,
        store: RunStore,
        written: Written | None = None,
        moved: Moved | None = None,
    ) -> None:
        self._composer = composer
        self._store = store
        self._written = written or (lambda *_: None)
        self._moved = moved or (lambda _: None)
        self.spool, problem = Spool.usable()
        self.problem = None if problem is None else _spool_error(problem, self.spool)

    def keep(self, job: Job) -> tuple[SavedCheckpoint, Entry]:
        """Write a checkpoint to disk: into the run's artifacts if they are local, else the spool.

        Returns:
            The checkpoint, and the spool's entry that is still to be sent.

        Raises:
            OutputError: If the disk is full or not writable, and so is that of temporary files.
        """
        written = self._write_into_run(job)
        if written is not None:
            return written
        try:
            return self._write_into_spool(job, self.spool)
        except OSError as error:
            if self.spool.is_temporary:
                raise _write_error(job.name, self.spool.root, error) from error
            return self._write_elsewhere(job, error)

    def _write_into_spool(self, job: Job, spool: Spool) -> tuple[SavedCheckpoint, Entry]:
        with spool.draft(self._store.run_id) as draft:
            saved = self._compose(job, draft.files)
            entry = draft.commit(
                kind=entries.CHECKPOINT,
                run_id=self._store.run_id,
                tracking_uri=self._store.tracking_uri,
                name=job.name,
            )
        return saved, entry

    def _write_elsewhere(self, job: Job, problem: OSError) -> tuple[SavedCheckpoint, Entry]:
        """Write a checkpoint to the disk of temporary files, while it still is in memory."""
        full, self.spool = self.spool, Spool.temporary()
        try:
            written = self._write_into_spool(job, self.spool)
        except OSError:
            shutil.rmtree(self.spool.root, ignore_errors=True)
            self.spool = full
            raise _write_error(job.name, full.root, problem) from problem
        self._moved(_spool_error(problem, self.spool))
        return written

    def _write_into_run(self, job: Job) -> tuple[SavedCheckpoint, Entry] | None:
        """Write a checkpoint among the run's local artifacts; return None if that is impossible."""
        beside = self._store.known_local_path(layout.CHECKPOINTS_DIR)
        if beside is None:
            return None
        try:
            with self.spool.draft(self._store.run_id, beside=beside) as draft:
                saved = self._compose(job, draft.files)
                entry = sending.move_into_run(draft, self._store, saved.manifest)
        except OSError:
            return None  # the spool may be on another disk
        return None if entry is None else (saved, entry)

    def _compose(self, job: Job, directory: Path) -> SavedCheckpoint:
        saved = self._composer.compose(job, directory)
        self._written(directory, saved.manifest)
        return saved

    def record(self, **values: Any) -> Entry | None:
        """Add metrics, tags or a status to the spool; if it is not writable, send them directly.

        Args:
            values: Attributes of the entry except its path, run and server.

        Returns:
            The entry to send; None if it was sent directly.

        Raises:
            OutputError: If the spool is not writable and the server does not answer.
        """
        uri = self._store.tracking_uri
        try:
            return self.spool.put(self._store.run_id, tracking_uri=uri, **values)
        except OSError as error:
            unsaved = Entry(Path(), run_id=self._store.run_id, tracking_uri=uri, **values)
            if not self._store.answers():
                raise OutputError(
                    f"The {unsaved.label} are lost: the tracking server does not answer, and the "
                    f"spool {self.spool.root} cannot be written: {error}."
                ) from error
            sending.deliver(unsaved, self._store)
            return None


def _spool_error(problem: OSError, spool: Spool) -> OutputError:
    return OutputError(
        f"The spool cannot be written: {problem}. Checkpoints stay in {spool.root} until they are "
        f"uploaded. Set {ENVIRONMENT_VARIABLE} to a writable directory."
    )


def _write_error(name: str, root: Path, error: OSError) -> OutputError:
    return OutputError(
        f"The checkpoint {name} could not be written to {root}: {error}. It is lost, and nothing "
        f"was uploaded. Free space, or set {ENVIRONMENT_VARIABLE} to a directory on another disk."
    )
