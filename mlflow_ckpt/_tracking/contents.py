"""What the checkpoint directories of a run hold, as far as it is known."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_ckpt._tracking import index
from mlflow_ckpt._tracking.checkpoint import Checkpoint
from mlflow_ckpt._tracking.store import StoredFile
from mlflow_ckpt.errors import ManifestError

Result = Checkpoint | ManifestError | None


@dataclass(frozen=True)
class Contents:
    """The checkpoint directories of a run.

    Attributes:
        results: By directory name: the checkpoint, the error of its manifest, or None without one.
        cached: Names of checkpoints that were read from the index only.
        listed: All artifacts directly below `checkpoints/`.
    """

    results: dict[str, Result]
    cached: set[str]
    listed: list[StoredFile]

    @property
    def complete(self) -> list[Checkpoint]:
        """The complete checkpoints, oldest first."""
        complete = [result for result in self.results.values() if isinstance(result, Checkpoint)]
        return sorted(complete, key=lambda checkpoint: index.by_training(checkpoint.manifest))

    @property
    def damaged(self) -> dict[str, ManifestError]:
        """The errors of unreadable manifests, by checkpoint name."""
        results = self.results.items()
        return {name: result for name, result in results if isinstance(result, ManifestError)}

    def confirm(self, name: str, result: Result) -> None:
        """Replace the index's copy of a checkpoint by the result of reading its manifest."""
        self.results[name] = result
        self.cached.discard(name)
