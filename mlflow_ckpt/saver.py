"""Saves checkpoints of a model into a run: snapshot, write, publish.

A plain object that knows neither callbacks nor training loops: `MlflowCheckpoint` translates
Keras's events into calls of it.
"""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

import keras

from mlflow_ckpt._version import __version__
from mlflow_ckpt.errors import InvalidArgumentError, MlflowCkptError, OutputError
from mlflow_ckpt.format import layout
from mlflow_ckpt.format.fingerprint import Fingerprint
from mlflow_ckpt.format.layout import CheckpointName
from mlflow_ckpt.format.manifest import Manifest, hash_files
from mlflow_ckpt.format.monitor import Monitor
from mlflow_ckpt.model import architecture, snapshot, writing
from mlflow_ckpt.tracking import mlmodel, publishing
from mlflow_ckpt.tracking.store import RunStore


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was saved.

    Attributes:
        manifest: What it contains.
        fingerprint: Digests and statistics of its tensors.
    """

    manifest: Manifest
    fingerprint: Fingerprint


class CheckpointSaver:
    """Saves checkpoints into one run.

    Args:
        store: The run.
        forms: `"full"`, `"split"` or both.
        full_format: `"keras"` or `"h5"`.
        metadata: Plain values to keep in every checkpoint, such as class names.

    Raises:
        InvalidArgumentError: If an argument is none of these.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        forms: Sequence[str] = ("full",),
        full_format: str = "keras",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._store = store
        self._forms = check_forms(forms)
        self._full_format = check_full_format(full_format)
        self._metadata = check_metadata(metadata)
        self._versions = versions()

    @property
    def run_id(self) -> str:
        """The run that checkpoints go to."""
        return self._store.run_id

    def save(
        self,
        model: keras.Model,
        name: CheckpointName | str,
        *,
        epoch: int,
        metrics: Mapping[str, float],
        monitor: Monitor | None = None,
        best: bool = False,
    ) -> Saved:
        """Save a checkpoint, whole or not at all.

        Args:
            model: A built model.
            name: What to call the checkpoint, such as `epoch_0003`.
            epoch: Number of completed epochs.
            metrics: Values that belong to this moment.
            monitor: The metric that tells which checkpoint is best.
            best: Whether this one is the best so far.

        Raises:
            InvalidArgumentError: If `name` is not how a checkpoint is named.
            UnsupportedModelError: If Keras cannot save the model in the forms asked for.
            CheckpointExistsError: If the run has a checkpoint of that name.
            OutputError: If the local disk is full or cannot be written.
            TrackingError: If the tracking server fails.
        """
        if CheckpointName.parse(str(name)) is None:
            raise InvalidArgumentError(
                "Expected a checkpoint's name, such as 'epoch_0003' or 'step_00001500'. "
                f"Received: {str(name)!r}"
            )
        full_format = self._full_format if "full" in self._forms else None
        try:
            with (
                snapshot.take(model, full_format=full_format) as taken,
                tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary,
            ):
                writing.require_complete(taken, self._forms, self._full_format)
                directory = Path(temporary)
                saved = self._write(taken, directory, str(name), epoch, metrics, monitor)
                publishing.publish(self._store, directory, saved.manifest, best=best)
        except MlflowCkptError:
            raise
        except OSError as error:
            raise OutputError(
                f"The checkpoint {name} could not be written to {tempfile.gettempdir()}: {error}. "
                "Nothing was uploaded; free some space, or set TMPDIR to another disk."
            ) from error
        warn_of_nonfinite(saved)
        return saved

    def _write(
        self,
        taken: snapshot.Snapshot,
        directory: Path,
        name: str,
        epoch: int,
        metrics: Mapping[str, float],
        monitor: Monitor | None,
    ) -> Saved:
        fingerprint = writing.write(
            taken, directory, epoch=epoch, forms=self._forms, full_format=self._full_format
        )
        if "full" in self._forms:
            mlmodel.write(
                directory,
                run_id=self.run_id,
                name=name,
                full_format=self._full_format,
                keras_version=self._versions["keras"],
                backend=self._versions["keras_backend"],
                schema=taken.schema,
                metadata={**self._metadata, "epoch": epoch, "step": taken.step},
            )
        files = [
            path.relative_to(directory).as_posix()
            for path in directory.rglob("*")
            if path.is_file()
        ]
        manifest = Manifest(
            run_id=self.run_id,
            name=name,
            epoch=epoch,
            step=taken.step,
            created=taken.created.isoformat(timespec="seconds"),
            forms=self._forms,
            full_format=self._full_format if "full" in self._forms else None,
            files=hash_files(directory, files),
            weights_digest=fingerprint.weights_digest,
            architecture_digest=_required(fingerprint),
            metrics=dict(metrics),
            monitor=monitor,
            versions=self._versions,
            metadata=self._metadata,
        )
        (directory / layout.MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        return Saved(manifest, fingerprint)


def check_forms(forms: Sequence[str]) -> tuple[str, ...]:
    """Return the forms in canonical order.

    Raises:
        InvalidArgumentError: Unless they are one or both of `"full"` and `"split"`.
    """
    given = [forms] if isinstance(forms, str) else list(forms)
    if not given or not set(given) <= set(layout.FORMS):
        raise InvalidArgumentError(
            "Unrecognized forms. Expected ('full',), ('split',) or ('full', 'split'). "
            f"Received: forms={forms!r}"
        )
    return tuple(form for form in layout.FORMS if form in given)


def check_full_format(full_format: str) -> str:
    """Return the format.

    Raises:
        InvalidArgumentError: Unless it is `"keras"` or `"h5"`.
    """
    if full_format not in layout.FULL_FORMATS:
        raise InvalidArgumentError(
            f"Unrecognized full_format. Expected 'keras' or 'h5'. Received: {full_format!r}"
        )
    return full_format


def check_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the metadata as a plain mapping.

    Raises:
        InvalidArgumentError: Unless JSON can hold it.
    """
    try:
        text = json.dumps(dict(metadata or {}), allow_nan=False, ensure_ascii=False)
        checked: dict[str, Any] = json.loads(text.encode())
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            "The metadata cannot be written as JSON. Expected a mapping of text, finite numbers, "
            f"booleans, lists and mappings. Received: {metadata!r} ({error})"
        ) from error
    return checked


def check_model(model: keras.Model, forms: Sequence[str], full_format: str) -> None:
    """Try out what a save would do, so that nobody trains what cannot be saved.

    Of a model that has no weights yet, only the architecture is tried.

    Raises:
        UnsupportedModelError: If Keras cannot save the model, whole, in the forms asked for.
    """
    wanted = full_format if "full" in forms else None
    if not model.built:
        architecture.require_format(architecture.describe(model), wanted)
        return
    with snapshot.take(model, full_format=wanted) as taken:
        writing.require_complete(taken, forms, full_format)


def warn_of_nonfinite(saved: Saved) -> None:
    """Warn if tensors of the checkpoint hold NaN or infinite elements."""
    broken = saved.fingerprint.nonfinite()
    if not broken:
        return
    listed = ", ".join(
        f"{tensor.label} ({tensor.statistics.nan_count} NaN, {tensor.statistics.inf_count} Inf of "
        f"{math.prod(tensor.shape)})"
        for tensor in broken[:3]
    )
    more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
    warnings.warn(
        f"THE MODEL DIVERGED: checkpoint {saved.manifest.name} holds NaN or infinite values in "
        f"{len(broken)} tensors: {listed}{more}. Resume from an earlier checkpoint.",
        stacklevel=2,
    )


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
