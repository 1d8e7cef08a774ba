"""Prevents a training from overwriting checkpoints of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.spool import entries
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import CheckpointExistsError, ManifestError, OutputError


def check_no_overwrite(
    store: RunStore, waiting: Sequence[Entry], epoch: int, step: int | None
) -> list[Mapping[str, float]]:
    """Check that a training overwrites no checkpoint; return the metrics of the existing ones.

    Args:
        store: The run.
        waiting: The run's entries in the spool.
        epoch: Number of completed epochs when training begins.
        step: The optimizer's step if checkpoints are named by it, else None.

    Raises:
        CheckpointExistsError: If the training starts before the newest checkpoint of the run.
        TrackingError: If the server fails.
    """
    # The spool first: what another process sends meanwhile is on the server then.
    unsent, unreadable = _read(waiting)
    existing, damaged = Catalog(store).scan()
    manifests = [checkpoint.manifest for checkpoint in existing] + unsent
    # Damaged checkpoints must not be overwritten either.
    known = [*(manifest.name for manifest in manifests), *damaged, *unreadable]
    names = [CheckpointName.parse(name) for name in known]
    epochs = [manifest.epoch for manifest in manifests]
    epochs += [name.number for name in names if name and name.unit == "epoch"]
    newest = max(epochs, default=0)
    if epoch < newest:
        raise CheckpointExistsError(
            f"The run {store.run_id} has checkpoints up to epoch {newest}, but this training "
            f"starts at epoch {epoch}: it would overwrite some of them. Pass "
            f"initial_epoch={newest} to fit to continue, or train in another run.",
            run_id=store.run_id,
            name=str(CheckpointName("epoch", newest)),
        )
    steps = [name.number for name in names if name and name.unit == "step"]
    if step is not None and step < max(steps, default=0):
        raise CheckpointExistsError(
            f"The run {store.run_id} has checkpoints up to step {max(steps)}, but this "
            f"training starts at step {step}: it would overwrite some of them. Resume "
            "from the newest, or train in another run.",
            run_id=store.run_id,
            name=str(CheckpointName("step", max(steps))),
        )
    return [manifest.metrics for manifest in manifests]


def _read(waiting: Sequence[Entry]) -> tuple[list[Manifest], list[str]]:
    """Return the manifests of the checkpoints in the spool, and the names of unreadable ones.

    Those are reported when they are to be sent.
    """
    manifests, unreadable = [], []
    for entry in waiting:
        if entry.kind == entries.CHECKPOINT:
            try:
                manifest = entry.manifest()
            except (ManifestError, OutputError):
                unreadable.append(entry.name)
            else:
                manifests += [] if manifest is None else [manifest]
    return manifests, unreadable
