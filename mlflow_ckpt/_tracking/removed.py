"""What to do about a checkpoint that was removed after it was found. Imports no MLflow."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from mlflow_ckpt.errors import CheckpointNotFoundError

P = ParamSpec("P")
R = TypeVar("R")
# Attempts to read the latest or the best checkpoint of a run whose checkpoints are replaced.
_TRIES = 5


class CheckpointRemovedError(CheckpointNotFoundError):
    """A checkpoint was removed after it was found."""


def again_if_removed(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that finds a checkpoint and reads it.

    Calls it again if the checkpoint was removed in between: the latest is another one by then, and
    one that was named does not exist.
    """

    @wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        for _ in range(_TRIES - 1):
            try:
                return function(*arguments, **keywords)
            except CheckpointRemovedError:
                continue
        return function(*arguments, **keywords)

    return call
