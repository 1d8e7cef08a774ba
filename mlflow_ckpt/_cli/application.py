"""The group of all commands: finds them, and handles signals, errors and exit codes."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import click

from mlflow_ckpt import __version__, errors
from mlflow_ckpt._cli import commands
from mlflow_ckpt._cli.exit_codes import EXIT_CODES
from mlflow_ckpt._shown.escaping import shown
from mlflow_ckpt._tracking.environment import environment

# Give up on an unreachable server within a minute: a user is waiting, and MLflow's default is eight
# attempts of two minutes each. TensorFlow's start-up messages are irrelevant here.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
_PREFIX = "cmd_"


class _Failure(click.ClickException):
    """A package error as the command line shows it: one sentence and an exit code."""

    exit_code: int  # type: ignore[misc]  # click declares it on the class, and reads the instance

    def __init__(self, error: errors.MlflowCkptError) -> None:
        super().__init__(str(error))
        codes = (code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        self.exit_code = next(codes, 1)


class _LazyCommands(Mapping[str, click.Command]):
    """The commands by name, each imported when it is looked up."""

    def __iter__(self) -> Iterator[str]:
        return (module.name.removeprefix(_PREFIX) for module in iter_modules(commands.__path__))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> click.Command:
        if name not in list(self):
            raise KeyError(name)
        command: click.Command = import_module(f"{commands.__name__}.{_PREFIX}{name}").command
        return command


class Application(click.Group):
    """A lazy group: listing its commands imports none of them, running one imports that one."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        # With the mapping replaced, rather than `get_command` and `list_commands` overridden, click
        # suggests names of lazy commands for a mistyped one.
        self.commands = _LazyCommands()  # type: ignore[assignment]  # click only reads it

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; show a package error as one sentence, with its exit code."""
        added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
        # For `resume`, which starts a process in the user's own environment.
        ctx.obj = tuple(added)
        try:
            with _signals_unwind(), environment(added):
                return super().invoke(ctx)
        except errors.MlflowCkptError as error:
            raise _Failure(error) from error
        except click.ClickException as error:
            error.message = shown(error.message)  # type: ignore[misc]  # show() reads it
            raise
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            # Code that writes files raises its own errors; this one comes from standard output.
            raise _Failure(errors.OutputError(f"The output cannot be written: {error}.")) from error


@contextmanager
def _signals_unwind() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception, so that temporary files are removed."""

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


@click.group(cls=Application, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlflow-ckpt")
def main() -> None:
    """Keras checkpoints in MLflow runs: list, show, verify, restore, resume, predict, sign, prune.

    RUN is a run id, or a URI: ckpt:/RUN_ID/best, runs:/RUN_ID/checkpoints/epoch_0003, or
    models:/NAME@ALIAS.
    """
