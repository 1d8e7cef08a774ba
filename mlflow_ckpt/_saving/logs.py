"""What Keras reports of an epoch or a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras


def scalars(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the scalar values among Keras's logs, which may be NumPy's or the backend's."""
    found = {}
    for name, value in (logs or {}).items():
        array = keras.ops.convert_to_numpy(value)
        if array.size == 1 and array.dtype.kind in "biuf":
            found[name] = float(array.reshape(()))
    return found
