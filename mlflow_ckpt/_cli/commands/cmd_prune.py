"""`mlflow-ckpt prune`. Never loads Keras or its backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mlflow_ckpt._cli import humanize, options, tables
from mlflow_ckpt._format.text import counted

if TYPE_CHECKING:
    from mlflow_ckpt._format.retention import RetentionPolicy
    from mlflow_ckpt._tracking.removal import Pruned


@dataclass(frozen=True)
class _Keep:
    """The options that specify what to keep."""

    keep_last: int | None
    keep_best: int | None
    keep_every: int | None
    monitor: str | None
    mode: str | None

    def policy(self) -> RetentionPolicy:
        """Return the policy of all options together.

        Raises:
            UsageError: If none is given, or one lacks --keep-best.
        """
        if (self.monitor or self.mode) and self.keep_best is None:
            raise click.UsageError("--monitor and --mode require --keep-best N.")
        from mlflow_ckpt._format.retention import AnyOf, BestN, EveryN, LatestN

        policies: list[RetentionPolicy] = []
        if self.keep_last is not None:
            policies.append(LatestN(self.keep_last))
        if self.keep_best is not None:
            policies.append(BestN(self.keep_best, self.monitor, self.mode))
        if self.keep_every is not None:
            policies.append(EveryN(self.keep_every))
        if not policies:
            raise click.UsageError(
                "Specify what to keep: --keep-last N, --keep-best N, --keep-every N."
            )
        return AnyOf(*policies)


@click.command("prune", short_help="Remove checkpoints of RUN by a retention policy.")
@click.argument("run")
@click.option("--keep-last", type=click.IntRange(min=1), metavar="N", help="Keep the newest N.")
@click.option("--keep-best", type=click.IntRange(min=1), metavar="N", help="Keep the best N.")
@click.option(
    "--keep-every",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep those saved at the end of every N-th epoch.",
)
@click.option("--monitor", metavar="METRIC", help="For --keep-best: the metric to rank by.")
@click.option("--mode", type=click.Choice(["min", "max"]), help="For --keep-best: lower or higher.")
@options.packed("keep", _Keep)
@click.option("--dry-run", is_flag=True, help="Print what would be removed, and remove nothing.")
@options.tracking_uri
@options.show
def command(
    run: str, keep: _Keep, dry_run: bool, tracking_uri: str | None, show: options.Show
) -> None:
    """Remove the checkpoints of RUN that no --keep option keeps.

    The latest, the best, and those used by registered models are always kept.
    """
    policy = keep.policy()
    from mlflow_ckpt._tracking.prune import prune

    show(_Printed(prune(run, policy, dry_run=dry_run, tracking_uri=tracking_uri)))


@dataclass(frozen=True)
class _Printed:
    pruned: Pruned

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON that is printed."""
        pruned, plan = self.pruned, self.pruned.plan
        return {
            "run_id": plan.run_id,
            "dry_run": pruned.dry_run,
            "removed": list(pruned.removed),
            "freed": pruned.freed,
            "checkpoints": [
                {"name": c.name, "size": c.size, "kept_because": list(c.reasons)}
                for c in plan.checkpoints
            ],
            "damaged": list(plan.damaged),
            "leftovers": list(plan.leftovers),
        }

    def to_lines(self) -> Iterator[str]:
        """Yield a table of all checkpoints, and a summary."""
        plan = self.pruned.plan
        rows = []
        for checkpoint in plan.checkpoints:
            reasons = ", ".join(checkpoint.reasons)
            decision = f"keep: {reasons}" if reasons else "remove"
            rows.append((checkpoint.name, humanize.size(checkpoint.size), decision))
        if rows:
            yield from [*tables.to_lines(("checkpoint", "size", "decision"), rows), ""]
        yield from (f"{name}: damaged, and left alone." for name in plan.damaged)
        yield from (f"{name}: remove, left by an interrupted prune." for name in plan.leftovers)
        yield self._summary()

    def _summary(self) -> str:
        pruned, size = self.pruned, humanize.size(self.pruned.freed)
        what = f"{counted(len(pruned.removed), 'checkpoint')} of run {pruned.plan.run_id}"
        if pruned.dry_run:
            return f"Would remove {what} and free {size}."
        return f"Removed {what}, freed {size}."
