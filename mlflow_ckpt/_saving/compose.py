"""Composes a checkpoint's directory: the model's files, the MLflow model, and the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

import keras

from mlflow_ckpt import __version__
from mlflow_ckpt._format import layout
from mlflow_ckpt._format.fingerprint import Fingerprint
from mlflow_ckpt._format.manifest import Manifest, hash_files
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt._model.capture import snapshot, write_snapshot
from mlflow_ckpt._model.capture.buffers import Buffers, Shapes, Views
from mlflow_ckpt._model.capture.updates import Update
from mlflow_ckpt._model.files import architecture
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._tracking import mlmodel
from mlflow_ckpt._tracking.spool.outcome import SavedCheckpoint
from mlflow_ckpt.errors import MlflowCkptError


@dataclass(frozen=True)
class Job:
    """A snapshot that is to be written, and what the model does not know of it."""

    taken: snapshot.Snapshot
    name: str
    epoch: int
    metrics: Mapping[str, float]
    monitor: Monitor | None
    best: bool
    interrupted: str | None
    training: TrainingState | None = None
    update: Update | None = None


class Composer:
    """Takes snapshots and makes directories of them, all in the same forms.

    Args:
        run_id: The run that the checkpoints belong to.
        forms: `"full"`, `"split"` or both.
        full_format: `"keras"` or `"h5"`.
        metadata: Plain values to keep in every checkpoint.

    Attributes:
        lineage: Where the training came from; empty if it started fresh.
    """

    def __init__(
        self,
        run_id: str,
        *,
        forms: Sequence[str],
        full_format: str,
        metadata: Mapping[str, Any],
    ) -> None:
        self._run_id = run_id
        self._forms = tuple(forms)
        self._full_format = full_format
        self._metadata = metadata
        self.lineage: Mapping[str, Any] = {}
        self._versions = versions()
        self._descriptions = snapshot.Descriptions()

    @property
    def _wanted_format(self) -> str | None:
        return self._full_format if "full" in self._forms else None

    def check(self, model: keras.Model) -> Shapes:
        """Try out what a snapshot would do, without copying anything.

        Of a model that has no weights yet, only the architecture is tried.

        Returns:
            What buffers a snapshot needs.

        Raises:
            UnsupportedModelError: If Keras cannot save the model, whole, in the forms asked for.
        """
        if not model.built:
            architecture.require_format(architecture.describe(model), self._wanted_format)
            return {}
        views = Views()
        self.take(model, views).close()
        return views.shapes

    def take(self, model: keras.Model, buffers: Buffers) -> snapshot.Snapshot:
        """Take a snapshot of a built model.

        Raises:
            UnsupportedModelError: If Keras cannot save the model, whole, in the forms asked for.
        """
        taken = snapshot.take(
            model,
            full_format=self._wanted_format,
            buffers=buffers,
            descriptions=self._descriptions,
        )
        try:
            write_snapshot.require_complete(taken, self._forms, self._full_format)
        except MlflowCkptError:
            taken.close()
            raise
        return taken

    def compose(self, job: Job, directory: Path) -> SavedCheckpoint:
        """Write a checkpoint, the manifest among it, into an empty directory.

        Raises:
            OSError: If the disk is full or cannot be written.
        """
        fingerprint = write_snapshot.write(
            job.taken,
            directory,
            epoch=job.epoch,
            forms=self._forms,
            full_format=self._full_format,
            training=job.training,
            update=job.update,
        )
        if "full" in self._forms:
            mlmodel.write(
                directory,
                run_id=self._run_id,
                name=job.name,
                full_format=self._full_format,
                keras_version=self._versions["keras"],
                backend=self._versions["keras_backend"],
                schema=job.taken.schema,
                metadata={**self._metadata, "epoch": job.epoch, "step": job.taken.step},
            )
        files = [
            path.relative_to(directory).as_posix()
            for path in directory.rglob("*")
            if path.is_file()
        ]
        manifest = Manifest(
            run_id=self._run_id,
            name=job.name,
            epoch=job.epoch,
            step=job.taken.step,
            created=job.taken.created.isoformat(timespec="seconds"),
            forms=self._forms,
            full_format=self._wanted_format,
            files=hash_files(directory, files),
            weights_digest=fingerprint.weights_digest,
            architecture_digest=_required(fingerprint),
            metrics=job.metrics,
            monitor=job.monitor,
            versions=self._versions,
            lineage=self.lineage,
            metadata=self._metadata,
            interrupted=job.interrupted,
        )
        (directory / layout.MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        return SavedCheckpoint(manifest, fingerprint, job.best)


def versions() -> dict[str, str]:
    """Return the versions of what writes a checkpoint, and the Keras backend's name."""
    backend = keras.config.backend()
    found = {"mlflow_ckpt": __version__, "python": python_version(), "keras_backend": backend}
    for name in ("keras", backend, "numpy", "h5py", "mlflow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def _required(fingerprint: Fingerprint) -> Any:
    digest = fingerprint.architecture_digest
    assert digest is not None, "a snapshot always has an architecture"  # noqa: S101
    return digest
