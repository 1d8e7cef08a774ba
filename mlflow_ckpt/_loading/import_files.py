"""Imports files that Keras's `ModelCheckpoint` saved as checkpoints of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras

from mlflow_ckpt._format.file_names import ENDINGS, FileName, read_names
from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.monitor import Monitor, infer_mode
from mlflow_ckpt._format.signing.trust import Trust
from mlflow_ckpt._loading.load import fingerprint
from mlflow_ckpt._model.rebuild import stock_files
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking import resumed_runs
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.metric_names import allowed_names
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import CheckpointExistsError, InvalidArgumentError, MlflowCkptError

IMPORTED, SKIPPED, FAILED, PLANNED = "imported", "already there", "failed", "would be imported"


@dataclass(frozen=True)
class ImportedFile:
    """The outcome of importing one file.

    Attributes:
        file: The file's name.
        checkpoint: Name of its checkpoint, such as `epoch_0003`.
        epoch: Number of completed epochs, from the file's name.
        metrics: Metrics by name, from the file's name.
        outcome: `"imported"`, `"already there"`, `"failed"` or `"would be imported"`.
        remark: Why it failed, or what is missing; None if there is nothing to say.
    """

    file: str
    checkpoint: str
    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    outcome: str = PLANNED
    remark: str | None = None


def import_checkpoints(
    directory: Path | str,
    *,
    run_id: str,
    pattern: str | None = None,
    architecture: Path | str | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    dry_run: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
    tracking_uri: str | None = None,
    tell: Callable[[ImportedFile], None] = lambda _: None,
) -> list[ImportedFile]:
    """Import a folder of `.keras`, `.h5` and `.weights.h5` files into a run as checkpoints.

    Epoch and metrics are parsed from the file names. Keras loads every file, which is saved again
    with manifest and fingerprint. Existing checkpoints of the run are never overwritten. A file
    that fails does not stop the import.

    Args:
        directory: The folder; subfolders are ignored.
        run_id: The run.
        pattern: Pattern of the file names, as passed to `ModelCheckpoint`, such as
            `"model.{epoch:02d}-{val_loss:.2f}.keras"`; inferred if None.
        architecture: For weights files: a `.json`, `.yaml` or `.keras` file with their model.
        monitor: The metric that decides which is best; if None, `val_loss` if the names have it.
        mode: `"min"` or `"max"`; inferred from the metric's name if None.
        dry_run: Load the files and report what would be imported without saving anything.
        custom_objects: Custom classes and functions by name.
        tracking_uri: The tracking server; MLflow's current one if None.
        tell: Called with the outcome of each file.

    Returns:
        The outcomes of the files, by epoch.

    Raises:
        InvalidArgumentError: If the folder has no such file, or the names cannot be parsed.
        ModelLoadError: If `architecture` is not an architecture.
        SignatureError: If what is opened on this machine must be signed.
        RunNotFoundError, TrackingError: If the run does not exist, or the server fails.
    """
    folder = Path(directory)
    names = read_names(_files_in(folder, pattern), pattern)
    if not names:
        raise InvalidArgumentError(
            f"No file in {folder} matches the pattern {pattern!r}. "
            f"It holds: {', '.join(_files_in(folder, None)[:3])}"
        )
    if (trust := Trust.of()).is_required:
        raise trust.refusal(f"What is in {folder} is not signed")
    blueprint = None if architecture is None else stock_files.read_blueprint(Path(architecture))
    catalog = Catalog.of(run_id, tracking_uri)
    present = {checkpoint.name: checkpoint.manifest for checkpoint in catalog.checkpoints()}
    logged = resumed_runs.logged_steps(catalog.store, [])
    target = _Target(catalog.store, present, logged, monitor, mode)
    files = []
    for name in names:
        files.append(_import(folder, name, target, custom_objects, blueprint, dry_run=dry_run))
        tell(files[-1])
    return files


def _import(
    folder: Path,
    name: FileName,
    target: _Target,
    custom_objects: Mapping[str, Any] | None,
    blueprint: Mapping[str, Any] | None,
    *,
    dry_run: bool,
) -> ImportedFile:
    """Import one file and return its outcome, including failures."""
    checkpoint = str(CheckpointName("epoch", name.epoch))
    file = ImportedFile(name.name, checkpoint, name.epoch, name.metrics)
    try:
        _require_inside(folder, name.name)
        model, lost = stock_files.load(folder / name.name, custom_objects, blueprint)
        remark = None if lost is None else f"without {lost}"
        return target.add(model, replace(file, remark=remark), name, dry_run=dry_run)
    except (MlflowCkptError, OSError) as error:
        return replace(file, outcome=FAILED, remark=str(error))


def _require_inside(folder: Path, name: str) -> None:
    """Raise InvalidArgumentError if a file is a link that leads out of its folder."""
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise InvalidArgumentError(
            f"It is a link to {target}, outside of the folder. To import that file, copy it."
        )


def _files_in(folder: Path, pattern: str | None) -> list[str]:
    if not folder.is_dir():
        raise InvalidArgumentError(
            f"Expected a folder of files that ModelCheckpoint saved. Received: {folder}"
        )
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if pattern is not None:
        return names
    names = [name for name in names if name.endswith(ENDINGS)]
    if not names:
        raise InvalidArgumentError(
            f"The folder {folder} holds no file that ModelCheckpoint saves. "
            f"Expected names that end with {', '.join(ENDINGS)}."
        )
    return names


@dataclass(frozen=True)
class _Target:
    """The run that models are imported into.

    Attributes:
        store: The run.
        present: Manifests of its checkpoints by name.
        logged: Steps of its metrics by name.
        monitor: The metric that decides which is best; `val_loss` if None.
        mode: `"min"` or `"max"`; inferred from the metric's name if None.
    """

    store: RunStore
    present: Mapping[str, Manifest]
    logged: Mapping[str, set[int]]
    monitor: str | None
    mode: str | None

    def add(
        self, model: keras.Model, file: ImportedFile, name: FileName, *, dry_run: bool
    ) -> ImportedFile:
        """Save a model as a checkpoint unless it exists, and return the outcome.

        Raises:
            CheckpointExistsError: If the run has another checkpoint of that name.
        """
        if self._has(model, file.checkpoint):
            return replace(file, outcome=SKIPPED, remark=None)
        if dry_run:
            return file
        metadata = {"imported_from": file.file}
        with CheckpointSaver(self.store, forms=("full",), metadata=metadata) as saver:
            unlogged = resumed_runs.unlogged(_loggable(name), name.epoch, self.logged)
            if unlogged:
                saver.log_metrics(unlogged, file.epoch)
            saver.save(
                *(model, file.checkpoint),
                epoch=file.epoch,
                metrics=file.metrics,
                monitor=self._monitor(name),
            )
        return replace(file, outcome=IMPORTED)

    def _has(self, model: keras.Model, checkpoint: str) -> bool:
        manifest = self.present.get(checkpoint)
        if manifest is None:
            return False
        if manifest.weights_digest != fingerprint(model).weights_digest:
            raise CheckpointExistsError(
                f"The run has another checkpoint {checkpoint}, which is never overwritten.",
                run_id=self.store.run_id,
                name=checkpoint,
            )
        return True

    def _monitor(self, name: FileName) -> Monitor | None:
        metric = self.monitor or "val_loss"
        mode = self.mode or infer_mode(metric)
        return Monitor(metric, mode) if metric in name.metrics and mode is not None else None


def _loggable(name: FileName) -> dict[str, float]:
    names = allowed_names(name.metrics)
    return {names[key]: value for key, value in name.metrics.items()}
