"""Writes a checkpoint's directory: the model's files, the MLflow model, and the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

import keras

from mlflow_ckpt import __version__
from mlflow_ckpt._format import layout
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.fingerprint import Fingerprint
from mlflow_ckpt._format.manifest import Manifest, hash_files
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt._model.capture import describing, write_snapshot
from mlflow_ckpt._model.capture.buffers import Buffers, Shapes, Views
from mlflow_ckpt._model.capture.snapshot import Descriptions, Snapshot
from mlflow_ckpt._model.capture.snapshot import take as take_snapshot
from mlflow_ckpt._model.capture.updates import Update
from mlflow_ckpt._model.files import model_config
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._tracking import mlmodel
from mlflow_ckpt._tracking.spool.outcome import SavedCheckpoint
from mlflow_ckpt.errors import MlflowCkptError


@dataclass(frozen=True)
class Content:
    """What a checkpoint contains besides the state of the training.

    Attributes:
        forms: `"full"`, `"split"` or both.
        full_format: `"keras"` or `"h5"`.
        metadata: JSON-serializable values.
    """

    forms: tuple[str, ...] = ("full",)
    full_format: str = "keras"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def format_of_full(self) -> str | None:
        """The format of the full form; None without that form."""
        return self.full_format if "full" in self.forms else None

    def joined(self, other: Content) -> Content:
        """Return the content of a checkpoint that has what both have; of two values, this one's."""
        full_format = self.format_of_full or other.format_of_full or self.full_format
        forms = tuple(form for form in layout.FORMS if form in (*self.forms, *other.forms))
        return Content(forms, full_format, {**other.metadata, **self.metadata})


@dataclass(frozen=True)
class Job:
    """A snapshot to write, and the properties of its checkpoint."""

    snapshot: Snapshot
    content: Content
    name: str
    epoch: int
    metrics: Mapping[str, float]
    monitor: Monitor | None
    best: bool
    interrupted: str | None
    training: TrainingState | None = None
    update: Update | None = None


class Composer:
    """Takes snapshots of models and writes them as checkpoint directories.

    Args:
        run_id: The run that the checkpoints belong to.

    Attributes:
        lineage: The checkpoint that the training continues from; empty for a new training.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self.lineage: Mapping[str, Any] = {}
        self._versions = versions()
        self._descriptions = Descriptions()

    def check(self, model: keras.Model, content: Content) -> Shapes:
        """Check that a model can be saved; return the shapes of the buffers that it needs.

        Of a model that has no weights yet, only the architecture is checked.

        Raises:
            UnsupportedModelError: If Keras cannot save the whole model in the requested forms.
        """
        if not model.built:
            model_config.require_format(describing.describe(model), content.format_of_full)
            return {}
        views = Views()
        self.take(model, views, content).close()
        return views.shapes

    def take(self, model: keras.Model, buffers: Buffers, content: Content) -> Snapshot:
        """Take a snapshot of a built model.

        Raises:
            UnsupportedModelError: If Keras cannot save the whole model in the requested forms.
        """
        snapshot = take_snapshot(
            model,
            full_format=content.format_of_full,
            buffers=buffers,
            descriptions=self._descriptions,
        )
        try:
            write_snapshot.require_complete(snapshot, content.forms, content.full_format)
        except MlflowCkptError:
            snapshot.close()
            raise
        return snapshot

    def compose(self, job: Job, directory: Path) -> SavedCheckpoint:
        """Write a checkpoint, including its manifest, into an empty directory.

        Raises:
            OSError: If the disk is full or cannot be written.
        """
        content = job.content
        fingerprint = write_snapshot.write(
            job.snapshot,
            directory,
            epoch=job.epoch,
            forms=content.forms,
            full_format=content.full_format,
            training=job.training,
            update=job.update,
        )
        if content.format_of_full is not None:
            mlmodel.write(
                directory,
                run_id=self._run_id,
                name=job.name,
                full_format=content.full_format,
                keras_version=self._versions["keras"],
                backend=self._versions["keras_backend"],
                schema=job.snapshot.schema,
                metadata={**content.metadata, "epoch": job.epoch, "step": job.snapshot.step},
            )
        paths = (path for path in directory.rglob("*") if path.is_file())
        files = [path.relative_to(directory).as_posix() for path in paths]
        manifest = Manifest(
            run_id=self._run_id,
            name=job.name,
            epoch=job.epoch,
            step=job.snapshot.step,
            created=job.snapshot.created.isoformat(timespec="seconds"),
            forms=content.forms,
            full_format=content.format_of_full,
            files=hash_files(directory, files),
            weights_digest=fingerprint.weights_digest,
            architecture_digest=_architecture_digest(fingerprint),
            metrics=job.metrics,
            monitor=job.monitor,
            versions=self._versions,
            lineage=self.lineage,
            metadata=content.metadata,
            interrupted=job.interrupted,
        )
        (directory / layout.MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        return SavedCheckpoint(manifest, fingerprint, job.best)


def versions() -> dict[str, str]:
    """Return the versions of Python and the libraries in use, and the Keras backend's name."""
    backend = keras.config.backend()
    result = {"mlflow_ckpt": __version__, "python": python_version(), "keras_backend": backend}
    for name in ("keras", backend, "numpy", "h5py", "mlflow"):
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            result[name] = "unknown"
    return result


def _architecture_digest(fingerprint: Fingerprint) -> Digest:
    digest = fingerprint.architecture_digest
    assert digest is not None, "a snapshot always has an architecture"  # noqa: S101
    return digest
