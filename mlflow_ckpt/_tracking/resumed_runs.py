"""Lineage of resumed runs: the tags that link a run to the run it continues."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from mlflow.exceptions import MlflowException

from mlflow_ckpt._format.lineage import Origin
from mlflow_ckpt._tracking import tags
from mlflow_ckpt._tracking.spool import entries
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.store import RunStore, paged

# Number of 32-character ids that fit into a tag, which MLflow limits to 8,000 characters.
_MOST_CHILDREN = 200


def lineage_tags(origin: Origin, store: RunStore) -> dict[str, str]:
    """Return the lineage tags of a run that continues another run's checkpoint."""
    if origin.run_id == store.run_id:
        return {}
    values = {tags.RESUMED_FROM: str(origin)}
    if origin.tracking_uri == store.tracking_uri:
        values[tags.PARENT_RUN] = origin.run_id
    return values


def tag_parent(store: RunStore, origin: Origin) -> None:
    """Add a run to the tag of its parent that lists its children.

    Not atomic: of two simultaneous children one may be lost. The child's own tag is authoritative.
    """
    if origin.tracking_uri != store.tracking_uri:
        return
    parent = RunStore(origin.run_id, store.tracking_uri)
    children = parent.run.data.tags.get(tags.RESUMED_BY, "").split()
    if store.run_id not in children:
        children = [*children, store.run_id][-_MOST_CHILDREN:]
        parent.set_tags({tags.RESUMED_BY: " ".join(children)})


def children_of(store: RunStore) -> dict[str, str]:
    """Return the runs that continue a run: checkpoint names by run id."""
    experiments = [store.run.info.experiment_id]
    condition = f"tags.`{tags.RESUMED_FROM}` LIKE '{store.run_id}/%'"
    order = ["attributes.start_time ASC"]
    with store.client_to("find the runs that continue this one") as client:
        runs = list(
            paged(
                lambda t: client.search_runs(experiments, condition, order_by=order, page_token=t)
            )
        )
    return {
        run.info.run_id: run.data.tags[tags.RESUMED_FROM].rpartition("/")[2]
        for run in runs
        if run.info.run_id != store.run_id
    }


def ancestors_of(store: RunStore) -> list[tuple[str, str]]:
    """Return the checkpoints that a run continues, nearest first, as run ids and names.

    The list ends at a deleted run.
    """
    ancestors: list[tuple[str, str]] = []
    run_id, run_tags = store.run_id, store.run.data.tags
    while tags.RESUMED_FROM in run_tags:
        parent, _, name = run_tags[tags.RESUMED_FROM].rpartition("/")
        if parent in {run_id, store.run_id, *(ancestor for ancestor, _ in ancestors)}:
            break
        ancestors.append((parent, name))
        run_id = parent
        try:
            run_tags = RunStore(parent, store.tracking_uri).run.data.tags
        except LookupError:
            break
    return ancestors


def logged_steps(store: RunStore, waiting: Iterable[Entry]) -> dict[str, set[int]]:
    """Return the steps of a run's metrics by name, including those waiting in the spool."""
    steps: dict[str, set[int]] = {}
    with store.client_to("read the run's metrics") as client:
        for key in store.run.data.metrics:
            history = client.get_metric_history(store.run_id, key)
            steps[key] = {metric.step for metric in history}
    for entry in waiting:
        if entry.kind == entries.METRICS:
            for key in entry.metrics:
                steps.setdefault(key, set()).add(entry.step)
    return steps


def unlogged(
    metrics: Mapping[str, float], step: int, logged: Mapping[str, set[int]]
) -> dict[str, float]:
    """Return the metrics without those in `logged` (as from `logged_steps`) at the step."""
    return {key: value for key, value in metrics.items() if step not in logged.get(key, ())}


def clear_tag(store: RunStore, tag: str) -> None:
    """Delete a tag of a run if it is set."""
    if tag not in store.run.data.tags:
        return
    with store.client_to(f"delete the tag {tag}") as client, suppress(MlflowException):
        client.delete_tag(store.run_id, tag)
