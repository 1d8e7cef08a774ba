"""Starts a run if none is active, and ends it when training ends."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from mlflow_ckpt._format.lineage import Origin
from mlflow_ckpt._shown.escaping import redacted
from mlflow_ckpt._shown.warn import warn
from mlflow_ckpt._tracking import mlflow_private, tags
from mlflow_ckpt._tracking.environment import environment
from mlflow_ckpt._tracking.store import SILENT, RunStore, require_answer
from mlflow_ckpt.errors import InvalidArgumentError, TrackingUnavailableError

# MLflow retries for four minutes if a server is down, which is too long at the end of a training.
_WITHOUT_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
# Trainings in several threads must not restore each other's variables.
_ending = threading.Lock()
# How long ago autologging may have started a run for the `fit` that begins.
_AUTOLOGGING_SECONDS = 300


class ManagedRun:
    """The MLflow run that the callback started, if any."""

    def __init__(self) -> None:
        self._run_id: str | None = None

    @property
    def is_active(self) -> bool:
        """Whether the callback started a run that is still MLflow's active one."""
        active = mlflow.active_run()
        return active is not None and active.info.run_id == self._run_id

    def active_or_new(self, origin: Origin | None = None, *, in_place: bool = False) -> str:
        """Return the id of MLflow's active run; start one if there is none.

        Args:
            origin: The checkpoint that the training continues from; None for a new training.
            in_place: Whether it continues in the same run.

        Raises:
            InvalidArgumentError: If it continues in the same run while another one is active.
            TrackingUnavailableError: If no run is active, and the server does not answer.
        """
        active = mlflow.active_run()
        if active is not None and in_place and origin and active.info.run_id != origin.run_id:
            # Autologging started it and will end the active run, whichever that is.
            return _replace(active, origin)
        if active is None:
            elsewhere = mlflow_private.active_in_other_threads()
            active = _start(origin, in_place=in_place)
            self._run_id = active.info.run_id
            if elsewhere and self._run_id not in elsewhere:
                warn(
                    f"The run {', '.join(elsewhere)} is active in another thread, but MLflow's "
                    f"active run is per thread: this training logs to a new run, {self._run_id}. "
                    "To log to that one, pass MlflowCheckpoint(run_id=…)."
                )
        return str(active.info.run_id)

    def end(self, status: str) -> None:
        """End the run if the callback started it.

        Args:
            status: `"FINISHED"`, `"FAILED"` or `"KILLED"`. It is sent without retries, which are
                left to the spool (`CheckpointSaver.end_run`).
        """
        if self.is_active:
            address = mlflow.get_tracking_uri()
            silent = {} if redacted(address) == address else SILENT
            with _ending, environment(_WITHOUT_RETRIES | silent), suppress(MlflowException):
                mlflow.end_run(status)
        self._run_id = None


def _start(origin: Origin | None, *, in_place: bool) -> mlflow.ActiveRun:
    """Start a run, which only the server can: without one, say so in seconds, not in minutes."""
    try:
        require_answer(mlflow.get_tracking_uri())
    except TrackingUnavailableError as error:
        raise TrackingUnavailableError(
            f"{error} Only the server can start a run to save to. Start the server, or pass the "
            "run_id of a run that it has: such a training goes on without the server."
        ) from error
    return mlflow.start_run(**_start_arguments(origin, in_place=in_place))


def _replace(active: mlflow.ActiveRun, origin: Origin) -> str:
    """Continue in a checkpoint's run instead of one that autologging started for this `fit`.

    Raises:
        InvalidArgumentError: If the active run is another one, or holds anything already.
    """
    store = RunStore(active.info.run_id)
    age = time.time() - active.info.start_time / 1000
    by_autologging = tags.AUTOLOGGING in active.data.tags and age < _AUTOLOGGING_SECONDS
    if not by_autologging or store.current_run().data.metrics or store.list():
        raise InvalidArgumentError(
            f"The training continues in the run {origin.run_id}, but the run "
            f"{active.info.run_id} is active. End it first, or resume into a new run."
        )
    mlflow.end_run()
    with store.client_to("delete the run that autologging started") as client:
        client.delete_run(store.run_id)
    return str(mlflow.start_run(run_id=origin.run_id).info.run_id)


def _start_arguments(origin: Origin | None, *, in_place: bool) -> dict[str, Any]:
    if origin is None:
        return {}
    if in_place:
        return {"run_id": origin.run_id}
    if origin.tracking_uri and RunStore(origin.run_id).tracking_uri != origin.tracking_uri:
        return {}
    # MLflow's UI nests a child below its parent only if both are in the same experiment.
    return {"experiment_id": RunStore(origin.run_id).run.info.experiment_id}
