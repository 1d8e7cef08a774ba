"""Names of metrics as MLflow takes them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

# What a metric's name may not hold: https://mlflow.org/docs/latest/rest-api.html
_REFUSED = re.compile(r"[^/\w.\- :]")
_LONGEST = 250


def allowed_names(names: Iterable[str]) -> dict[str, str]:
    """Map metrics' names to what MLflow takes for them, each to another.

    MLflow refuses a whole batch of metrics for one name that it does not take.
    """
    given = list(names)
    found: dict[str, str] = {}
    # Those that are taken as they are come first: nothing takes their place.
    for name in sorted(given, key=lambda name: _allowed(name) != name):
        allowed, number = _allowed(name), 1
        while allowed in found.values():
            number += 1
            allowed = f"{_allowed(name)[: _LONGEST - 8]}_{number}"
        found[name] = allowed
    return {name: found[name] for name in given}


def _allowed(name: str) -> str:
    allowed = _REFUSED.sub("_", name)[:_LONGEST]
    # As a path, it must not lead elsewhere, nor be another way to write one.
    if not allowed or posixpath.normpath(allowed) != allowed or allowed[0] in "./":
        allowed = "_" + allowed.strip("./").replace("/", "_")
    return allowed[:_LONGEST]
