"""Removes checkpoints that a retention policy does not keep, and never those that are needed.

Whatever the policy says, the latest, the best by the recorded monitor, and those that registered
models use stay; so do the tags `mlflow_ckpt.latest` and `mlflow_ckpt.best` stay true.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mlflow_ckpt.errors import (
    InvalidArgumentError,
    ManifestError,
    MetricNotFoundError,
    TrackingError,
    TrackingUnavailableError,
)
from mlflow_ckpt.format import layout
from mlflow_ckpt.format.manifest import Manifest
from mlflow_ckpt.format.retention import RetentionPolicy, check_policy
from mlflow_ckpt.tracking import index, logged_models, pages, registry
from mlflow_ckpt.tracking.selecting import Checkpoint, best_of
from mlflow_ckpt.tracking.store import RunStore, StoredFile


@dataclass(frozen=True)
class PlannedCheckpoint:
    """What a plan does with one checkpoint.

    Attributes:
        name: The checkpoint's name.
        size: Bytes of its files, as `list` shows them: without the manifest.
        reasons: Why it is kept: `"policy"`, `"latest"`, `"best"`, `"registered as NAME version 3"`;
            empty if it is to be removed.
    """

    name: str
    size: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class PrunePlan:
    """Which checkpoints of a run to keep, why, and which to remove.

    Attributes:
        run_id: The run.
        checkpoints: Every complete checkpoint, oldest first.
        damaged: Names of those with a manifest that cannot be read. They are left alone.
        leftovers: Names of those that a prune which broke off has left without a manifest.
    """

    run_id: str
    checkpoints: tuple[PlannedCheckpoint, ...]
    damaged: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[PlannedCheckpoint, ...]:
        """Those to keep, oldest first."""
        return tuple(checkpoint for checkpoint in self.checkpoints if checkpoint.reasons)

    @property
    def to_remove(self) -> tuple[PlannedCheckpoint, ...]:
        """Those to remove, oldest first."""
        return tuple(checkpoint for checkpoint in self.checkpoints if not checkpoint.reasons)


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


def plan(store: RunStore, policy: RetentionPolicy, *, leftovers: bool = False) -> PrunePlan:
    """Decide which checkpoints of a run to keep. Changes nothing.

    Args:
        store: The run.
        policy: What to keep beside the protected ones.
        leftovers: Whether to look for what a prune that broke off has left.

    Raises:
        MetricNotFoundError: If the policy judges by a metric that no checkpoint has a value of.
        TrackingError: If the server fails, or the model registry cannot be asked.
    """
    check_policy(policy)
    found, damaged, without_manifest = _read(store)
    keep = policy.keep(found)
    latest = found[-1].name if found else None
    best = _best(store.run_id, found)
    used = _registered(store, [manifest.name for manifest in found])

    def reasons(name: str) -> tuple[str, ...]:
        told = {"policy": name in keep, "latest": name == latest, "best": name == best}
        versions = [f"registered as {version}" for version in used.get(name, ())]
        return (*(reason for reason, holds in told.items() if holds), *versions)

    return PrunePlan(
        store.run_id,
        tuple(PlannedCheckpoint(m.name, m.size, reasons(m.name)) for m in found),
        damaged,
        tuple(name for name in without_manifest if leftovers and _is_leftover(store, name)),
    )


def prune(store: RunStore, plan: PrunePlan) -> Pruned:
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
        if _is_leftover(store, name):
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
        pages.refresh(store, left, _best(store.run_id, left))


def remove(store: RunStore, name: str) -> None:
    """Remove one checkpoint, whatever it is worth: its manifest first.

    Raises:
        TrackingError: If the store does not delete.
    """
    index.discard(store, [name])
    _remove(store, name, [])
    logged_models.remove(store, [name])


def preview(plan: PrunePlan) -> Pruned:
    """Return what `prune` would, and do nothing."""
    names = tuple(checkpoint.name for checkpoint in plan.to_remove)
    freed = sum(checkpoint.size for checkpoint in plan.to_remove)
    return Pruned(plan, names, freed, dry_run=True)


def _read(store: RunStore) -> tuple[list[Manifest], tuple[str, ...], list[str]]:
    """Return the manifests of all complete checkpoints, oldest first, and the others' names.

    The names of the damaged ones come first, then of those without a manifest.

    From the manifests themselves: the index may tell of a best one that is no more, and the best
    that there is would go.
    """
    names = index.checkpoint_names(store.list(layout.CHECKPOINTS_DIR))
    read = index.read_manifests(store, names)
    found = [manifest for manifest in read.values() if isinstance(manifest, Manifest)]
    damaged = [name for name, result in read.items() if isinstance(result, ManifestError)]
    without_manifest = [name for name, result in read.items() if result is None]
    return sorted(found, key=index.by_training), tuple(damaged), without_manifest


def _is_leftover(store: RunStore, name: str) -> bool:
    """Whether a directory is what a prune that broke off has left of a checkpoint.

    It deletes the fingerprint last; and whoever uploads a checkpoint claims it first.
    """
    listed = {item.path.rpartition("/")[2] for item in store.list(layout.artifact_path(name))}
    if layout.MANIFEST in listed or any(layout.is_claim(each) for each in listed):
        return False
    return layout.FINGERPRINT in listed


def _best(run_id: str, found: list[Manifest]) -> str | None:
    try:
        return best_of([Checkpoint(run_id, manifest) for manifest in found], None, None).name
    except MetricNotFoundError:
        # No metric tells.
        return None


def _registered(store: RunStore, names: list[str]) -> dict[str, list[str]]:
    try:
        return registry.registered(store, names) if names else {}
    except TrackingError as error:
        raise type(error)(
            f"Nothing is removed without knowing which checkpoints registered models use. {error}"
        ) from error


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
