"""Packs nested plain values and arrays into JSON and a set of named arrays (docs/format.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np

from mlflow_ckpt._format.dtypes import dtype_named

Arrays = MutableMapping[str, np.ndarray[Any, Any]]
_ARRAY, _SCALAR, _FLOAT, _TUPLE, _ITEMS = "$array", "$scalar", "$float", "$tuple", "$items"
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class UnpackableError(TypeError):
    """A value that is neither plain nor an array.

    Attributes:
        path: Its path in the packed value, such as `best/0`.
    """

    def __init__(self, path: str, value: Any) -> None:
        super().__init__(f"{path} is a {type(value).__name__}")
        self.path = path


def pack(value: Any, path: str, arrays: Arrays, *, copy: bool = True) -> Any:
    """Return a value as JSON types, with its arrays moved into `arrays`.

    Args:
        value: None, bool, int, float, str, NumPy scalars and arrays, and lists, tuples and
            dictionaries of them.
        path: Path of the value, from which its arrays get their names.
        arrays: Receives the arrays.
        copy: Whether to copy the arrays; if not, they must not be modified later.

    Raises:
        UnpackableError: If it contains a value of another type.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic):
        return {_SCALAR: _store(np.asarray(value), path, arrays, copy)}
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: str(value)}
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise UnpackableError(path, value)
        return {_ARRAY: _store(value, path, arrays, copy)}
    if isinstance(value, (list, tuple)):
        packed = [pack(item, f"{path}/{i}", arrays, copy=copy) for i, item in enumerate(value)]
        return packed if isinstance(value, list) else {_TUPLE: packed}
    if isinstance(value, Mapping):
        items = [
            [pack(key, f"{path}/key", arrays), pack(item, f"{path}/{key}", arrays, copy=copy)]
            for key, item in value.items()
        ]
        plain = all(isinstance(key, str) and not key.startswith("$") for key in value)
        return dict(items) if plain else {_ITEMS: items}
    raise UnpackableError(path, value)


def unpack(packed: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    """Return the value that `pack` packed.

    Raises:
        LookupError, TypeError, ValueError: If an array is missing, or it is malformed.
    """
    if isinstance(packed, list):
        return [unpack(item, arrays) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if len(packed) == 1:
        ((tag, content),) = packed.items()
        if tag in (_ARRAY, _SCALAR):
            array = _restore(content, arrays)
            return array if tag == _ARRAY else array[()]
        if tag == _FLOAT:
            return _FLOATS[content]
        if tag == _TUPLE:
            return tuple(unpack(item, arrays) for item in content)
        if tag == _ITEMS:
            return {unpack(key, arrays): unpack(item, arrays) for key, item in content}
    return {key: unpack(item, arrays) for key, item in packed.items()}


def _store(value: np.ndarray[Any, Any], path: str, arrays: Arrays, copy: bool) -> Any:
    name = path
    while name in arrays:
        name += "_"
    # NumPy's files do not support bfloat16 and the like: store their bytes and the dtype's name.
    builtin = value.dtype.isbuiltin != 2
    stored = np.array(value, copy=True, order="C") if copy else np.asarray(value, order="C")
    arrays[name] = stored if builtin else stored.view(f"u{value.dtype.itemsize}")
    return name if builtin else [name, value.dtype.name]


def _restore(content: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    if isinstance(content, str):
        return arrays[content]
    name, dtype = content
    kind = dtype_named(dtype)
    if kind is None:
        raise ValueError(f"unknown dtype {dtype!r}")
    return arrays[name].view(kind)
