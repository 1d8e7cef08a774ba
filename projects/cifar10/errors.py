"""Errors that the user can fix: shown as one sentence, with exit code 1 and no traceback.

click.ClickException
└── UserError              one sentence: problem, what was expected, what was received, what to do
    └── DownloadError      a file could not be downloaded; `auto` falls back to digits
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
    """A problem with the user's input or environment, described in one sentence."""


class DownloadError(UserError):
    """A download failed: no network, a timeout, a refusal, or corrupted content."""


def plain_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Make `command` show errors of mlflow_ckpt and MLflow as one sentence.

    Any other exception is a bug and keeps its traceback.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (MlflowCkptError, MlflowException) as error:
            raise UserError(str(error)) from error

    return wrapped
