"""How any command begins and ends: its environment, signals, errors and exit codes."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from mlflow_ckpt import errors
from mlflow_ckpt._tracking.environment import environment

# What a script may tell apart. Anything else that goes wrong is a bug, and shows its traceback.
EXIT_CODES: dict[type[errors.MlflowCkptError], int] = {
    errors.InvalidArgumentError: 2,
    errors.NotFoundError: 3,
    errors.IntegrityError: 4,
    errors.ModelError: 5,
    errors.OutputError: 6,
    errors.TrackingError: 7,
}

# A person waits at the command line: give a dead server up within a minute, not after MLflow's
# eight tries of two minutes. TensorFlow's start-up messages are not about the user's command.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


# Where a command finds the names of those that were set for it, and are not the user's.
OWN_ENVIRONMENT = "mlflow_ckpt.environment"


class _Failure(click.ClickException):
    """An error of ours as the command line shows it: one sentence, and an exit code."""

    exit_code: int  # type: ignore[misc]  # click declares it on the class, and reads the instance

    def __init__(self, error: errors.MlflowCkptError) -> None:
        super().__init__(str(error))
        codes = (code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        self.exit_code = next(codes, 1)


class Application(click.Group):
    """A group of commands that ends as a person and a script expect."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; show an error of ours as one sentence, with its exit code."""
        ours = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
        try:
            with _ending_cleanly(), environment(ours):
                ctx.meta[OWN_ENVIRONMENT] = tuple(ours)
                return super().invoke(ctx)
        except errors.MlflowCkptError as error:
            raise _Failure(error) from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            # Whatever else may fill up, the code that writes it tells; this is standard output.
            raise _Failure(errors.OutputError(f"The output cannot be written: {error}.")) from error


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Let a signal to end the process unwind it, so that temporary files are removed."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signals = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
