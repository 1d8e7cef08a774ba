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
        remark: Why it failed, or what the checkpoint lacks; None without either.
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
        architecture: For weights files: a `.json`, `.yaml` or `.keras` file with the architecture.
        monitor: The metric that decides which is best; `val_loss`, if the names have it, if None.
        mode: `"min"` or `"max"`; inferred from the metric's name if None.
        dry_run: Load the files and report what would be imported without saving anything.
        custom_objects: Custom classes and functions by name.
        tracking_uri: The tracking server; MLflow's current one if None.
        tell: Called with the outcome of a file.

    Returns:
        The outcomes of the files, by epoch.

    Raises:
        InvalidArgumentError: If the folder has no such file, or the names cannot be parsed.
        ModelLoadError: If `architecture` is not an architecture.
        RunNotFoundError, TrackingError: If the run does not exist, or the server fails.
    """
    folder = Path(directory)
    names = read_names(_files_in(folder, pattern), pattern)
    if not names:
        raise InvalidArgumentError(
            f"No file in {folder} has a name like {pattern!r}. "
            f"It holds: {', '.join(_files_in(folder, None)[:3])}"
        )
    blueprint = None if architecture is None else stock_files.read_blueprint(Path(architecture))
    catalog = Catalog.of(run_id, tracking_uri)
    store = catalog.store
    existing = {checkpoint.name: checkpoint.manifest for checkpoint in catalog.checkpoints()}
    logged = resumed_runs.logged_steps(store, [])
    outcomes = []
    for name in names:
        checkpoint = str(CheckpointName("epoch", name.epoch))
        outcome = ImportedFile(name.name, checkpoint, name.epoch, name.metrics)
        try:
            model, lost = stock_files.load(folder / name.name, custom_objects, blueprint)
            remark = None if lost is None else f"without {lost}"
            if _exists(store, model, outcome, existing):
                outcome = replace(outcome, outcome=SKIPPED)
            elif dry_run:
                outcome = replace(outcome, remark=remark)
            else:
                unlogged = resumed_runs.unlogged(_loggable(name), name.epoch, logged)
                _save(store, model, outcome, _monitor(name, monitor, mode), unlogged)
                outcome = replace(outcome, outcome=IMPORTED, remark=remark)
        except (MlflowCkptError, OSError) as error:
            outcome = replace(outcome, outcome=FAILED, remark=str(error))
        tell(outcome)
        outcomes.append(outcome)
    return outcomes


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


def _exists(
    store: RunStore, model: keras.Model, file: ImportedFile, existing: Mapping[str, Manifest]
) -> bool:
    """Whether the run already has the checkpoint.

    Raises:
        CheckpointExistsError: If it has another checkpoint of that name.
    """
    manifest = existing.get(file.checkpoint)
    if manifest is None:
        return False
    if manifest.weights_digest != fingerprint(model).weights_digest:
        raise CheckpointExistsError(
            f"The run has another checkpoint {file.checkpoint}, which is never overwritten.",
            run_id=store.run_id,
            name=file.checkpoint,
        )
    return True


def _save(
    store: RunStore,
    model: keras.Model,
    file: ImportedFile,
    monitor: Monitor | None,
    unlogged: Mapping[str, float],
) -> None:
    """Save a model as a checkpoint, after logging the metrics that the run lacks."""
    metadata = {"imported_from": file.file}
    with CheckpointSaver(store, forms=("full",), metadata=metadata) as saver:
        if unlogged:
            saver.log_metrics(unlogged, file.epoch)
        saver.save(
            *(model, file.checkpoint),
            epoch=file.epoch,
            metrics=file.metrics,
            monitor=monitor,
        )


def _loggable(name: FileName) -> dict[str, float]:
    names = allowed_names(name.metrics)
    return {names[key]: value for key, value in name.metrics.items()}


def _monitor(name: FileName, monitor: str | None, mode: str | None) -> Monitor | None:
    metric = monitor or "val_loss"
    mode = mode or infer_mode(metric)
    return Monitor(metric, mode) if metric in name.metrics and mode is not None else None
