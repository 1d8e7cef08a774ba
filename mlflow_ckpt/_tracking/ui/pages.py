"""What MLflow's own pages show of a run's checkpoints: a table, a description, and the right views.

None of it is needed to read a checkpoint: where the server refuses it, the log says so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._tracking import tags
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.ui import description
from mlflow_ckpt._tracking.ui.description import TABLE
from mlflow_ckpt.errors import TrackingError, TrackingUnavailableError

if TYPE_CHECKING:
    from mlflow.entities import Run

_MODEL_TRAINING = "custom_model_development"
_logger = logging.getLogger(__name__)
_marked: set[tuple[str, str]] = set()


def page_tags(
    store: RunStore, manifests: Sequence[Manifest], best: str | None, run: Run
) -> dict[str, str]:
    """Bring the table of checkpoints up to date, and return the tags that the pages look for.

    Args:
        store: The run.
        manifests: Those of all its checkpoints, oldest first.
        best: Name of the best one; None if no metric tells.
        run: The run as it is now.

    Raises:
        TrackingUnavailableError: If the server does not answer.
    """
    found: dict[str, str] = {}
    try:
        _mark_experiment(store)
        _write_table(store, manifests, best)
        found |= _table_tag(run)
        found |= description.description_tags(manifests, best, run)
    except TrackingUnavailableError:
        raise
    except TrackingError as error:
        _logger.warning(
            "What MLflow's pages show of run %s is not up to date: %s", store.run_id, error
        )
    return found


def refresh(store: RunStore, manifests: Sequence[Manifest], best: str | None) -> None:
    """Bring everything up to date after checkpoints were removed.

    Raises:
        TrackingUnavailableError: If the server does not answer.
    """
    try:
        found = page_tags(store, manifests, best, store.current_run())
        if found:
            store.set_tags(found)
    except TrackingUnavailableError:
        raise
    except TrackingError as error:
        _logger.warning(
            "What MLflow's pages show of run %s is not up to date: %s", store.run_id, error
        )


def _mark_experiment(store: RunStore) -> None:
    """Have the experiment's page open with the views for training models, once a process.

    Where somebody has chosen already, that stays.
    """
    experiment_id = store.run.info.experiment_id
    if (store.tracking_uri, experiment_id) in _marked:
        return
    with store.asking("mark the experiment as model training") as client:
        experiment = client.get_experiment(experiment_id)
        if not experiment.tags.get(tags.EXPERIMENT_KIND):
            client.set_experiment_tag(experiment_id, tags.EXPERIMENT_KIND, _MODEL_TRAINING)
    _marked.add((store.tracking_uri, experiment_id))


def _write_table(store: RunStore, manifests: Sequence[Manifest], best: str | None) -> None:
    """Write the checkpoints in the form of `mlflow.log_table`, which the pages show as a table."""
    metrics = list(dict.fromkeys(name for each in manifests for name in each.metrics))
    columns = ["checkpoint", "epoch", "step", *metrics, "size", "created", "weights", "role", "uri"]
    rows: list[list[Any]] = []
    for manifest in manifests:
        told = {"best": manifest.name == best, "latest": manifest is manifests[-1]}
        rows.append(
            [
                manifest.name,
                manifest.epoch,
                manifest.step,
                *(_finite(manifest.metrics.get(name)) for name in metrics),
                manifest.size,
                manifest.created,
                str(manifest.weights_digest),
                ", ".join(word for word, holds in told.items() if holds),
                f"runs:/{store.run_id}/{layout.artifact_path(manifest.name)}",
            ]
        )
    text = json.dumps({"columns": columns, "data": rows}, allow_nan=False, ensure_ascii=False)
    store.write_text(TABLE, text)


def _finite(value: float | None) -> float | None:
    # What is not finite has no place in JSON, and pandas writes it as null too.
    return value if value is not None and abs(value) < float("inf") else None


def _table_tag(run: Run) -> dict[str, str]:
    """Return the tag that tells the pages which artifacts are tables, unless it tells already."""
    try:
        known = json.loads(run.data.tags.get(tags.LOGGED_ARTIFACTS, "[]"))
    except ValueError:
        known = []
    own = {"path": TABLE, "type": "table"}
    if not isinstance(known, list) or own in known:
        return {}
    return {tags.LOGGED_ARTIFACTS: json.dumps([*known, own])}
