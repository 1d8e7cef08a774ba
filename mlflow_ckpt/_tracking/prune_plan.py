"""Decides which checkpoints of a run to remove, and never those that are needed.

Whatever the policy says, the latest, the best by the recorded monitor, and those that registered
models use stay; so do the tags `mlflow_ckpt.latest` and `mlflow_ckpt.best` stay true.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.ranking import best_name
from mlflow_ckpt._format.retention import RetentionPolicy, check_policy
from mlflow_ckpt._tracking import index
from mlflow_ckpt._tracking.registry import usage
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import ManifestError, TrackingError


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
    best = best_name(found)
    used = _registered(store, [manifest.name for manifest in found])

    def reasons(name: str) -> tuple[str, ...]:
        told = {"policy": name in keep, "latest": name == latest, "best": name == best}
        versions = [f"registered as {version}" for version in used.get(name, ())]
        return (*(reason for reason, holds in told.items() if holds), *versions)

    return PrunePlan(
        store.run_id,
        tuple(PlannedCheckpoint(m.name, m.size, reasons(m.name)) for m in found),
        damaged,
        tuple(name for name in without_manifest if leftovers and is_leftover(store, name)),
    )


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


def is_leftover(store: RunStore, name: str) -> bool:
    """Whether a directory is what a prune that broke off has left of a checkpoint.

    It deletes the fingerprint last; and whoever uploads a checkpoint claims it first.
    """
    listed = {item.path.rpartition("/")[2] for item in store.list(layout.artifact_path(name))}
    if layout.MANIFEST in listed or any(layout.is_claim(each) for each in listed):
        return False
    return layout.FINGERPRINT in listed


def _registered(store: RunStore, names: list[str]) -> dict[str, list[str]]:
    try:
        return usage.registered(store, names) if names else {}
    except TrackingError as error:
        raise type(error)(
            f"Nothing is removed without knowing which checkpoints registered models use. {error}"
        ) from error
