"""Summarizes what Python code refers to and callbacks hold, to notice that it changed."""

from __future__ import annotations

import inspect
import sys
import sysconfig
import zlib
from collections.abc import Collection, Hashable, Iterator, Mapping, Set
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.capture import random_generators, structure
from mlflow_ckpt._model.capture.random_calls import OUTSIDE_STEPS

# Values that are looked at in a container or an object, in all, and objects within objects.
_MOST_ITEMS, _MOST_IN_ALL, _DEPTH = 1000, 20_000, 6
# Bytes of an array that are looked at completely; of a larger one, as many values.
_MOST_BYTES = 1 << 20
# What a training keeps elsewhere.
_OF_KERAS = (
    keras.Layer,
    keras.optimizers.Optimizer,
    keras.callbacks.Callback,
    keras.callbacks.CallbackList,
)
_PLAIN = (bool, int, float, complex, str, bytes, np.generic)
_UNSEEN = "unseen"


class Summarizer:
    """Summarizes values: two summaries are equal unless the values changed.

    Args:
        saved: Ids of objects that are saved elsewhere, and whose changes are of no interest.
    """

    def __init__(self, saved: Collection[int] = ()) -> None:
        self._saved = saved
        self._left = _MOST_IN_ALL

    def of_value(self, value: Any, depth: int = _DEPTH) -> Hashable:
        """Summarize a value; what libraries' objects hold is not looked at."""
        self._left -= 1
        if value is None or isinstance(value, _PLAIN):
            return repr(value)
        if id(value) in self._saved or self._left < 0:
            return _UNSEEN
        if structure.is_variable(value):
            return _of_array(np.asarray(keras.ops.convert_to_numpy(value)))
        if isinstance(value, np.ndarray):
            return _of_array(value)
        if structure.is_generator(value):
            return repr(random_generators.state_of(value))
        if isinstance(value, keras.random.SeedGenerator):
            return self.of_value(value.state, depth)
        if depth == 0 or isinstance(value, _OF_KERAS):
            return self._of_others(value)
        if isinstance(value, (Mapping, Set, list, tuple)):
            return self._of_container(value, depth - 1)
        if is_of_user(type(value).__module__) and not inspect.isroutine(value):
            return tuple((name, self.of_value(item, depth - 1)) for name, item in _members(value))
        return _UNSEEN

    def of_function(self, function: FunctionType) -> dict[str, Hashable]:
        """Summarize the variables that a function refers to, also through others of the user.

        Returns:
            Summaries by the name of the variable, of a closure or of its module.
        """
        summaries: dict[str, Hashable] = {}
        waiting, seen = [function], {id(function)}
        while waiting:
            for name, value in _referred(waiting.pop()):
                if isinstance(value, FunctionType) and id(value) not in seen:
                    seen.add(id(value))
                    waiting.append(value)
                elif _is_data(value):
                    summaries[name] = self.of_value(value)
        return summaries

    def of_class(self, cls: Any) -> dict[str, Hashable]:
        """Summarize the attributes of the user's classes that a class inherits from, and its own.

        Returns:
            Summaries by the attribute's name.
        """
        return {
            name: self.of_value(value)
            for base in reversed(cls.__mro__)
            if is_of_user(base.__module__)
            for name, value in vars(base).items()
            if not name.startswith("__") and _is_data(value) and not hasattr(value, "__get__")
        }

    def _of_others(self, value: Any) -> Hashable:
        """Summarize the variables of a model, layer or optimizer that are not saved elsewhere."""
        variables = getattr(value, "variables", None)
        own = [v for v in variables or () if id(v) not in self._saved]
        return tuple(self.of_value(variable) for variable in own) or _UNSEEN

    def _of_container(self, value: Any, depth: int) -> Hashable:
        if isinstance(value, Mapping):
            items = islice(value.items(), _MOST_ITEMS)
            return len(value), tuple((repr(key), self.of_value(item, depth)) for key, item in items)
        if isinstance(value, Set):
            return len(value), tuple(sorted(repr(item) for item in islice(value, _MOST_ITEMS)))
        # Appending changes the length; what is in place may change anywhere.
        shown = value if len(value) <= _MOST_ITEMS else [*value[:10], *value[-_MOST_ITEMS:]]
        return len(value), tuple(self.of_value(item, depth) for item in shown)


@lru_cache(maxsize=512)
def methods_of_user(cls: Any) -> Mapping[str, FunctionType]:
    """Return the methods that a class has from the user, by name, without constructors.

    If it inherits from a library's class, only those that the library's methods may lead to.
    """
    methods = {
        name: function
        for base in reversed(cls.__mro__)
        if is_of_user(base.__module__)
        for name, function in _functions(base)
        if name not in OUTSIDE_STEPS
    }
    inherited = next(base for base in cls.__mro__ if not is_of_user(base.__module__))
    if inherited is object:
        return methods
    reached: dict[str, FunctionType] = {}
    waiting = list(methods.keys() & dir(inherited))
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached[name] = methods[name]
            waiting += methods.keys() & _names(methods[name].__code__)
    return reached


@lru_cache(maxsize=1024)
def is_of_user(module: str) -> bool:
    """Whether a module is the user's: objects of libraries change for many other reasons."""
    if module.partition(".")[0] == "mlflow_ckpt":
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module == "__main__"
    paths = sysconfig.get_paths()
    libraries = {Path(paths[name]).resolve() for name in ("stdlib", "platlib", "purelib")}
    return libraries.isdisjoint(Path(file).resolve().parents)


def _functions(base: type) -> Iterator[tuple[str, FunctionType]]:
    for name, value in vars(base).items():
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(function, FunctionType):
            yield name, function


def _referred(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what a function of the user's refers to, and what it holds, by name."""
    code = function.__code__
    if is_of_user(function.__module__):
        yield from function.__dict__.items()
        scope = function.__globals__
        yield from ((name, scope[name]) for name in sorted(_names(code)) if name in scope)
        for index, default in enumerate(function.__defaults__ or ()):
            yield f"default {index + 1}", default
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not assigned yet
            yield name, cell.cell_contents


def _is_data(value: Any) -> bool:
    return not (inspect.ismodule(value) or inspect.isclass(value) or inspect.isroutine(value))


@lru_cache(maxsize=4096)
def _names(code: CodeType) -> frozenset[str]:
    inside = (const for const in code.co_consts if isinstance(const, CodeType))
    return frozenset(code.co_names).union(*map(_names, inside))


def _of_array(array: np.ndarray[Any, Any]) -> Hashable:
    if array.dtype.hasobject:
        return array.shape, repr(array.ravel()[:_MOST_ITEMS])
    flat = array.reshape(-1)
    step = max(1, array.nbytes // _MOST_BYTES)
    data = np.ascontiguousarray(flat[::step]).view(np.uint8)
    return array.shape, array.dtype.str, zlib.crc32(data.data)


def _members(value: Any) -> list[tuple[str, Any]]:
    """Return the attributes of an object, those in slots too."""
    return list(islice(structure.attributes_of(value).items(), _MOST_ITEMS))
