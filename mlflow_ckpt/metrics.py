"""What Keras reports of an epoch or a batch, as MLflow takes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import keras

# What a metric's name may not hold: https://mlflow.org/docs/latest/rest-api.html
_REFUSED = re.compile(r"[^/\w.\- :]")


def scalars(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the scalar values among Keras's logs, which may be NumPy's or the backend's."""
    found = {}
    for name, value in (logs or {}).items():
        array = keras.ops.convert_to_numpy(value)
        if array.size == 1 and array.dtype.kind in "biuf":
            found[name] = float(array.reshape(()))
    return found


def allowed_name(name: str) -> str:
    """Return a metric's name with what MLflow refuses replaced by `_`."""
    return _REFUSED.sub("_", name)
