"""What goes wrong for reasons the user can mend: one sentence, exit code 1, no traceback.

click.ClickException
└── UserError              one sentence: problem, what was expected, what was received, what to do
    └── DownloadError      a file could not be fetched; `auto` goes on without it
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click
from mlflow.exceptions import MlflowException

from mlflow_ckpt.errors import MlflowCkptError

P = ParamSpec("P")
R = TypeVar("R")


class UserError(click.ClickException):
    """A problem of the user's input or surroundings, told in one sentence."""


class DownloadError(UserError):
    """A download failed: no network, no answer in time, refused, or damaged on the way."""


def plain_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Let `command` show the errors of mlflow_ckpt and MLflow as one sentence.

    Any other exception is a bug and keeps its traceback.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (MlflowCkptError, MlflowException) as error:
            raise UserError(str(error)) from error

    return wrapped
