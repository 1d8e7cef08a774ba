"""Shows a run's checkpoints on MLflow's pages: a table, a description, and the training view.

Not needed to read checkpoints, so failures are only logged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.untrusted import json_text
from mlflow_ckpt._shown.escaping import Logger
from mlflow_ckpt._tracking import tags
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.ui import description
from mlflow_ckpt._tracking.ui.description import TABLE
from mlflow_ckpt.errors import TrackingError, TrackingUnavailableError

if TYPE_CHECKING:
    from mlflow.entities import Run

_MODEL_TRAINING = "custom_model_development"
_logger = Logger(__name__)
_marked: set[tuple[str, str]] = set()


def page_tags(
    store: RunStore, manifests: Sequence[Manifest], best: str | None, run: Run
) -> dict[str, str]:
    """Update the table of checkpoints, and return the tags that MLflow's pages read.

    Args:
        store: The run.
        manifests: The manifests of all checkpoints of the run, oldest first.
        best: Name of the best checkpoint; None if no metric decides.
        run: The current state of the run.
    """
    updates: dict[str, str] = {}
    with _logged_failures(store):
        _mark_experiment(store)
        _write_table(store, manifests, best)
        updates |= _table_tag(run)
        updates |= description.description_tags(manifests, best, run)
    return updates


def refresh(store: RunStore, manifests: Sequence[Manifest], best: str | None) -> None:
    """Update the table and the tags after checkpoints were removed."""
    with _logged_failures(store):
        updates = page_tags(store, manifests, best, store.current_run())
        if updates:
            store.set_tags(updates)


@contextmanager
def _logged_failures(store: RunStore) -> Iterator[None]:
    """Log failures as warnings, unless the server does not answer."""
    try:
        yield
    except TrackingUnavailableError:
        raise
    except TrackingError as error:
        _logger.warning("MLflow's pages of run %s are not up to date: %s", store.run_id, error)


def _mark_experiment(store: RunStore) -> None:
    """Make the experiment's page open in the model training view, once per process.

    A view that is already set is kept.
    """
    experiment_id = store.run.info.experiment_id
    if (store.tracking_uri, experiment_id) in _marked:
        return
    with store.client_to("mark the experiment as model training") as client:
        experiment = client.get_experiment(experiment_id)
        if not experiment.tags.get(tags.EXPERIMENT_KIND):
            client.set_experiment_tag(experiment_id, tags.EXPERIMENT_KIND, _MODEL_TRAINING)
    _marked.add((store.tracking_uri, experiment_id))


def _write_table(store: RunStore, manifests: Sequence[Manifest], best: str | None) -> None:
    """Write the checkpoints in the format of `mlflow.log_table`, which MLflow shows as a table."""
    metrics = list(dict.fromkeys(name for manifest in manifests for name in manifest.metrics))
    columns = ["checkpoint", "epoch", "step", *metrics, "size", "created", "weights", "role", "uri"]
    rows: list[list[Any]] = []
    for manifest in manifests:
        roles = {"best": manifest.name == best, "latest": manifest is manifests[-1]}
        rows.append(
            [
                manifest.name,
                manifest.epoch,
                manifest.step,
                *(_finite(manifest.metrics.get(name)) for name in metrics),
                manifest.size,
                manifest.created,
                str(manifest.weights_digest),
                ", ".join(role for role, applies in roles.items() if applies),
                f"runs:/{store.run_id}/{layout.artifact_path(manifest.name)}",
            ]
        )
    text = json.dumps({"columns": columns, "data": rows}, allow_nan=False, ensure_ascii=False)
    store.write_text(TABLE, text)


def _finite(value: float | None) -> float | None:
    # JSON has no infinity or NaN; pandas writes null as well.
    return value if value is not None and abs(value) < float("inf") else None


def _table_tag(run: Run) -> dict[str, str]:
    """Return the tag that lists the artifacts that are tables, unless it already has this one."""
    try:
        tables = json_text.parse(run.data.tags.get(tags.LOGGED_ARTIFACTS, "[]"))
    except ValueError:
        tables = []
    own = {"path": TABLE, "type": "table"}
    if not isinstance(tables, list) or own in tables:
        return {}
    return {tags.LOGGED_ARTIFACTS: json.dumps([*tables, own])}
