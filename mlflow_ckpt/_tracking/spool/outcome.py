"""Outcomes of saving and uploading."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_ckpt._format.fingerprint import Fingerprint
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._tracking.spool.entries import Entry


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that has been written to this machine's disk.

    Attributes:
        manifest: Its manifest.
        fingerprint: Digests and statistics of its tensors.
        best: Whether it was the best when it was saved.
    """

    manifest: Manifest
    fingerprint: Fingerprint
    best: bool


@dataclass(frozen=True)
class Outcome:
    """The outcome for a checkpoint or record: written, sent, or failed.

    Attributes:
        checkpoint: The checkpoint; None for a record of metrics and tags, if it was not written,
            or if an earlier process wrote it.
        entry: The entry of the spool whose upload was attempted; None if none was.
        error: The error; None on success.
        final: Whether the failed operation is not retried.
        size: Bytes of the entry's files if known, else 0.
    """

    checkpoint: SavedCheckpoint | None = None
    entry: Entry | None = None
    error: Exception | None = None
    final: bool = True
    size: int = 0

    @property
    def sent(self) -> bool:
        """Whether the entry was sent to the run."""
        return self.entry is not None and self.error is None
