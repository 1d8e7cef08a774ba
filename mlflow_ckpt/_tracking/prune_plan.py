"""Decides which checkpoints of a run to remove.

Whatever the policy, the latest, the best by the recorded monitor, and those that registered models
use are kept, so that the tags `mlflow_ckpt.latest` and `mlflow_ckpt.best` stay valid.
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
    """The decision on one checkpoint.

    Attributes:
        name: The checkpoint's name.
        size: Bytes of its files without the manifest, as `list` shows them.
        reasons: Why it is kept: `"policy"`, `"latest"`, `"best"`, `"registered as NAME version 3"`;
            empty if it is removed.
    """

    name: str
    size: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class PrunePlan:
    """The checkpoints of a run to keep, with reasons, and to remove.

    Attributes:
        run_id: The run.
        checkpoints: Every complete checkpoint, oldest first.
        damaged: Names of checkpoints whose manifest cannot be read. They are not removed.
        leftovers: Names of directories without a manifest that an aborted prune left behind.
    """

    run_id: str
    checkpoints: tuple[PlannedCheckpoint, ...]
    damaged: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[PlannedCheckpoint, ...]:
        """The checkpoints to keep, oldest first."""
        return tuple(checkpoint for checkpoint in self.checkpoints if checkpoint.reasons)

    @property
    def to_remove(self) -> tuple[PlannedCheckpoint, ...]:
        """The checkpoints to remove, oldest first."""
        return tuple(checkpoint for checkpoint in self.checkpoints if not checkpoint.reasons)


def plan(store: RunStore, policy: RetentionPolicy, *, leftovers: bool = False) -> PrunePlan:
    """Decide which checkpoints of a run to keep, without removing anything.

    Raises:
        MetricNotFoundError: If no checkpoint has a value of the policy's metric.
        TrackingError: If the server fails, or the model registry cannot be queried.
    """
    check_policy(policy)
    manifests, damaged, without_manifest = _read(store)
    keep = policy.keep(manifests)
    latest = manifests[-1].name if manifests else None
    best = best_name(manifests)
    used = _registered(store, [manifest.name for manifest in manifests])

    def reasons(name: str) -> tuple[str, ...]:
        rules = {"policy": name in keep, "latest": name == latest, "best": name == best}
        versions = [f"registered as {version}" for version in used.get(name, ())]
        return (*(rule for rule, applies in rules.items() if applies), *versions)

    return PrunePlan(
        store.run_id,
        tuple(PlannedCheckpoint(m.name, m.size, reasons(m.name)) for m in manifests),
        damaged,
        tuple(name for name in without_manifest if leftovers and is_leftover(store, name)),
    )


def _read(store: RunStore) -> tuple[list[Manifest], tuple[str, ...], list[str]]:
    """Read all manifests of a run.

    Not from the index, which may list a best checkpoint that no longer exists, so that the actual
    best one would be removed.

    Returns:
        The manifests of complete checkpoints, oldest first; the names of damaged checkpoints; and
        the names of directories without a manifest.
    """
    names = index.checkpoint_names(store.list(layout.CHECKPOINTS_DIR))
    results = index.read_manifests(store, names)
    manifests = [result for result in results.values() if isinstance(result, Manifest)]
    damaged = [name for name, result in results.items() if isinstance(result, ManifestError)]
    without_manifest = [name for name, result in results.items() if result is None]
    return sorted(manifests, key=index.by_training), tuple(damaged), without_manifest


def is_leftover(store: RunStore, name: str) -> bool:
    """Whether a directory is the leftover of an aborted prune.

    A prune deletes the fingerprint last, and an upload starts with a claim.
    """
    files = {item.name for item in store.list(layout.artifact_path(name))}
    if layout.MANIFEST in files or any(layout.is_claim(file) for file in files):
        return False
    return layout.FINGERPRINT in files


def _registered(store: RunStore, names: list[str]) -> dict[str, list[str]]:
    try:
        return usage.registered(store, names) if names else {}
    except TrackingError as error:
        raise type(error)(
            f"Nothing was removed: it is unknown which checkpoints registered models use. {error}"
        ) from error
