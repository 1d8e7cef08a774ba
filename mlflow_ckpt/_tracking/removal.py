"""Removes checkpoints from a run, manifest first, so that readers ignore partial removals."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.ranking import best_name
from mlflow_ckpt._format.text import counted
from mlflow_ckpt._tracking import index
from mlflow_ckpt._tracking.prune_plan import PlannedCheckpoint, PrunePlan, is_leftover
from mlflow_ckpt._tracking.store import RunStore, StoredFile
from mlflow_ckpt._tracking.ui import logged_models, pages
from mlflow_ckpt.errors import InvalidArgumentError, TrackingError, TrackingUnavailableError


@dataclass(frozen=True)
class Pruned:
    """The result of pruning a run.

    Attributes:
        plan: The plan.
        removed: Names of the checkpoints that were, or would be, removed, oldest first.
        freed: Their bytes.
        dry_run: Whether nothing was removed.
    """

    plan: PrunePlan
    removed: tuple[str, ...]
    freed: int
    dry_run: bool = False


def remove_planned(store: RunStore, plan: PrunePlan) -> Pruned:
    """Remove the checkpoints that a plan marks for removal, oldest first.

    The manifest is deleted first, so that readers ignore a partially removed checkpoint. Safe to
    run concurrently with another prune.

    Raises:
        InvalidArgumentError: If the plan is for another run.
        TrackingError: If the store does not delete. The message names the checkpoints removed
            before and the remaining files. If a manifest cannot be deleted, its checkpoint stays.
    """
    if plan.run_id != store.run_id:
        raise InvalidArgumentError(
            f"Expected a plan for the run {store.run_id}. Received one for {plan.run_id}"
        )
    if plan.to_remove:
        index.discard(store, [checkpoint.name for checkpoint in plan.to_remove])
    removed: list[PlannedCheckpoint] = []
    for checkpoint in plan.to_remove:
        if _remove(store, checkpoint.name, removed):
            removed.append(checkpoint)
    for name in plan.leftovers:
        if is_leftover(store, name):
            _remove(store, name, removed)
    names = tuple(checkpoint.name for checkpoint in removed)
    if names:
        _refresh_pages(store, names)
    return Pruned(plan, names, sum(checkpoint.size for checkpoint in removed))


def _refresh_pages(store: RunStore, removed: Collection[str]) -> None:
    """Update MLflow's pages after checkpoints were removed."""
    logged_models.remove(store, removed)
    remaining = sorted(index.read(store).values(), key=index.by_training)
    if remaining:
        pages.refresh(store, remaining, best_name(remaining))


def remove(store: RunStore, name: str) -> None:
    """Remove one checkpoint unconditionally, its manifest first."""
    index.discard(store, [name])
    _remove(store, name, [])
    logged_models.remove(store, [name])


def _remove(store: RunStore, name: str, before: list[PlannedCheckpoint]) -> bool:
    """Remove one checkpoint; return False if it had already been removed.

    What another process uploads to its place meanwhile is left alone.
    """
    directory = layout.artifact_path(name)
    manifest = f"{directory}/{layout.MANIFEST}"
    existed = store.exists(manifest)
    if existed:
        failure = _delete(store, manifest)
        if store.exists(manifest):
            raise TrackingError(
                f"The artifact store does not delete: {manifest} of run {store.run_id} is still "
                f"there{_because(failure)}. The checkpoint {name} is unchanged. "
                f"{_so_far(before)} Delete it manually in the artifact store."
            ) from failure
    elif not is_leftover(store, name):
        return False
    failure = None
    fingerprint = f"{directory}/{layout.FINGERPRINT}"
    # The fingerprint last, because it marks leftovers for another prune if this one is aborted.
    for item in sorted(store.walk(directory), key=lambda item: item.path == fingerprint):
        failure = _delete(store, item.path) or failure
    # Only if the store has directories: otherwise other paths may share this prefix.
    if store.exists(directory):
        failure = _delete(store, directory) or failure
    if remaining := list(store.walk(directory)):
        message = _leftovers_message(store, name, remaining, failure, before)
        raise TrackingError(message) from failure
    return existed


def _delete(store: RunStore, path: str) -> TrackingError | None:
    """Try to delete a file or directory; return the error if that fails.

    List it to see whether it still exists: the error may mean that another prune deleted it.
    """
    try:
        store.delete(path)
    except TrackingUnavailableError:
        raise
    except TrackingError as error:
        return error
    return None


def _leftovers_message(
    store: RunStore,
    name: str,
    files: list[StoredFile],
    failure: TrackingError | None,
    before: list[PlannedCheckpoint],
) -> str:
    return (
        f"The artifact store deleted the manifest of {name}, so it is no longer a checkpoint, but "
        f"not {counted(len(files), 'file')} of it, such as {files[0].path}{_because(failure)}. "
        f"{_so_far(before)} Delete the directory {layout.artifact_path(name)} of run "
        f"{store.run_id} manually."
    )


def _because(failure: TrackingError | None) -> str:
    return f" ({failure})" if failure else ""


def _so_far(before: list[PlannedCheckpoint]) -> str:
    names = ", ".join(checkpoint.name for checkpoint in before)
    return f"Removed before it: {names or 'none'}."
