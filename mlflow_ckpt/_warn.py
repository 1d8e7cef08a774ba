"""Warnings that point at the user's own line, past this package's and Keras's."""

from __future__ import annotations

import logging
import sys
import warnings
from functools import cache

_NOT_THE_USER = ("mlflow_ckpt", "keras")


def warn(message: str) -> None:
    """Warn of something, where the user's code called whatever it came from."""
    warnings.warn(message, stacklevel=_level_of_user())


def _level_of_user() -> int:
    """Return how far up the stack the line is that a person knows: not one of ours, or Keras's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_USER:
        if frame.f_back is None:
            return 1
        level, frame = level + 1, frame.f_back
    return level


@cache
def mention_untested(library: str, version: str, tested: tuple[str, ...]) -> None:
    """Log, once a process, that a library's version is not one that this package was tested with.

    Args:
        library: Its name.
        version: The version that is running.
        tested: The tested versions, such as `("3.17", "3.18")`.
    """
    if ".".join(version.split(".")[:2]) not in tested:
        logging.getLogger("mlflow_ckpt").warning(
            "This mlflow_ckpt was tested with %s %s, and runs with %s. What has changed in it is "
            "gone around where that can be done.",
            *(library, " and ".join(tested), version),
        )
