"""A row of MLflow's Models table for each checkpoint: a LoggedModel, with its metrics.

The row has no files of its own, because MLflow lets nobody choose where they are: its tags say
which of the run's artifacts it stands for. A server without LoggedModels goes without.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._tracking import mlflow_private, tags
from mlflow_ckpt._tracking.metric_names import allowed_names
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import TrackingError, TrackingUnavailableError

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run

MODEL_TYPE = "checkpoint"
_logger = logging.getLogger(__name__)
# A database may keep a value less exactly than it was logged.
_TOLERANCE = 1e-6
_WAIT_SECONDS, _LOOK_SECONDS = 5.0, 0.2


def begin(store: RunStore, manifest: Manifest) -> str | None:
    """Make the row of a checkpoint that is about to be uploaded, unless it is there.

    Returns:
        The LoggedModel's id; None where the server keeps none.

    Raises:
        TrackingUnavailableError: If the server does not answer.
    """
    try:
        found = next(_rows_of(store, manifest), None)
        if found is not None:
            return str(found.model_id)
        with store.asking("add a row to the Models table") as client:
            made = client.create_logged_model(
                store.run.info.experiment_id,
                name=manifest.name,
                source_run_id=store.run_id,
                tags=_tags(manifest),
                params={"epoch": str(manifest.epoch), "step": str(manifest.step)},
                model_type=MODEL_TYPE,
            )
        return str(made.model_id)
    except TrackingUnavailableError:
        raise
    except TrackingError as error:
        _tell(store, manifest.name, error)
        return None


def complete(store: RunStore, manifest: Manifest, model_id: str | None, run: Run) -> None:
    """Make the row of a checkpoint `READY`, now that its manifest is in the run.

    The checkpoint's metrics are linked to the row where the run has them: as those very points, so
    that no curve has one of them twice, whoever logged them.

    Args:
        store: The run.
        manifest: The checkpoint's manifest.
        model_id: The row; None for none.
        run: The run as it is now.

    Raises:
        TrackingUnavailableError: If the server does not answer.
    """
    if model_id is None:
        return
    try:
        with store.asking("link a row of the Models table to the run") as client:
            outputs = run.outputs.model_outputs if run.outputs is not None else []
            if all(output.model_id != model_id for output in outputs):
                # The step is what puts the row into the charts of the run's page.
                output = LoggedModelOutput(model_id, manifest.chart_step)
                client.log_outputs(store.run_id, [output])
            # MLflow's file store appends: the curves would have each point twice.
            appends = urlsplit(store.tracking_uri).scheme in ("", "file")
            points = [] if appends else _arrived_points(store, manifest, run)
            if points:
                linked = [
                    Metric(p.key, p.value, p.timestamp, p.step, model_id=model_id) for p in points
                ]
                client.log_batch(store.run_id, metrics=linked)
            client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    except TrackingUnavailableError:
        raise
    except TrackingError as error:
        _tell(store, manifest.name, error)


def fail(store: RunStore, manifest: Manifest, model_id: str | None) -> None:
    """Make the row of a checkpoint `FAILED` that will never be uploaded."""
    if model_id is None:
        return
    try:
        with store.asking("mark a row of the Models table as failed") as client:
            client.finalize_logged_model(model_id, LoggedModelStatus.FAILED)
    except TrackingError as error:
        _tell(store, manifest.name, error)


def remove(store: RunStore, names: Collection[str]) -> None:
    """Remove the rows of checkpoints that are no more.

    Raises:
        TrackingUnavailableError: If the server does not answer.
    """
    for name in names:
        try:
            for row in _rows(store, name):
                with store.asking("remove a row of the Models table") as client:
                    client.delete_logged_model(row.model_id)
        except TrackingUnavailableError:
            raise
        except TrackingError as error:
            _tell(store, name, error)


def _rows(store: RunStore, name: str) -> Iterator[LoggedModel]:
    """Find the rows of all checkpoints that the run ever had under a name."""
    for row in store.logged_models(f"name = '{name}'"):
        if row.tags.get(tags.ARTIFACT_PATH) == layout.artifact_path(name):
            yield row


def _rows_of(store: RunStore, manifest: Manifest) -> Iterator[LoggedModel]:
    for row in _rows(store, manifest.name):
        if row.tags.get(tags.MANIFEST_DIGEST) == str(manifest.digest):
            yield row


def _tags(manifest: Manifest) -> dict[str, str]:
    path = layout.artifact_path(manifest.name)
    return {
        tags.ARTIFACT_PATH: path,
        tags.WEIGHTS_DIGEST: str(manifest.weights_digest),
        tags.MANIFEST_DIGEST: str(manifest.digest),
        tags.NOTE: (f"Its files are artifacts of the run: `runs:/{manifest.run_id}/{path}`"),
    }


def _arrived_points(store: RunStore, manifest: Manifest, run: Run) -> list[Metric]:
    """Find the same, and wait a little for what another callback logs in a thread of its own."""
    points = _points(store, manifest, run)
    if not store.others_log or len(points) == len(manifest.metrics):
        return points
    waiting = Retrying(
        retry=retry_if_result(lambda points: len(points) < len(manifest.metrics)),
        wait=wait_fixed(_LOOK_SECONDS),
        stop=stop_after_delay(_WAIT_SECONDS),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    return waiting(lambda: _points(store, manifest, store.current_run()))


def _points(store: RunStore, manifest: Manifest, run: Run) -> list[Metric]:
    """Find the points of the run's curves that belong to a checkpoint."""
    names = allowed_names(manifest.metrics)
    # MLflow's own callbacks count the first epoch as step 0.
    steps = (manifest.epoch, manifest.epoch - 1)
    newest = mlflow_private.latest_metrics(run)
    found = []
    for name, value in manifest.metrics.items():
        key = names[name]
        if key not in run.data.metrics:
            continue
        candidates = [newest[key]] if key in newest else []
        if not any(_is_point(point, value, steps) for point in candidates):
            # The run is further than what is being sent.
            with store.asking("read a metric's history") as client:
                candidates = client.get_metric_history(store.run_id, key)
        found += [point for point in candidates if _is_point(point, value, steps)][:1]
    return found


def _is_point(point: Metric, value: float, steps: tuple[int, ...]) -> bool:
    if point.step not in steps:
        return False
    if math.isnan(value) or math.isnan(point.value):
        return math.isnan(value) and math.isnan(point.value)
    # Databases keep the largest number they have for infinity.
    return math.isinf(value) or math.isclose(point.value, value, rel_tol=_TOLERANCE)


def _tell(store: RunStore, name: str, error: TrackingError) -> None:
    """Log that a row is not up to date, which does not affect the checkpoint."""
    level = (
        logging.DEBUG if mlflow_private.is_unknown_to_server(error.__cause__) else logging.WARNING
    )
    message = "The row of %s of run %s in MLflow's Models table is not up to date: %s"
    _logger.log(level, message, name, store.run_id, error)
