"""Summarizes what a callback holds, to notice that it changed."""

from __future__ import annotations

import inspect
import random
import sys
import sysconfig
import zlib
from collections.abc import Hashable, Iterable, Mapping, Set
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np

# Attributes that Keras sets.
_KERAS_OWN = frozenset({"model", "_model", "params", "validation_data"})
# Values that are looked at in a container or an object, and objects within objects.
_MOST_ITEMS, _DEPTH = 1000, 6
# Bytes of an array that are looked at completely; of a larger one, as many values.
_MOST_BYTES = 1 << 20
# What a training keeps elsewhere.
_OF_KERAS = (
    keras.Layer,
    keras.optimizers.Optimizer,
    keras.callbacks.Callback,
    keras.callbacks.CallbackList,
)
_UNSEEN = "unseen"


def outline(callback: keras.callbacks.Callback, ignored: Iterable[str]) -> dict[str, Hashable]:
    """Summarize a callback's attributes, and what the functions among them refer to.

    Args:
        callback: The callback.
        ignored: Names of attributes to leave out.
    """
    left_out = {*_KERAS_OWN, *ignored}
    summary: dict[str, Hashable] = {}
    for name, value in vars(callback).items():
        if name in left_out:
            continue
        if inspect.isfunction(value):
            summary |= {f"{name}: {inner}": item for inner, item in _closure(value).items()}
        else:
            summary[name] = _summary(value, _DEPTH)
    return summary


def closures(callback: keras.callbacks.Callback) -> dict[str, Hashable]:
    """Summarize only what the functions among a callback's attributes refer to."""
    functions = {n: v for n, v in vars(callback).items() if inspect.isfunction(v)}
    return {
        f"{name}: {inner}": item
        for name, function in functions.items()
        for inner, item in _closure(function).items()
    }


def _closure(function: Any) -> dict[str, Hashable]:
    names = function.__code__.co_freevars
    cells = zip(names, function.__closure__ or (), strict=True)
    summary = {}
    for name, cell in cells:
        try:
            summary[name] = _summary(cell.cell_contents, _DEPTH)
        except ValueError:
            continue  # not assigned yet
    return summary


def _summary(value: Any, depth: int) -> Hashable:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
        return repr(value)
    if isinstance(value, keras.Variable):
        return _summary(np.asarray(keras.ops.convert_to_numpy(value)), depth)
    if isinstance(value, np.ndarray):
        return _of_array(value)
    if isinstance(value, random.Random):
        return hash(value.getstate())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state(legacy=False))
    if depth == 0 or isinstance(value, _OF_KERAS):
        return _UNSEEN
    if isinstance(value, Mapping):
        items = islice(value.items(), _MOST_ITEMS)
        return len(value), tuple((repr(key), _summary(item, depth - 1)) for key, item in items)
    if isinstance(value, Set):
        return len(value), tuple(sorted(repr(item) for item in islice(value, _MOST_ITEMS)))
    if isinstance(value, (list, tuple)):
        # Appending changes the length; what is in place may change anywhere.
        shown = value if len(value) <= _MOST_ITEMS else [*value[:10], *value[-_MOST_ITEMS:]]
        return len(value), tuple(_summary(item, depth - 1) for item in shown)
    if _is_of_user(type(value).__module__) and not inspect.isroutine(value):
        return tuple((name, _summary(item, depth - 1)) for name, item in _members(value))
    return _UNSEEN


def _of_array(array: np.ndarray[Any, Any]) -> Hashable:
    if array.dtype.hasobject:
        return array.shape, repr(array.ravel()[:_MOST_ITEMS])
    flat = array.reshape(-1)
    step = max(1, array.nbytes // _MOST_BYTES)
    data = np.ascontiguousarray(flat[::step]).view(np.uint8)
    return array.shape, array.dtype.str, zlib.crc32(data.data)


def _members(value: Any) -> list[tuple[str, Any]]:
    """Return the attributes of an object, those in slots too."""
    members = dict(vars(value)) if hasattr(value, "__dict__") else {}
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and name not in ("__dict__", "__weakref__"):
                members[name] = getattr(value, name)
    return list(islice(members.items(), _MOST_ITEMS))


@lru_cache(maxsize=1024)
def _is_of_user(module: str) -> bool:
    """Whether a module is the user's: objects of libraries change for many other reasons."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module == "__main__"
    paths = sysconfig.get_paths()
    libraries = {Path(paths[name]).resolve() for name in ("stdlib", "platlib", "purelib")}
    return libraries.isdisjoint(Path(file).resolve().parents)
