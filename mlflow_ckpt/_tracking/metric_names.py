"""Metric names that MLflow accepts."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

# Characters that a metric's name must not contain: https://mlflow.org/docs/latest/rest-api.html
_INVALID = re.compile(r"[^/\w.\- :]")
_LONGEST = 250
_OF_EPOCHS = "epoch_"


def allowed_names(names: Iterable[str]) -> dict[str, str]:
    """Map metric names to distinct names that MLflow accepts.

    MLflow rejects a whole batch of metrics for one invalid name.
    """
    names = list(names)
    result: dict[str, str] = {}
    # Valid names first, so that they stay unchanged.
    for name in sorted(names, key=lambda name: _allowed(name) != name):
        allowed, number = _allowed(name), 1
        while allowed in result.values():
            number += 1
            allowed = f"{_allowed(name)[: _LONGEST - 8]}_{number}"
        result[name] = allowed
    return {name: result[name] for name in names}


def epoch_name(name: str) -> str:
    """Return another name for the values at the ends of epochs of a metric logged by steps.

    As Keras's `TensorBoard` has `epoch_loss` beside `batch_loss`.
    """
    return f"{_OF_EPOCHS}{name}"[:_LONGEST]


def _allowed(name: str) -> str:
    allowed = _INVALID.sub("_", name)[:_LONGEST]
    # MLflow uses it as a path, so it must be normalized, relative and without `..`.
    if not allowed or posixpath.normpath(allowed) != allowed or allowed[0] in "./":
        allowed = "_" + allowed.strip("./").replace("/", "_")
    return allowed[:_LONGEST]
