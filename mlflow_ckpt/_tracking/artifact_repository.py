"""The scheme `ckpt:` for MLflow itself: `mlflow models serve -m ckpt:/RUN/best`.

MLflow finds this through the entry point `mlflow.artifact_repository` (`scheme.py`). What it needs
of this package is imported when it is used, so that it costs little.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NoReturn

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    DATA_LOSS,
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
)
from mlflow.store.artifact.artifact_repo import ArtifactRepository

if TYPE_CHECKING:
    from mlflow_ckpt._tracking.find import OwnCheckpoint

_EXPECTED = "Expected ckpt:/<run_id>/<selector>, such as ckpt:/0a1b2c…/best."


class CheckpointArtifactRepository(ArtifactRepository):
    """The checkpoints of runs, to be read: verified against their manifests on the way.

    MLflow divides a URI at its last slash. So a repository may stand for `ckpt:/`, a run, a
    checkpoint or a directory in it, and the rest comes as a path.
    """

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List what is directly below a path: a run's checkpoints, or a checkpoint's files.

        Args:
            path: Path relative to the repository.

        Raises:
            MlflowException: If there is no such run or checkpoint, or the server fails.
        """
        with _translated():
            run_id, selector, inside = self._divided(path)
            prefix = PurePosixPath(path or ".")
            if selector is None:
                from mlflow_ckpt._tracking.catalog import Catalog

                return [
                    FileInfo(str(prefix / checkpoint.name), True, None)
                    for checkpoint in Catalog.of(run_id, self.tracking_uri).checkpoints()
                ]
            sizes = _sizes(self._find(run_id, selector))
        listed: dict[str, FileInfo] = {}
        for file, size in sizes.items():
            if inside != file and file.is_relative_to(inside):
                parts = file.relative_to(inside).parts
                place = str(prefix / parts[0])
                listed[place] = FileInfo(place, len(parts) > 1, None if len(parts) > 1 else size)
        return [listed[place] for place in sorted(listed)]

    def download_artifacts(self, artifact_path: str, dst_path: str | None = None) -> str:
        """Download a checkpoint, or a directory or file of it, and compare it with its manifest.

        Args:
            artifact_path: Path relative to the repository.
            dst_path: An existing directory; a new temporary one if None.

        Returns:
            Where it is now.

        Raises:
            MlflowException: If there is no such thing, the server fails, or what it delivers is not
                what was saved. Nothing is left behind then.
        """
        if dst_path is not None and not Path(dst_path).is_dir():
            raise MlflowException(
                f"Expected an existing directory to download to. Received: {dst_path}",
                INVALID_PARAMETER_VALUE,
            )
        with _translated():
            run_id, selector, inside = self._divided(artifact_path)
            if selector is None:
                raise MlflowException(
                    f"{self._uri(artifact_path)} names a run, and no checkpoint. {_EXPECTED}",
                    INVALID_PARAMETER_VALUE,
                )
            found = self._find(run_id, selector)
            wanted = [file for file in _sizes(found) if file.is_relative_to(inside)]
            if not wanted:
                raise MlflowException(
                    f"The checkpoint {found.name} of run {run_id} has no {inside}.",
                    RESOURCE_DOES_NOT_EXIST,
                )
            goal = Path(dst_path or tempfile.mkdtemp(prefix="mlflow_ckpt_")).absolute()
            place = goal / (artifact_path or str(inside))
            try:
                with tempfile.TemporaryDirectory(prefix=".mlflow_ckpt_", dir=goal) as staging:
                    directory = Path(staging)
                    found.catalog.deliver(found.checkpoint, directory)
                    for file in wanted:
                        _move(directory / file, place / file.relative_to(inside))
            except BaseException:
                if dst_path is None:
                    shutil.rmtree(goal, ignore_errors=True)
                raise
        return str(place)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        """Download one file; called by what goes around `download_artifacts`."""
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary:
            _move(Path(self.download_artifacts(remote_file_path, temporary)), Path(local_path))

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> NoReturn:
        """Refuse: checkpoints are read here, and written by `MlflowCheckpoint` alone."""
        self._refuse("log_artifact")

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> NoReturn:
        """Refuse, as `log_artifact` does."""
        self._refuse("log_artifacts")

    def delete_artifacts(self, artifact_path: str | None = None) -> NoReturn:
        """Refuse: `mlflow-ckpt prune` removes checkpoints."""
        self._refuse("delete_artifacts")

    def _refuse(self, operation: str) -> NoReturn:
        raise MlflowException(
            f"{self.artifact_uri} can be read and not written ({operation}). Checkpoints are saved "
            "by mlflow_ckpt.MlflowCheckpoint and removed by mlflow-ckpt prune.",
            BAD_REQUEST,
        )

    def _uri(self, path: str | None) -> str:
        return f"{self.artifact_uri.rstrip('/')}/{path or ''}".rstrip("/")

    def _divided(self, path: str | None) -> tuple[str, str | None, PurePosixPath]:
        """Return the run, the selector, and the path inside of the checkpoint."""
        uri = self._uri(path)
        parts = uri.removeprefix("ckpt:").strip("/").split("/")
        if not parts[0] or not uri.startswith("ckpt:/") or ".." in parts:
            raise MlflowException(
                f"The URI {uri} was not understood. {_EXPECTED}", INVALID_PARAMETER_VALUE
            )
        selector = parts[1] if len(parts) > 1 else None
        return parts[0], selector, PurePosixPath(*parts[2:])

    def _find(self, run_id: str, selector: str) -> OwnCheckpoint:
        from mlflow_ckpt._format.query import Query
        from mlflow_ckpt._tracking.find import find

        return find(Query(run_id, selector, tracking_uri=self.tracking_uri))


def _sizes(found: OwnCheckpoint) -> dict[PurePosixPath, int | None]:
    from mlflow_ckpt._format import layout

    files: dict[PurePosixPath, int | None] = {
        PurePosixPath(entry.path): entry.size for entry in found.checkpoint.manifest.files
    }
    return files | {PurePosixPath(layout.MANIFEST): None}


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)


@contextmanager
def _translated() -> Iterator[None]:
    """Raise our errors as MLflow's, which its commands and servers know how to tell."""
    from mlflow_ckpt import errors

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
