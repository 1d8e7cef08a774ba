"""Removes checkpoints from a run: the manifest first, so that no reader takes the rest for one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.ranking import best_name
from mlflow_ckpt._tracking import index
from mlflow_ckpt._tracking.prune_plan import PlannedCheckpoint, PrunePlan, is_leftover
from mlflow_ckpt._tracking.store import RunStore, StoredFile
from mlflow_ckpt._tracking.ui import logged_models, pages
from mlflow_ckpt.errors import InvalidArgumentError, TrackingError, TrackingUnavailableError


@dataclass(frozen=True)
class Pruned:
    """What was removed, or would be.

    Attributes:
        plan: What was planned.
        removed: Names of the checkpoints removed, oldest first.
        freed: Their bytes.
        dry_run: Whether nothing was done.
    """

    plan: PrunePlan
    removed: tuple[str, ...]
    freed: int
    dry_run: bool = False


def remove_planned(store: RunStore, plan: PrunePlan) -> Pruned:
    """Remove the checkpoints that a plan says to remove, oldest first.

    Each loses its manifest first, so that no reader takes what is left of it for a checkpoint.
    Another prune may do the same at the same time.

    Raises:
        TrackingError: If the store does not delete. The message tells what was removed before, and
            what is left. Where a manifest cannot be deleted, its checkpoint stays as it is.
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
    """Have MLflow's pages show what there is."""
    logged_models.remove(store, removed)
    left = sorted(index.read(store).values(), key=index.by_training)
    if left:
        pages.refresh(store, left, best_name(left))


def remove(store: RunStore, name: str) -> None:
    """Remove one checkpoint, whatever it is worth: its manifest first.

    Raises:
        TrackingError: If the store does not delete.
    """
    index.discard(store, [name])
    _remove(store, name, [])
    logged_models.remove(store, [name])


def _remove(store: RunStore, name: str, before: list[PlannedCheckpoint]) -> bool:
    """Remove one checkpoint; return False if it was gone already."""
    directory = layout.artifact_path(name)
    manifest = f"{directory}/{layout.MANIFEST}"
    there = _has(store, manifest)
    if there:
        failure = _delete(store, manifest)
        if _has(store, manifest):
            raise TrackingError(
                f"The artifact store does not delete: {manifest} of run {store.run_id} is still "
                f"there{_because(failure)}. The checkpoint {name} is left whole. "
                f"{_so_far(before)} Delete by hand where the artifacts lie."
            ) from failure
    failure = None
    fingerprint = f"{directory}/{layout.FINGERPRINT}"
    # The fingerprint last: by it, another prune knows what is left if this one breaks off.
    for item in sorted(store.walk(directory), key=lambda item: item.path == fingerprint):
        failure = _delete(store, item.path) or failure
    # Where a store has directories. Elsewhere the name is a prefix, and perhaps another's too.
    if _has(store, directory):
        failure = _delete(store, directory) or failure
    if left := list(store.walk(directory)):
        raise TrackingError(_leftovers(store, name, left, failure, before)) from failure
    return there


def _has(store: RunStore, path: str) -> bool:
    return any(item.path == path for item in store.list(path.rpartition("/")[0]))


def _delete(store: RunStore, path: str) -> TrackingError | None:
    """Try to delete, and return why it failed.

    A failure tells little: what another prune deleted a moment ago fails too. The listing tells.
    """
    try:
        store.delete(path)
    except TrackingUnavailableError:
        raise
    except TrackingError as error:
        return error
    return None


def _leftovers(
    store: RunStore,
    name: str,
    left: list[StoredFile],
    failure: TrackingError | None,
    before: list[PlannedCheckpoint],
) -> str:
    count = "1 file" if len(left) == 1 else f"{len(left)} files"
    return (
        f"The artifact store deleted the manifest of {name}, so it is no checkpoint any more, but "
        f"not {count} of it, such as {left[0].path}{_because(failure)}. {_so_far(before)} Delete "
        f"the directory {layout.artifact_path(name)} of run {store.run_id} by hand."
    )


def _because(failure: TrackingError | None) -> str:
    return f" ({failure})" if failure else ""


def _so_far(before: list[PlannedCheckpoint]) -> str:
    names = ", ".join(checkpoint.name for checkpoint in before)
    return f"Removed before it: {names or 'none'}."
