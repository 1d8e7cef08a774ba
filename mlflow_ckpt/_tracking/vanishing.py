"""Checkpoints that another process removes while they are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow_ckpt._format import layout
from mlflow_ckpt._tracking import index
from mlflow_ckpt._tracking.removed import CheckpointRemovedError
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import TrackingError, TrackingUnavailableError


@contextmanager
def noticed(store: RunStore, name: str) -> Iterator[None]:
    """Raise CheckpointRemovedError instead of what fails because a checkpoint was removed."""
    try:
        yield
    except (CheckpointRemovedError, TrackingUnavailableError):
        raise
    except Exception as error:
        # Of reading, downloading or rebuilding it: anything may be raised.
        if is_removed(store, name):
            raise removed_error(store.run_id, name) from error
        raise


def is_removed(store: RunStore, name: str) -> bool:
    """Whether a checkpoint was removed; False if that is unknown.

    Whoever removes one takes it out of the index first. One that is still there, and has lost its
    manifest, is damaged.
    """
    try:
        manifest = store.read(f"{layout.artifact_path(name)}/{layout.MANIFEST}")
        return manifest is None and name not in index.read(store)
    except TrackingError:
        return False


def removed_error(run_id: str, name: str) -> CheckpointRemovedError:
    """Return the error for a checkpoint that was removed while it was read."""
    return CheckpointRemovedError(
        f"The checkpoint {name} of run {run_id} was removed while it was being read. "
        f"See what the run has: mlflow-ckpt list {run_id}",
        run_id=run_id,
    )
