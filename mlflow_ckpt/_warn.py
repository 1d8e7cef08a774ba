"""Warnings that point at the user's own line, past this package's and Keras's."""

from __future__ import annotations

import sys
import warnings

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
