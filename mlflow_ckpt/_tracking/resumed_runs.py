"""Runs that go on from checkpoints of other runs, and runs that go on themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from mlflow.exceptions import MlflowException

from mlflow_ckpt._format.lineage import Origin
from mlflow_ckpt._tracking import tags
from mlflow_ckpt._tracking.spool import entries
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.store import RunStore

# A run's tag is cut beyond 8,000 characters; so many ids of 32 fit.
_MOST_CHILDREN = 200


def lineage_tags(origin: Origin, store: RunStore) -> dict[str, str]:
    """Return the tags of a run that goes on from another one's checkpoint."""
    if origin.run_id == store.run_id:
        return {}
    new = {tags.RESUMED_FROM: str(origin)}
    if origin.tracking_uri == store.tracking_uri:
        new[tags.PARENT_RUN] = origin.run_id
    return new


def tag_parent(store: RunStore, origin: Origin) -> None:
    """Note in the run that a training came from where it goes on.

    The child's own tag is what counts: two children that are noted at the same moment may lose one.

    Raises:
        TrackingError: If the server fails.
    """
    if origin.tracking_uri != store.tracking_uri:
        return
    parent = RunStore(origin.run_id, store.tracking_uri)
    known = parent.run.data.tags.get(tags.RESUMED_BY, "").split()
    if store.run_id not in known:
        children = [*known, store.run_id][-_MOST_CHILDREN:]
        parent.set_tags({tags.RESUMED_BY: " ".join(children)})


def children_of(store: RunStore) -> dict[str, str]:
    """Return the runs that go on from a run: the checkpoint's name by the run's id.

    Raises:
        TrackingError: If the server fails.
    """
    with store.asking("find the runs that go on from this one") as client:
        found = client.search_runs(
            [store.run.info.experiment_id],
            filter_string=f"tags.`{tags.RESUMED_FROM}` LIKE '{store.run_id}/%'",
            order_by=["attributes.start_time ASC"],
        )
    return {
        run.info.run_id: run.data.tags[tags.RESUMED_FROM].rpartition("/")[2]
        for run in found
        if run.info.run_id != store.run_id
    }


def ancestors_of(store: RunStore) -> list[tuple[str, str]]:
    """Return what a run goes on from, nearest first: run ids and names of checkpoints.

    A run that was deleted ends the list.

    Raises:
        TrackingError: If the server fails.
    """
    found: list[tuple[str, str]] = []
    run_id, run_tags = store.run_id, store.run.data.tags
    while tags.RESUMED_FROM in run_tags:
        parent, _, name = run_tags[tags.RESUMED_FROM].rpartition("/")
        if parent in {run_id, store.run_id, *(each for each, _ in found)}:
            break
        found.append((parent, name))
        run_id = parent
        try:
            run_tags = RunStore(parent, store.tracking_uri).run.data.tags
        except LookupError:
            break
    return found


def logged_steps(store: RunStore, waiting: Iterable[Entry]) -> dict[str, set[int]]:
    """Return the steps at which a run has values of each metric, or will have them.

    Args:
        store: The run.
        waiting: What is in the spool for it.

    Raises:
        TrackingError: If the server fails.
    """
    steps: dict[str, set[int]] = {}
    with store.asking("read the run's metrics") as client:
        for key in store.run.data.metrics:
            history = client.get_metric_history(store.run_id, key)
            steps[key] = {metric.step for metric in history}
    for entry in waiting:
        if entry.kind == entries.METRICS:
            for key in entry.metrics:
                steps.setdefault(key, set()).add(entry.step)
    return steps


def unlogged(
    metrics: Mapping[str, float], step: int, known: Mapping[str, set[int]]
) -> dict[str, float]:
    """Return the metrics that a run does not have at a step."""
    return {key: value for key, value in metrics.items() if step not in known.get(key, ())}


def clear_tag(store: RunStore, tag: str) -> None:
    """Delete a tag of a run, if it has it.

    Raises:
        TrackingError: If the server fails.
    """
    if tag not in store.run.data.tags:
        return
    with store.asking(f"delete the tag {tag}") as client, suppress(MlflowException):
        client.delete_tag(store.run_id, tag)
