"""Runs that somebody deletes while something waits to be sent to them."""

from __future__ import annotations

from pathlib import Path

from mlflow.entities import LifecycleStage

from mlflow_ckpt._tracking.store import MISSING, RunStore
from mlflow_ckpt.errors import RequestRefusedError, RunNotFoundError


def require_run(store: RunStore, directory: Path) -> None:
    """Check that a run that refused a request still exists.

    Args:
        store: The run.
        directory: What waits to be sent to it, for the message.

    Raises:
        RunNotFoundError: If it was deleted, or is on another server.
        TrackingError: If the server fails.
    """
    try:
        run = store.current_run()
    except RequestRefusedError as error:
        if getattr(error.__cause__, "error_code", None) != MISSING:
            raise
        what = "There is no run {run} at {uri}."
        advice = "Send it to the right server (mlflow-ckpt flush {run} --tracking-uri URI)"
    else:
        if run.info.lifecycle_stage != LifecycleStage.DELETED:
            return
        what = "The run {run} was deleted at {uri}."
        advice = "Restore the run and send it (mlflow runs restore --run-id {run}; "
        advice += "mlflow-ckpt flush {run})"
    message = f"{what} What was to be sent to it stays in {{directory}}. {advice}, or delete that "
    values = {"run": store.run_id, "uri": store.tracking_uri, "directory": directory}
    raise RunNotFoundError(message.format(**values) + "directory.", run_id=store.run_id)
