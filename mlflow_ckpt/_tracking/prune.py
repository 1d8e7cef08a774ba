"""Prune a run: remove the checkpoints that a retention policy does not keep."""

from __future__ import annotations

from mlflow_ckpt._format.reference import Selector
from mlflow_ckpt._format.retention import RetentionPolicy, check_policy
from mlflow_ckpt._tracking import prune_plan
from mlflow_ckpt._tracking.checkpoint import no_checkpoints
from mlflow_ckpt._tracking.prune_plan import PrunePlan
from mlflow_ckpt._tracking.references import resolve
from mlflow_ckpt._tracking.removal import Pruned, remove_planned
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import SelectorError


def prune(
    run_id: str, policy: RetentionPolicy, *, dry_run: bool = False, tracking_uri: str | None = None
) -> Pruned:
    """Remove the checkpoints of a run that a policy does not keep.

    Never removes the latest, the best by the recorded metric, one that a registered model version
    uses, or a damaged one. Also removes the leftovers of an aborted prune.

        mlflow_ckpt.prune(run_id, LatestN(3) | BestN(1), dry_run=True)

    Args:
        run_id: A run id.
        policy: What to keep besides the protected ones: `LatestN`, `BestN`, `EveryN`, `AnyOf`, or
            your own `RetentionPolicy`.
        dry_run: Report what would be removed without removing anything.
        tracking_uri: The tracking server; MLflow's current one if None.

    Returns:
        The names removed, the bytes freed, and why the others are kept.

    Raises:
        InvalidArgumentError: If `policy` is not a policy, or it is unclear which way its metric
            improves.
        SelectorError: If `run_id` cannot be parsed, or names one checkpoint.
        RunNotFoundError, CheckpointNotFoundError: If the run does not exist, or has no checkpoints.
        MetricNotFoundError: If no checkpoint has a value of the policy's metric.
        TrackingError: If the server fails, the model registry cannot be queried (nothing is
            removed), or the artifact store does not delete.
    """
    check_policy(policy)
    reference = resolve(run_id, tracking_uri=tracking_uri)
    if reference.selector != Selector("latest"):
        raise SelectorError(
            "Expected a run, because pruning considers all its checkpoints. "
            f"Received one checkpoint: {run_id!r}. Pass only the run id: {reference.run_id}",
            received=run_id,
        )
    store = RunStore(reference.run_id, tracking_uri)
    plan = prune_plan.plan(store, policy, leftovers=True)
    if not plan.checkpoints and not plan.damaged and not plan.leftovers:
        raise no_checkpoints(reference.run_id)
    return _preview(plan) if dry_run else remove_planned(store, plan)


def _preview(plan: PrunePlan) -> Pruned:
    """Return the result of `remove_planned` without removing anything."""
    names = tuple(checkpoint.name for checkpoint in plan.to_remove)
    freed = sum(checkpoint.size for checkpoint in plan.to_remove)
    return Pruned(plan, names, freed, dry_run=True)
