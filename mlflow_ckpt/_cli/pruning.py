"""What `prune` is asked for and what it prints. Never loads Keras or its backend."""

from __future__ import annotations

from typing import Any

from rich.filesize import decimal

from mlflow_ckpt._cli import tables
from mlflow_ckpt._format.retention import AnyOf, BestN, EveryN, LatestN, RetentionPolicy
from mlflow_ckpt._tracking.prune_plan import PlannedCheckpoint
from mlflow_ckpt._tracking.removal import Pruned


def policy(
    keep_last: int | None,
    keep_best: int | None,
    keep_every: int | None,
    monitor: str | None,
    mode: str | None,
) -> RetentionPolicy:
    """Return the policy that the --keep options mean together; at least one is given."""
    policies: list[RetentionPolicy] = []
    if keep_last is not None:
        policies.append(LatestN(keep_last))
    if keep_best is not None:
        policies.append(BestN(keep_best, monitor, mode))
    if keep_every is not None:
        policies.append(EveryN(keep_every))
    return AnyOf(*policies)


def to_dict(pruned: Pruned) -> dict[str, Any]:
    """Return what was pruned as plain values."""
    return {
        "run_id": pruned.plan.run_id,
        "dry_run": pruned.dry_run,
        "removed": list(pruned.removed),
        "freed": pruned.freed,
        "checkpoints": [
            {
                "name": checkpoint.name,
                "size": checkpoint.size,
                "kept_because": list(checkpoint.reasons),
            }
            for checkpoint in pruned.plan.checkpoints
        ],
        "damaged": list(pruned.plan.damaged),
        "leftovers": list(pruned.plan.leftovers),
    }


def to_text(pruned: Pruned) -> str:
    """Return what was pruned as a table and a sentence."""
    plan = pruned.plan
    rows = [(each.name, decimal(each.size), _decision(each)) for each in plan.checkpoints]
    lines = [f"{tables.to_text(('checkpoint', 'size', 'decision'), rows)}\n"] if rows else []
    lines += [f"{name}: damaged, and left alone.\n" for name in plan.damaged]
    lines += [
        f"{name}: what a prune that broke off has left of it goes too.\n" for name in plan.leftovers
    ]
    return "".join([*lines, f"{_summary(pruned)}\n"])


def _decision(checkpoint: PlannedCheckpoint) -> str:
    return f"keep: {', '.join(checkpoint.reasons)}" if checkpoint.reasons else "remove"


def _summary(pruned: Pruned) -> str:
    count = "1 checkpoint" if len(pruned.removed) == 1 else f"{len(pruned.removed)} checkpoints"
    what, size = f"{count} of run {pruned.plan.run_id}", decimal(pruned.freed)
    if pruned.dry_run:
        return f"Would remove {what} and free {size}."
    return f"Removed {what}, freed {size}."
