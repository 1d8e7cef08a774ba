"""Plain values of attributes: copies that nothing changes later, and comparisons."""

from __future__ import annotations

import array
import datetime
import enum
import math
import zlib
from collections import deque
from collections.abc import Set
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np

from mlflow_ckpt._model.capture.structure import LONGEST, is_array

# Larger arrays and longer lists are data: compared by a sample, and not put back.
LARGEST_BYTES = 1 << 20
# The only key of a dictionary that stands for such a value.
SUMMARIZED = "summarized"
_SAMPLE = 4096
_LONGEST_TEXT = 200
_DEEPEST = 6
_EXACT = (bool, int, float, str, type(None))
# Values that are compared, but not put back.
VALUES = (
    *(enum.Enum, bytes, bytearray, array.array, complex, range, PurePath, Decimal, Fraction),
    *(datetime.date, datetime.time, datetime.timedelta),
)
_BYTES = (bytes, bytearray)
_FUNCTIONS = (FunctionType, BuiltinFunctionType)


class NotPlainError(TypeError):
    """A value that contains something other than plain values and arrays."""


def _summary(text: str) -> dict[str, str]:
    """Return a description that stands for a value which cannot be kept."""
    return {SUMMARIZED: text}


def is_scalar(value: Any) -> bool:
    """Whether a value is plain and cannot be changed, only replaced."""
    if type(value) is tuple:
        return len(value) <= LONGEST and all(map(is_scalar, value))
    return type(value) in _EXACT or isinstance(value, np.generic)


def frozen(value: Any, depth: int = 0) -> Any:
    """Return a copy of a value.

    Raises:
        NotPlainError: If it holds anything but None, bool, int, float, str, arrays, and lists,
            tuples and dictionaries of them.
    """
    if is_scalar(value):
        return value
    if isinstance(value, _BYTES) and len(value) > LARGEST_BYTES:
        code = zlib.crc32(value[:: len(value) // _SAMPLE])
        return _summary(f"{type(value).__name__} of {len(value)} items ({code:08x})")
    if isinstance(value, VALUES):
        return _summary(_shortened(repr(value)))
    if isinstance(value, (set, frozenset)):
        return _frozen_set(value)
    if isinstance(value, _FUNCTIONS) and depth == 0:  # in a container, it is looked into
        # By its name alone: a script that resumes may be another module than the first one.
        return _summary(f"the function {value.__qualname__}")
    if depth > _DEEPEST:
        raise NotPlainError
    if is_array(value):
        return _frozen_array(value)
    if not isinstance(value, (list, tuple, deque, dict)):
        raise NotPlainError
    if len(value) > LONGEST:
        return _frozen_long(value, depth)
    if isinstance(value, dict):
        if not all(is_scalar(key) for key in value):
            raise NotPlainError
        return {key: frozen(item, depth + 1) for key, item in value.items()}
    items = [frozen(item, depth + 1) for item in value]
    if type(value) is tuple:
        return tuple(items)
    if isinstance(value, tuple):
        # A named tuple could not be made again.
        return _summary(_shortened(repr(value)))
    return items


def is_summarized(value: Any) -> bool:
    """Whether a frozen value has a part that could not be kept."""
    if isinstance(value, dict):
        return list(value) == [SUMMARIZED] or any(is_summarized(v) for v in value.values())
    return isinstance(value, (list, tuple)) and any(is_summarized(item) for item in value)


def equal(a: Any, b: Any) -> bool:
    """Whether two frozen values are the same, to the bit."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return (
            isinstance(a, np.ndarray)
            and isinstance(b, np.ndarray)
            and (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        same = isinstance(a, list) == isinstance(b, list) and len(a) == len(b)
        return same and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return type(a) is type(b) and bool(a == b)


def text(value: Any) -> str:
    """Return a value as short text; Keras's description of an object as a call."""
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"an array {value.dtype.name} {list(value.shape)}"
    if isinstance(value, dict) and list(value) == [SUMMARIZED]:
        return str(value[SUMMARIZED])
    if isinstance(value, dict) and {"class_name", "config"} <= value.keys():
        value = _described(value["class_name"], value["config"])
    shown = repr(value.item() if isinstance(value, np.generic) else value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[:_LONGEST_TEXT]}… ({zlib.crc32(text.encode()):08x})"


class _Call(str):
    """Text that is shown without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _described(name: Any, config: Any) -> _Call:
    if not isinstance(config, dict):
        return _Call(config)  # a function
    return _Call(f"{name}({', '.join(f'{key}={text(item)}' for key, item in config.items())})")


def _frozen_array(value: Any) -> Any:
    try:
        array = np.asarray(value)
    except Exception as error:  # a symbolic tensor, or a tracer
        raise NotPlainError from error
    if array.dtype.hasobject:
        raise NotPlainError
    if array.nbytes <= LARGEST_BYTES:
        return np.array(array, copy=True, order="C")
    flat = array.reshape(-1) if array.flags.c_contiguous else array.flat  # no copy
    sample = np.ascontiguousarray(flat[:: max(1, array.size // _SAMPLE)])
    code = zlib.crc32(sample.tobytes())
    return _summary(f"an array {array.dtype.name} {list(array.shape)} ({code:08x})")


def _frozen_set(value: Set[Any]) -> dict[str, str]:
    if len(value) > LONGEST:  # in another order in each process
        return _summary(f"{type(value).__name__} of {len(value)} items")
    if not all(is_scalar(item) or isinstance(item, VALUES) for item in value):
        raise NotPlainError  # its text may have an address
    return _summary(_shortened(f"{{{', '.join(sorted(map(repr, value)))}}}"))


def _frozen_long(value: Any, depth: int) -> dict[str, str]:
    items = value.values() if isinstance(value, dict) else value
    sample = [frozen(item, depth + 1) for item in islice(items, 32)]
    code = zlib.crc32(repr(sample).encode())
    return _summary(f"{type(value).__name__.lower()} of {len(value)} items ({code:08x})")
