"""The run that the callback starts where none is active, and ends when training ends."""

from __future__ import annotations

from contextlib import suppress

import mlflow
from mlflow.exceptions import MlflowException

from mlflow_ckpt.tracking.environment import environment

# MLflow's own patience with a server that is away, four minutes, is not for the end of a training.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}


class OwnRun:
    """A run of MLflow's that the callback answers for, if it had to start one."""

    def __init__(self) -> None:
        self._run_id: str | None = None

    @property
    def is_active(self) -> bool:
        """Whether there is one, and it is MLflow's active run still."""
        active = mlflow.active_run()
        return active is not None and active.info.run_id == self._run_id

    def active_or_new(self) -> str:
        """Return the id of MLflow's active run; start one if there is none."""
        active = mlflow.active_run()
        if active is None:
            active = mlflow.start_run()
            self._run_id = active.info.run_id
        return str(active.info.run_id)

    def end(self, status: str) -> None:
        """End the run that was started, if there is one.

        Args:
            status: `"FINISHED"`, `"FAILED"` or `"KILLED"`. It is sent once, and not again: the
                spool does that (`CheckpointSaver.end_run`).
        """
        if self.is_active:
            with environment(_IMPATIENT), suppress(MlflowException):
                mlflow.end_run(status)
        self._run_id = None
