"""Rows of MLflow's Models table for checkpoints: LoggedModels with metrics.

A row has no files, because MLflow does not let a client choose their location: its tags name the
run's artifacts that it stands for. On a server without LoggedModels there are no rows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from mlflow.entities import LifecycleStage, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._shown.escaping import Logger
from mlflow_ckpt._tracking import mlflow_private, tags
from mlflow_ckpt._tracking.metric_names import allowed_names, epoch_name
from mlflow_ckpt._tracking.store import MISSING, RunStore
from mlflow_ckpt.errors import TrackingError, TrackingUnavailableError

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run

T = TypeVar("T")
MODEL_TYPE = "checkpoint"
_logger = Logger(__name__)
# A database may store a value less precisely than it was logged.
_TOLERANCE = 1e-6
_WAIT_SECONDS, _POLL_SECONDS = 5.0, 0.2


def begin(store: RunStore, manifest: Manifest) -> str | None:
    """Create the row of a checkpoint that is about to be uploaded, unless it exists.

    Returns:
        The LoggedModel's id; None if the server has no LoggedModels or refuses them.

    Raises:
        TrackingError: If the server fails in general.
    """

    def find_or_create(_: Run | None) -> str:
        row = next(_rows_of(store, manifest), None) or _create_row(store, manifest)
        return str(row.model_id)

    return _unless_refused(store, manifest.name, find_or_create)


def _create_row(store: RunStore, manifest: Manifest) -> LoggedModel:
    with store.client_to("add a row to the Models table") as client:
        return client.create_logged_model(
            store.run.info.experiment_id,
            name=manifest.name,
            source_run_id=store.run_id,
            tags=_tags(manifest),
            params={"epoch": str(manifest.epoch), "step": str(manifest.step)},
            model_type=MODEL_TYPE,
        )


def complete(store: RunStore, manifest: Manifest, model_id: str | None, run: Run) -> None:
    """Mark the row of an uploaded checkpoint as `READY`.

    Links the checkpoint's metrics to the row by their existing points in the run, so that no curve
    has duplicate points.

    Args:
        store: The run.
        manifest: The checkpoint's manifest.
        model_id: The row's id; None without a row.
        run: The current state of the run.

    Raises:
        TrackingError: If the server fails in general.
    """
    if model_id is not None:
        _unless_refused(
            store, manifest.name, lambda now: _complete(store, manifest, model_id, now or run)
        )


def _complete(store: RunStore, manifest: Manifest, model_id: str, run: Run) -> None:
    with store.client_to("link a row of the Models table to the run") as client:
        outputs = run.outputs.model_outputs if run.outputs is not None else []
        if all(output.model_id != model_id for output in outputs):
            # The step makes the row appear in the charts of the run's page.
            output = LoggedModelOutput(model_id, manifest.chart_step)
            client.log_outputs(store.run_id, [output])
        # MLflow's file store appends, which would duplicate the points of the curves.
        appends = urlsplit(store.tracking_uri).scheme in ("", "file")
        points = [] if appends else _arrived_points(store, manifest, run)
        if points:
            linked = [
                Metric(p.key, p.value, p.timestamp, p.step, model_id=model_id) for p in points
            ]
            client.log_batch(store.run_id, metrics=linked)
        client.finalize_logged_model(model_id, LoggedModelStatus.READY)


def fail(store: RunStore, manifest: Manifest, model_id: str | None) -> None:
    """Mark the row of a checkpoint that will not be uploaded as `FAILED`."""
    if model_id is None:
        return
    try:
        with store.client_to("mark a row of the Models table as failed") as client:
            client.finalize_logged_model(model_id, LoggedModelStatus.FAILED)
    except TrackingError as error:
        _log_failure(store, manifest.name, error)


def remove(store: RunStore, names: Collection[str]) -> None:
    """Remove the rows of removed checkpoints."""
    for name in names:
        try:
            for row in _rows(store, name):
                _delete_row(store, row)
        except TrackingUnavailableError:
            raise
        except TrackingError as error:
            _log_failure(store, name, error)


def _delete_row(store: RunStore, row: LoggedModel) -> None:
    with store.client_to("remove a row of the Models table") as client:
        try:
            client.delete_logged_model(row.model_id)
        except MlflowException as error:
            if error.error_code != MISSING:  # another process removed it
                raise


def _rows(store: RunStore, name: str) -> Iterator[LoggedModel]:
    """Yield the rows of all checkpoints of a name, including former ones."""
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
    """Return `_points`, after a short wait if another callback logs them asynchronously."""
    points = _points(store, manifest, run)
    if not store.others_log or len(points) == len(manifest.metrics):
        return points
    polling = Retrying(
        retry=retry_if_result(lambda points: len(points) < len(manifest.metrics)),
        wait=wait_fixed(_POLL_SECONDS),
        stop=stop_after_delay(_WAIT_SECONDS),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    return polling(lambda: _points(store, manifest, store.current_run()))


def _points(store: RunStore, manifest: Manifest, run: Run) -> list[Metric]:
    """Return the points of the run's curves that are the metrics of a checkpoint."""
    names = allowed_names(manifest.metrics)
    # MLflow's own callbacks log the first epoch at step 0.
    steps = (manifest.epoch, manifest.epoch - 1)
    latest = mlflow_private.latest_metrics(run)
    points: list[Metric] = []
    for name, value in manifest.metrics.items():
        keys = (epoch_name(names[name]), names[name])
        key = next((key for key in keys if key in run.data.metrics), None)
        if key is None:
            continue
        candidates = [latest[key]] if key in latest else []
        if not any(_is_point(point, value, steps) for point in candidates):
            # The run has logged later points since.
            with store.client_to("read a metric's history") as client:
                candidates = client.get_metric_history(store.run_id, key)
        points += [point for point in candidates if _is_point(point, value, steps)][:1]
    return points


def _is_point(point: Metric, value: float, steps: tuple[int, ...]) -> bool:
    if point.step not in steps:
        return False
    if math.isnan(value) or math.isnan(point.value):
        return math.isnan(value) and math.isnan(point.value)
    # Databases store infinity as their largest number.
    return math.isinf(value) or math.isclose(point.value, value, rel_tol=_TOLERANCE)


def _unless_refused(store: RunStore, name: str, change: Callable[[Run | None], T]) -> T | None:
    """Change rows; log it if only they cannot be changed, which does not affect the checkpoint.

    Args:
        store: The run.
        name: The checkpoint.
        change: Changes the rows, given the current state of the run where it is known. Called again
            after a failure.

    Raises:
        TrackingError: If the server fails in general, so that all has to be sent again.
    """
    try:
        return change(None)
    except TrackingUnavailableError:
        raise
    except TrackingError as error:
        if mlflow_private.is_unknown_to_server(error.__cause__):
            _log_failure(store, name, error)
            return None
    run = store.current_run()
    try:
        return change(run)
    except TrackingUnavailableError:
        raise
    except TrackingError as error:
        if store.current_run().info.lifecycle_stage == LifecycleStage.DELETED:
            raise  # deleted since it was looked at: that is said instead
        _log_failure(store, name, error)
        return None


def _log_failure(store: RunStore, name: str, error: TrackingError) -> None:
    level = (
        logging.DEBUG if mlflow_private.is_unknown_to_server(error.__cause__) else logging.WARNING
    )
    message = "The row of %s of run %s in MLflow's Models table is not up to date: %s"
    _logger.log(level, message, name, store.run_id, error)
