"""What became of something that was saved."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_ckpt._format.fingerprint import Fingerprint
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._tracking.spool.entries import Entry


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that is safe on this machine's disk.

    Attributes:
        manifest: What it contains.
        fingerprint: Digests and statistics of its tensors.
        best: Whether it was the best when it was saved.
    """

    manifest: Manifest
    fingerprint: Fingerprint
    best: bool


@dataclass(frozen=True)
class Outcome:
    """What became of a checkpoint or record: written, sent, or failed.

    Attributes:
        checkpoint: The checkpoint; None for a record of metrics and tags, for one that was never
            written, and where an earlier process wrote it.
        entry: The spool's entry that was sent, or tried; None if it did not come to that.
        error: What went wrong; None if nothing did.
        final: Whether what went wrong is not tried again.
        size: Bytes of the entry's files, where they were counted.
    """

    checkpoint: SavedCheckpoint | None = None
    entry: Entry | None = None
    error: Exception | None = None
    final: bool = True
    size: int = 0

    @property
    def sent(self) -> bool:
        """Whether the run has it now."""
        return self.entry is not None and self.error is None
