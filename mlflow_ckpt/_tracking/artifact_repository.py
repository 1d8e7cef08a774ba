"""The `ckpt:` URI scheme for MLflow: `mlflow models serve -m ckpt:/RUN/best`.

MLflow finds it through the entry point `mlflow.artifact_repository` (`scheme.py`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NoReturn

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    DATA_LOSS,
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
)
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from mlflow_ckpt import errors
from mlflow_ckpt._format import layout
from mlflow_ckpt._format.reference import Query
from mlflow_ckpt._tracking import own_model
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.find import OwnCheckpoint, find
from mlflow_ckpt._tracking.removed import again_if_removed

_EXPECTED = "Expected ckpt:/<run_id>/<selector>, such as ckpt:/0a1b2c…/best."


class CheckpointArtifactRepository(ArtifactRepository):
    """Read-only access to the checkpoints of runs, verified against their manifests.

    Only those that MLflow loads by Keras alone are delivered (`own_model`).

    MLflow splits a URI at its last slash. So the repository's URI may be `ckpt:/`, a run, a
    checkpoint or a directory in it, and the rest is passed as a path.
    """

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List the entries directly below a path: a run's checkpoints, or a checkpoint's files.

        Args:
            path: Path relative to the repository.

        Raises:
            MlflowException: If the run or checkpoint does not exist, or the server fails.
        """
        with _translated():
            run_id, selector, inside = self._split(path)
            prefix = PurePosixPath(path or ".")
            if selector is None:
                return [
                    FileInfo(str(prefix / checkpoint.name), True, None)
                    for checkpoint in Catalog.of(run_id, self.tracking_uri).checkpoints()
                ]
            sizes = _sizes(self._find(run_id, selector))
        entries: dict[str, FileInfo] = {}
        for file, size in sizes.items():
            if inside != file and file.is_relative_to(inside):
                parts = file.relative_to(inside).parts
                name, is_dir = str(prefix / parts[0]), len(parts) > 1
                entries[name] = FileInfo(name, is_dir, None if is_dir else size)
        return [entries[name] for name in sorted(entries)]

    def download_artifacts(self, artifact_path: str, dst_path: str | None = None) -> str:
        """Download a checkpoint, or a directory or file of it, and verify it.

        Args:
            artifact_path: Path relative to the repository.
            dst_path: An existing directory; a new temporary one if None.

        Returns:
            The local path.

        Raises:
            MlflowException: If the artifact does not exist, the server fails, or a file is
                missing, extra or altered, or names code to load it with. No files are left behind.
        """
        if dst_path is not None and not Path(dst_path).is_dir():
            raise MlflowException(
                f"Expected an existing directory to download to. Received: {dst_path}",
                INVALID_PARAMETER_VALUE,
            )
        with _translated():
            run_id, selector, inside = self._split(artifact_path)
            if selector is None:
                raise MlflowException(
                    f"{self._uri(artifact_path)} names a run, not a checkpoint. {_EXPECTED}",
                    INVALID_PARAMETER_VALUE,
                )
            root = Path(dst_path or tempfile.mkdtemp(prefix="mlflow_ckpt_")).absolute()
            target = root / (artifact_path or str(inside))
            try:
                self._deliver(run_id, selector, inside, root, target)
            except BaseException:
                if dst_path is None:
                    shutil.rmtree(root, ignore_errors=True)
                raise
        return str(target)

    @again_if_removed
    def _deliver(
        self, run_id: str, selector: str, inside: PurePosixPath, root: Path, target: Path
    ) -> None:
        """Deliver the part `inside` of a checkpoint to `target`, by way of its parent `root`."""
        checkpoint = self._find(run_id, selector)
        files = [file for file in _sizes(checkpoint) if file.is_relative_to(inside)]
        if not files:
            raise MlflowException(
                f"The checkpoint {checkpoint.name} of run {run_id} has no {inside}.",
                RESOURCE_DOES_NOT_EXIST,
            )
        with tempfile.TemporaryDirectory(prefix=".mlflow_ckpt_", dir=root) as staging:
            directory = Path(staging)
            checkpoint.deliver(directory)
            sizes = {entry.path: entry.size for entry in checkpoint.checkpoint.manifest.files}
            what = f"{checkpoint.name} of run {run_id}"
            own_model.require_own(what, sizes, lambda path: (directory / path).read_bytes())
            signature = PurePosixPath(layout.SIGNATURE)
            if signature.is_relative_to(inside) and (directory / signature).is_file():
                files.append(signature)
            for file in files:
                _require_no_link(root, target / file.relative_to(inside))
                _move(directory / file, target / file.relative_to(inside))

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        """Download one file; called by MLflow code that bypasses `download_artifacts`."""
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary:
            _move(Path(self.download_artifacts(remote_file_path, temporary)), Path(local_path))

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> NoReturn:
        """Raise MlflowException: only `MlflowCheckpoint` writes checkpoints."""
        self._refuse("log_artifact")

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> NoReturn:
        """Raise MlflowException, as `log_artifact` does."""
        self._refuse("log_artifacts")

    def delete_artifacts(self, artifact_path: str | None = None) -> NoReturn:
        """Raise MlflowException: only `mlflow-ckpt prune` removes checkpoints."""
        self._refuse("delete_artifacts")

    def _refuse(self, operation: str) -> NoReturn:
        raise MlflowException(
            f"{self.artifact_uri} is read-only ({operation}). Checkpoints are saved "
            "by mlflow_ckpt.MlflowCheckpoint and removed by mlflow-ckpt prune.",
            BAD_REQUEST,
        )

    def _uri(self, path: str | None) -> str:
        return f"{self.artifact_uri.rstrip('/')}/{path or ''}".rstrip("/")

    def _split(self, path: str | None) -> tuple[str, str | None, PurePosixPath]:
        """Return the run, the selector, and the path within the checkpoint."""
        uri = self._uri(path)
        parts = uri.removeprefix("ckpt:").strip("/").split("/")
        if not parts[0] or not uri.startswith("ckpt:/") or ".." in parts:
            raise MlflowException(
                f"The URI {uri} was not understood. {_EXPECTED}", INVALID_PARAMETER_VALUE
            )
        selector = parts[1] if len(parts) > 1 else None
        return parts[0], selector, PurePosixPath(*parts[2:])

    def _find(self, run_id: str, selector: str) -> OwnCheckpoint:
        return find(Query(run_id, selector, tracking_uri=self.tracking_uri))


def _sizes(checkpoint: OwnCheckpoint) -> dict[PurePosixPath, int | None]:
    files: dict[PurePosixPath, int | None] = {
        PurePosixPath(entry.path): entry.size for entry in checkpoint.checkpoint.manifest.files
    }
    return files | {PurePosixPath(layout.MANIFEST): None}


def _require_no_link(root: Path, target: Path) -> None:
    """Raise OutputError if a link at the target, or on the way to it, leads somewhere else."""
    for path in (target, *target.parents):
        if path == root:
            return
        if path.is_symlink():
            raise errors.OutputError(f"{path} is a link. Name another directory to download to.")


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)


@contextmanager
def _translated() -> Iterator[None]:
    """Translate errors of this package into MlflowException, which MLflow handles."""
    try:
        yield
    except errors.NotFoundError as error:
        raise MlflowException(str(error), RESOURCE_DOES_NOT_EXIST) from error
    except errors.IntegrityError as error:
        raise MlflowException(str(error), DATA_LOSS) from error
    except errors.InvalidArgumentError as error:
        raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from error
    except errors.MlflowCkptError as error:
        raise MlflowException(str(error)) from error
