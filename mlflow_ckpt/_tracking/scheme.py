"""The entry point of the scheme `ckpt:`. MLflow loads it while it is itself imported, by whomever.

So this module imports nothing: whichever module of this package was imported first, and imports
MLflow, is not complete yet.
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
