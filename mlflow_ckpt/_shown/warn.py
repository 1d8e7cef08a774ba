"""Warnings that point at the user's line, skipping frames of this package and of Keras."""

from __future__ import annotations

import sys
import warnings
from functools import cache

from mlflow_ckpt._shown.escaping import Logger, shown

_NOT_THE_USER = ("mlflow_ckpt", "keras")


def warn(message: str) -> None:
    """Issue a warning at the innermost line of the user's code."""
    warnings.warn(shown(message), stacklevel=_level_of_user())


warn_once = cache(warn)  # once in this process


def _level_of_user() -> int:
    """Return the stack level of the innermost frame outside this package and Keras."""
    level, frame = 1, sys._getframe(1)
    while frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_USER:
        if frame.f_back is None:
            return 1
        level, frame = level + 1, frame.f_back
    return level


@cache
def mention_untested(library: str, version: str, tested: tuple[str, ...]) -> None:
    """Log, once per process, that a library's version was not tested with this package."""
    if ".".join(version.split(".")[:2]) not in tested:
        Logger("mlflow_ckpt").warning(
            "mlflow_ckpt was not tested with %s %s, only with %s. If private names in it have "
            "changed, some features are slower or missing.",
            *(library, version, " and ".join(tested)),
        )
