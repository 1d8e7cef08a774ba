"""Publishes a checkpoint's directory into a run: data, MLmodel, manifest, then tags."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePosixPath

from mlflow_ckpt.errors import CheckpointExistsError, TrackingError
from mlflow_ckpt.format import layout
from mlflow_ckpt.format.manifest import Manifest
from mlflow_ckpt.tracking.store import RunStore

LATEST_TAG = "mlflow_ckpt.latest"
BEST_TAG = "mlflow_ckpt.best"
# What a reader looks for comes last, so that what it finds is whole.
_LAST = (layout.MLMODEL, layout.MANIFEST)


def publish(store: RunStore, directory: Path, manifest: Manifest, *, best: bool) -> None:
    """Upload a checkpoint and move the run's tags to it.

    Args:
        store: The run.
        directory: The checkpoint's files, the manifest among them.
        manifest: The same manifest.
        best: Whether it is the best so far.

    Raises:
        CheckpointExistsError: If the run has a checkpoint of that name; nothing is changed.
        TrackingError: If the server or the store fails. Without its manifest, what was uploaded is
            not a checkpoint.
    """
    target = layout.artifact_path(manifest.name)
    refuse_existing(store, manifest.name)
    _clear_leftovers(store, target, {f"{target}/{entry.path}" for entry in manifest.files})
    for path in upload_order([entry.path for entry in manifest.files]):
        parent = PurePosixPath(target, path).parent
        store.upload(directory / path, str(parent))
    tags = {LATEST_TAG: manifest.name}
    if best:
        tags[BEST_TAG] = manifest.name
    store.set_tags(tags)


def upload_order(paths: list[str]) -> list[str]:
    """Return the files of a checkpoint in the order of their upload, the manifest last."""
    data = sorted(path for path in paths if path not in _LAST)
    return [*data, *(path for path in _LAST if path in paths or path == layout.MANIFEST)]


def _clear_leftovers(store: RunStore, target: str, wanted: Collection[str]) -> None:
    """Delete what an upload that died left behind, which the new manifest does not know.

    Raises:
        TrackingError: If the store does not delete.
    """
    for path in [item.path for item in store.walk(target) if item.path not in wanted]:
        store.delete(path)
    remaining = [item.path for item in store.walk(target) if item.path not in wanted]
    if remaining:
        raise TrackingError(
            f"An earlier upload that died left {remaining[0]} behind, and the artifact store does "
            f"not delete it. Delete the directory {target} of run {store.run_id} by hand."
        )


def refuse_existing(store: RunStore, name: str) -> None:
    """Raise if the run has a complete checkpoint called `name`.

    Raises:
        CheckpointExistsError: Then.
    """
    manifest = f"{layout.artifact_path(name)}/{layout.MANIFEST}"
    if any(item.path == manifest for item in store.list(layout.artifact_path(name))):
        raise CheckpointExistsError(
            f"The run {store.run_id} has a checkpoint {name} already, which is never overwritten. "
            "Train into another run, or go on from the run's last epoch (fit's initial_epoch).",
            run_id=store.run_id,
            name=name,
        )
