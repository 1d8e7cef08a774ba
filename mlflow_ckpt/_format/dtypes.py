"""Names of the dtypes that tensors have."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

# Of numbers, booleans and complex numbers.
_KINDS = "biufc"
# Names of NumPy for text and plain bytes, which no training computes with.
_PLAIN = re.compile(r"(str|bytes|void)[1-9]\d{0,9}")


@lru_cache(maxsize=256)
def dtype_named(name: str) -> np.dtype[Any] | None:
    """Return the dtype of numbers with a NumPy name, such as `float32` or `bfloat16`, or None."""
    extension = getattr(ml_dtypes, name, None)
    if isinstance(extension, type) and issubclass(extension, np.generic):
        return np.dtype(extension)
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError):
        return None
    return dtype if dtype.kind in _KINDS and dtype.name == name else None


def is_dtype(name: str) -> bool:
    """Whether a name is that of a dtype with a fixed item size."""
    return dtype_named(name) is not None or _PLAIN.fullmatch(name) is not None
