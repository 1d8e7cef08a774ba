"""Plain values, and arrays among them, as JSON beside a set of named arrays (docs/format.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from typing import Any

import ml_dtypes
import numpy as np

Arrays = MutableMapping[str, np.ndarray[Any, Any]]
_ARRAY, _SCALAR, _FLOAT, _TUPLE, _ITEMS = "$array", "$scalar", "$float", "$tuple", "$items"
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class UnpackableError(TypeError):
    """A value that is neither plain nor an array.

    Attributes:
        path: Where it is, such as `best/0`.
    """

    def __init__(self, path: str, value: Any) -> None:
        super().__init__(f"{path} is a {type(value).__name__}")
        self.path = path


def pack(value: Any, path: str, arrays: Arrays, *, copy: bool = True) -> Any:
    """Return a value as JSON's types, its arrays put into `arrays`.

    Args:
        value: None, bool, int, float, str, NumPy scalars and arrays, and lists, tuples and
            dictionaries of them.
        path: Where the value belongs; its arrays are named by it.
        arrays: Takes the arrays.
        copy: Whether to copy them; otherwise nobody may write to them later.

    Raises:
        UnpackableError: If there is another kind of value in it.
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
        packed = [pack(each, f"{path}/{i}", arrays, copy=copy) for i, each in enumerate(value)]
        return packed if isinstance(value, list) else {_TUPLE: packed}
    if isinstance(value, Mapping):
        items = [
            [pack(key, f"{path}/key", arrays), pack(each, f"{path}/{key}", arrays, copy=copy)]
            for key, each in value.items()
        ]
        plain = all(isinstance(key, str) and not key.startswith("$") for key in value)
        return dict(items) if plain else {_ITEMS: items}
    raise UnpackableError(path, value)


def unpack(packed: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    """Return the value that `pack` was given.

    Raises:
        KeyError: If an array is missing.
    """
    if isinstance(packed, list):
        return [unpack(each, arrays) for each in packed]
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
            return tuple(unpack(each, arrays) for each in content)
        if tag == _ITEMS:
            return {unpack(key, arrays): unpack(each, arrays) for key, each in content}
    return {key: unpack(each, arrays) for key, each in packed.items()}


def _store(value: np.ndarray[Any, Any], path: str, arrays: Arrays, copy: bool) -> Any:
    name = path
    while name in arrays:
        name += "_"
    # NumPy's files know no bfloat16 and its like: their bytes are kept, and their name.
    known = value.dtype.isbuiltin == 1
    copied = np.array(value, copy=True, order="C") if copy else np.asarray(value, order="C")
    arrays[name] = copied if known else copied.view(f"u{value.dtype.itemsize}")
    return name if known else [name, value.dtype.name]


def _restore(content: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    if isinstance(content, str):
        return arrays[content]
    name, dtype = content
    return arrays[name].view(getattr(ml_dtypes, dtype))
