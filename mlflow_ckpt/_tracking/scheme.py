"""The entry point of the `ckpt:` scheme, which MLflow loads while it is being imported.

So this module imports nothing: the module of this package that is importing MLflow at that time is
only partially initialized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow_ckpt._tracking.artifact_repository import CheckpointArtifactRepository


def repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> CheckpointArtifactRepository:
    """Return the artifact repository of a `ckpt:` URI."""
    from mlflow_ckpt._tracking.artifact_repository import CheckpointArtifactRepository

    return CheckpointArtifactRepository(artifact_uri, tracking_uri, registry_uri)
