"""Puts checkpoints and records where they are safe: into their place, or the spool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._saving.compose import Composer, Job
from mlflow_ckpt._tracking.spool import entries, sending
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.spool.outcome import SavedCheckpoint
from mlflow_ckpt._tracking.spool.spool_directory import ENVIRONMENT_VARIABLE, Spool
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import OutputError


class CheckpointWriter:
    """Brings to this machine's disk what a run is to get.

    Args:
        composer: Makes a directory of a snapshot.
        store: The run.

    Attributes:
        spool: Where things are until the run has them: another one than the default, if that
            cannot be written.
        problem: Why it is not the default one; None if it is.
    """

    def __init__(self, composer: Composer, store: RunStore) -> None:
        self._composer = composer
        self._store = store
        self.spool, problem = Spool.usable()
        self.problem = None if problem is None else _spool_error(problem, self.spool)

    def keep(self, job: Job) -> tuple[SavedCheckpoint, Entry]:
        """Write a checkpoint to disk: into its place if the run's files are here, or the spool.

        Returns:
            The checkpoint, and what is still to be sent of it.

        Raises:
            OutputError: If the disk is full or cannot be written.
        """
        placed = self._place(job)
        if placed is not None:
            return placed
        try:
            with self.spool.draft(self._store.run_id) as draft:
                saved = self._composer.compose(job, draft.files)
                entry = draft.commit(
                    kind=entries.CHECKPOINT,
                    run_id=self._store.run_id,
                    tracking_uri=self._store.tracking_uri,
                    name=job.name,
                )
        except OSError as error:
            raise _write_error(job.name, self.spool.root, error) from error
        return saved, entry

    def _place(self, job: Job) -> tuple[SavedCheckpoint, Entry] | None:
        """Write a checkpoint beside its place and move it there; None if that cannot be done."""
        beside = self._store.known_local_path(layout.CHECKPOINTS_DIR)
        if beside is None:
            return None
        try:
            with self.spool.draft(self._store.run_id, beside=beside) as draft:
                saved = self._composer.compose(job, draft.files)
                entry = sending.place(draft, self._store, saved.manifest)
        except OSError:
            return None  # the spool may be on another disk
        return None if entry is None else (saved, entry)

    def record(self, values: dict[str, Any]) -> Entry | None:
        """Put metrics, tags or a status into the spool; if that cannot be written, send them.

        Args:
            values: Attributes of the entry, but where it belongs.

        Returns:
            What is to be sent; None if it has been.

        Raises:
            OutputError: If it is lost.
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


def _spool_error(problem: OSError, used: Spool) -> OutputError:
    return OutputError(
        f"The spool cannot be written: {problem}. Checkpoints wait in {used.root} instead, until "
        f"the run has them. Name a directory that can be: {ENVIRONMENT_VARIABLE}."
    )


def _write_error(name: str, root: Path, error: OSError) -> OutputError:
    return OutputError(
        f"The checkpoint {name} could not be written to {root}: {error}. It is lost, and nothing "
        f"was uploaded; free some space, or name another disk: {ENVIRONMENT_VARIABLE}."
    )
