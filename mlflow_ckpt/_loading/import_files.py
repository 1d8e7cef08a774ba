"""Brings files that Keras's own `ModelCheckpoint` saved into a run, as checkpoints of it."""

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
    """What became of one file.

    Attributes:
        file: Its name.
        checkpoint: Name of its checkpoint, such as `epoch_0003`.
        epoch: Number of completed epochs, from the name.
        metrics: Values by name, from the name.
        outcome: `"imported"`, `"already there"`, `"failed"` or `"would be imported"`.
        remark: Why it failed, or what of it is not in the checkpoint; None for nothing.
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
    """Bring a folder of `.keras`, `.h5` and `.weights.h5` files into a run as checkpoints.

    Epoch and metrics come from the files' names. Each file is loaded by Keras and saved anew, with
    manifest and fingerprint. A checkpoint that the run has already is never overwritten, and one
    file that fails does not stop the others.

    Args:
        directory: The folder; what is below it is not looked at.
        run_id: The run.
        pattern: How the names are made, as `ModelCheckpoint` was told, such as
            `"model.{epoch:02d}-{val_loss:.2f}.keras"`; guessed if None.
        architecture: For weights: a `.json`, `.yaml` or `.keras` file with the architecture.
        monitor: The metric that tells which is best; `val_loss` if the names tell it, if None.
        mode: `"min"` or `"max"`; by the metric's name if None.
        dry_run: Load the files and tell what would be done, and save nothing.
        custom_objects: Classes and functions by name.
        tracking_uri: The tracking server; MLflow's current one if None.
        tell: Called with what became of each file.

    Returns:
        What became of each file, by epoch.

    Raises:
        InvalidArgumentError: If the folder holds no such file, or the names do not tell.
        ModelLoadError: If `architecture` is none.
        RunNotFoundError, TrackingError: If there is no such run, or the server fails.
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
    known = {checkpoint.name: checkpoint.manifest for checkpoint in catalog.checkpoints()}
    logged = resumed_runs.logged_steps(store, [])
    done = []
    for name in names:
        checkpoint = str(CheckpointName("epoch", name.epoch))
        planned = ImportedFile(name.name, checkpoint, name.epoch, name.metrics)
        try:
            model, lost = stock_files.load(folder / name.name, custom_objects, blueprint)
            remark = None if lost is None else f"without {lost}"
            if _is_there(store, model, planned, known):
                planned = replace(planned, outcome=SKIPPED)
            elif dry_run:
                planned = replace(planned, remark=remark)
            else:
                new = resumed_runs.unlogged(_loggable(name), name.epoch, logged)
                _save(store, model, planned, _monitor(name, monitor, mode), new)
                planned = replace(planned, outcome=IMPORTED, remark=remark)
        except (MlflowCkptError, OSError) as error:
            planned = replace(planned, outcome=FAILED, remark=str(error))
        tell(planned)
        done.append(planned)
    return done


def _files_in(folder: Path, pattern: str | None) -> list[str]:
    if not folder.is_dir():
        raise InvalidArgumentError(
            f"Expected a folder of files that ModelCheckpoint saved. Received: {folder}"
        )
    found = sorted(item.name for item in folder.iterdir() if item.is_file())
    if pattern is not None:
        return found
    found = [name for name in found if name.endswith(ENDINGS)]
    if not found:
        raise InvalidArgumentError(
            f"The folder {folder} holds no file that ModelCheckpoint saves. "
            f"Expected names that end with {', '.join(ENDINGS)}."
        )
    return found


def _is_there(
    store: RunStore, model: keras.Model, planned: ImportedFile, known: Mapping[str, Manifest]
) -> bool:
    """Whether the run has the checkpoint.

    Raises:
        CheckpointExistsError: If it has another one of that name.
    """
    there = known.get(planned.checkpoint)
    if there is None:
        return False
    if there.weights_digest != fingerprint(model).weights_digest:
        raise CheckpointExistsError(
            f"The run has another checkpoint {planned.checkpoint}, which is never overwritten.",
            run_id=store.run_id,
            name=planned.checkpoint,
        )
    return True


def _save(
    store: RunStore,
    model: keras.Model,
    planned: ImportedFile,
    monitor: Monitor | None,
    new: Mapping[str, float],
) -> None:
    """Save a model as a checkpoint, and what the run does not know of its metrics before it."""
    metadata = {"imported_from": planned.file}
    with CheckpointSaver(store, forms=("full",), metadata=metadata) as saver:
        if new:
            saver.log_metrics(new, planned.epoch)
        saver.save(
            *(model, planned.checkpoint),
            epoch=planned.epoch,
            metrics=planned.metrics,
            monitor=monitor,
        )


def _loggable(name: FileName) -> dict[str, float]:
    names = allowed_names(name.metrics)
    return {names[key]: value for key, value in name.metrics.items()}


def _monitor(name: FileName, monitor: str | None, mode: str | None) -> Monitor | None:
    metric = monitor or "val_loss"
    way = mode or infer_mode(metric)
    return Monitor(metric, way) if metric in name.metrics and way is not None else None
