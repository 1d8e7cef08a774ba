"""The metrics among what Keras reports to callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras


def scalars(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the scalars among Keras's logs, which may be NumPy values or backend tensors."""
    metrics = {}
    for name, value in (logs or {}).items():
        array = keras.ops.convert_to_numpy(value)
        if array.size == 1 and array.dtype.kind in "biuf":
            metrics[name] = float(array.reshape(()))
    return metrics
