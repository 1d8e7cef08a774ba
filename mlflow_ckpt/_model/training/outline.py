"""Summarizes what a callback holds, to notice that it changed."""

from __future__ import annotations

import inspect
import random
import sys
import sysconfig
import zlib
from collections.abc import Hashable, Iterable, Mapping, Set
from contextlib import suppress
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
    """Summarize a callback's attributes, and the variables that its code refers to.

    Args:
        callback: The callback.
        ignored: Names of attributes to leave out.
    """
    left_out = {*_KERAS_OWN, *ignored}
    summary: dict[str, Hashable] = {}
    for name, value in vars(callback).items():
        if name not in left_out and not inspect.isfunction(value):
            summary[name] = _summary(value, _DEPTH)
    return summary | variables_of_code(callback)


def variables_of_code(callback: keras.callbacks.Callback) -> dict[str, Hashable]:
    """Summarize the variables that a callback's code refers to: of closures, and of modules.

    Args:
        callback: The callback, whose functions are attributes, or methods that the user wrote.
    """
    functions = {name: f for name, f in vars(callback).items() if inspect.isfunction(f)}
    for base in type(callback).__mro__:
        if _is_of_user(base.__module__):
            methods = {n: f for n, f in vars(base).items() if inspect.isfunction(f)}
            functions = methods | functions
    return {
        f"{name}: {variable}": summary
        for name, function in functions.items()
        for variable, summary in _variables(function).items()
    }


def _variables(function: Any) -> dict[str, Hashable]:
    code = function.__code__
    found: dict[str, Any] = {}
    if _is_of_user(function.__module__):
        found = {n: function.__globals__[n] for n in code.co_names if n in function.__globals__}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not assigned yet
            found[name] = cell.cell_contents
    return {
        name: _summary(value, _DEPTH)
        for name, value in found.items()
        if not (inspect.ismodule(value) or inspect.isclass(value) or inspect.isroutine(value))
    }


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
    if module.partition(".")[0] == "mlflow_ckpt":
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module == "__main__"
    paths = sysconfig.get_paths()
    libraries = {Path(paths[name]).resolve() for name in ("stdlib", "platlib", "purelib")}
    return libraries.isdisjoint(Path(file).resolve().parents)
