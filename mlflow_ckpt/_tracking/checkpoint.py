"""A complete checkpoint of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt.errors import CheckpointNotFoundError


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint of a run.

    Attributes:
        run_id: The run that holds it.
        manifest: Its manifest.
    """

    run_id: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """Directory name, such as `epoch_0003`."""
        return self.manifest.name

    @property
    def metrics(self) -> Mapping[str, float]:
        """The recorded metrics by name."""
        return self.manifest.metrics

    @property
    def monitor(self) -> Monitor | None:
        """The metric that decides which checkpoint is best; None if none was recorded."""
        return self.manifest.monitor

    @property
    def artifact_path(self) -> str:
        """Run-relative path of its directory."""
        return layout.artifact_path(self.name)

    @property
    def uri(self) -> str:
        """The URI that `mlflow.keras.load_model` and MLflow's commands accept."""
        return f"runs:/{self.run_id}/{self.artifact_path}"


def no_checkpoints(run_id: str) -> CheckpointNotFoundError:
    """Return the error for a run without checkpoints."""
    return CheckpointNotFoundError(
        f"The run {run_id} has no checkpoints. "
        "Train with mlflow_ckpt.MlflowCheckpoint() among the callbacks.",
        run_id=run_id,
    )
