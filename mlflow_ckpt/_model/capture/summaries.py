"""Summarizes what Python code refers to and callbacks hold, to notice that it changed."""

from __future__ import annotations

import argparse
import dis
import inspect
import itertools
import sys
import sysconfig
import zlib
from collections import UserDict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from types import CodeType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.capture import plain, random_generators, structure
from mlflow_ckpt._model.capture.random_calls import OUTSIDE_STEPS

# Values that are looked at in a container or an object, in all, and objects within objects.
_MOST_ITEMS, _MOST_IN_ALL, _DEPTH = 1000, 20_000, 6
# Bytes of an array that are looked at completely, and in all; of larger ones, a sample.
_MOST_BYTES, _MOST_BYTES_IN_ALL, _LEAST_BYTES = 1 << 20, 32 << 20, 4096
# What a training keeps elsewhere.
_OF_KERAS = (
    keras.Layer,
    keras.optimizers.Optimizer,
    keras.callbacks.Callback,
    keras.callbacks.CallbackList,
)
_TEXTS = (str, bytes)
_PLAIN = (bool, int, float, np.generic, *plain.VALUES, itertools.count)
# Other mappings read files, or what other threads change.
_CONTAINERS = (*structure.CONTAINERS, set, frozenset, UserDict)
_NAMESPACES = (argparse.Namespace, SimpleNamespace)
_OF_CLASS = (staticmethod, classmethod)
_GLOBAL = frozenset(["LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"])
# Modules and classes, within each other, that a name is looked for in.
_MODULES = 3
_UNSEEN = "unseen"


class Summarizer:
    """Summarizes values at one moment: two summaries are equal unless the values changed.

    Args:
        saved: Ids of objects that are saved elsewhere, and whose changes are of no interest.
    """

    def __init__(self, saved: Collection[int] = ()) -> None:
        self._saved = saved
        self._left, self._bytes_left = _MOST_IN_ALL, _MOST_BYTES_IN_ALL
        self._known: dict[int, Hashable] = {}

    def of_root(self, value: Any) -> Hashable:
        """Summarize a value that several functions may refer to, once."""
        if id(value) not in self._known:
            self._left, self._bytes_left = _MOST_IN_ALL, _MOST_BYTES_IN_ALL
            self._known[id(value)] = self.of_value(value)
        return self._known[id(value)]

    def of_value(self, value: Any, depth: int = _DEPTH) -> Hashable:
        """Summarize a value; what libraries' objects hold is not looked at."""
        self._left -= 1
        if isinstance(value, _TEXTS):
            return type(value), value  # which cannot change, and may be long
        if value is None or isinstance(value, _PLAIN):
            return repr(value)
        if id(value) in self._saved or self._left < 0:
            return _UNSEEN
        if structure.is_variable(value):
            return self._of_array(np.asarray(keras.ops.convert_to_numpy(value)))
        if structure.is_array(value):
            return self._of_tensor(value)
        if structure.is_generator(value):
            return repr(random_generators.state_of(value))
        if isinstance(value, keras.random.SeedGenerator):
            return self.of_value(value.state, depth)
        if depth == 0 or isinstance(value, _OF_KERAS):
            return self._of_others(value)
        if isinstance(value, _CONTAINERS):
            return self._of_container(value, depth - 1)
        members: Iterable[tuple[str, Any]] = ()
        if isinstance(value, structure.CALLABLES):
            members = structure.held_by_callable(value).items()
        elif isinstance(value, _NAMESPACES) or (
            is_of_user(type(value).__module__) and not inspect.isroutine(value)
        ):
            members = _members(value)
        return tuple((name, self.of_value(item, depth - 1)) for name, item in members) or _UNSEEN

    def of_function(self, function: FunctionType) -> dict[str, Hashable]:
        """Summarize the variables that a function refers to, also through others of the user.

        Returns:
            Summaries by the name of the variable, of a closure or of its module.
        """
        # Variables of different modules may have the same name.
        summaries: dict[str, tuple[Hashable, ...]] = {}
        waiting, seen = [function], {("", id(function))}
        while waiting:
            for name, value in _referred(waiting.pop(), self._saved):
                called = plain_function(value)
                if called is not None and ("", id(called)) not in seen:
                    seen.add(("", id(called)))
                    waiting.append(called)
                if _is_data(value) and (name, id(value)) not in seen:
                    seen.add((name, id(value)))
                    summaries[name] = (*summaries.get(name, ()), self.of_root(value))
        return dict(summaries)

    def of_class(self, cls: Any) -> dict[str, Hashable]:
        """Summarize the attributes of the user's classes that a class inherits from, and its own.

        Returns:
            Summaries by the attribute's name.
        """
        return {
            name: self.of_root(value)
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
        # Listed at once, as another thread may change it.
        if isinstance(value, (dict, UserDict)):
            items = list(islice(value.items(), _MOST_ITEMS))
            return len(value), tuple((_key(key), self.of_value(item, depth)) for key, item in items)
        if isinstance(value, (set, frozenset)):
            return len(value), tuple(sorted(map(_key, list(islice(value, _MOST_ITEMS)))))
        # Appending changes the length; what is in place may change anywhere.
        start = max(10, len(value) - _MOST_ITEMS)
        shown = [*islice(value, 10), *islice(value, start, None)]
        return len(value), tuple(self.of_value(item, depth) for item in shown)

    def _of_tensor(self, value: Any) -> Hashable:
        try:
            array = np.asarray(value)
        except (NotImplementedError, RuntimeError, TypeError):
            return _UNSEEN  # symbolic, or deleted by JAX
        return self._of_array(array)

    def _of_array(self, array: np.ndarray[Any, Any]) -> Hashable:
        if isinstance(array, np.memmap):
            return array.shape, array.dtype.str  # a file of any size
        flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
        if array.dtype.hasobject:
            return array.shape, tuple(map(_key, flat[:_MOST_ITEMS]))
        limit = min(_MOST_BYTES, max(self._bytes_left, _LEAST_BYTES))
        data = np.ascontiguousarray(flat[:: max(1, array.nbytes // limit)]).view(np.uint8)
        self._bytes_left -= data.nbytes
        return array.shape, array.dtype.str, zlib.crc32(data.data)


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
def is_of_user(module: str | None) -> bool:
    """Whether a module is the user's: objects of libraries change for many other reasons."""
    if module is None or module.partition(".")[0] == "mlflow_ckpt":
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module == "__main__"
    paths = sysconfig.get_paths()
    libraries = {Path(paths[name]).resolve() for name in ("stdlib", "platlib", "purelib")}
    parents = Path(file).resolve().parents
    # Also those that the user or the operating system installed elsewhere.
    installed = any(path.name in ("site-packages", "dist-packages") for path in parents)
    return not installed and libraries.isdisjoint(parents)


def _functions(base: type) -> Iterator[tuple[str, FunctionType]]:
    for name, value in vars(base).items():
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(function, FunctionType):
            yield name, function


def plain_function(value: Any) -> FunctionType | None:
    """Return the function that a value is, or that a method or partial function calls."""
    while isinstance(value, (MethodType, partial)):
        value = value.__func__ if isinstance(value, MethodType) else value.func
    return value if isinstance(value, FunctionType) else None


def names_in_libraries(cls: Any) -> frozenset[str]:
    """Return the names that the code which a class inherits from libraries refers to."""
    bases = [base for base in cls.__mro__ if not is_of_user(base.__module__)]
    functions = (function for base in bases for _, function in _functions(base))
    return frozenset().union(*(_names(function.__code__) for function in functions))


def _referred(function: FunctionType, known: Collection[int]) -> Iterator[tuple[str, Any]]:
    """Yield what a function of the user's refers to, and what it holds, by name."""
    code = function.__code__
    if is_of_user(function.__module__):
        yield from function.__dict__.items()
        scope = function.__globals__
        for name in sorted(_globals(code)):
            if name in scope:
                yield from _inside(name, scope[name], _names(code), known)
        for index, default in enumerate(function.__defaults__ or ()):
            yield f"default {index + 1}", default
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not assigned yet
            yield from _inside(name, cell.cell_contents, _names(code), known)


def _inside(
    name: str, value: Any, names: frozenset[str], known: Collection[int], depth: int = _MODULES
) -> Iterator[tuple[str, Any]]:
    """Yield a value; of a module or class of the user's, attributes that the code may refer to."""
    is_module = inspect.ismodule(value)
    if not (is_module or inspect.isclass(value)):
        yield name, value.__func__ if isinstance(value, _OF_CLASS) else value
        return
    module = value.__name__ if is_module else value.__module__
    if depth and id(value) not in known and is_of_user(module):
        for attribute in sorted(names & vars(value).keys()):
            inner = vars(value)[attribute]
            if is_module or not isinstance(inner, FunctionType):  # a method of some object
                yield from _inside(f"{name}.{attribute}", inner, names, known, depth - 1)


def _is_data(value: Any) -> bool:
    return isinstance(value, (MethodType, partial)) or not (
        inspect.ismodule(value) or inspect.isclass(value) or inspect.isroutine(value)
    )


@lru_cache(maxsize=4096)
def _names(code: CodeType) -> frozenset[str]:
    """Return the names of variables and attributes in a code, and in the functions in it."""
    inside = (const for const in code.co_consts if isinstance(const, CodeType))
    return frozenset(code.co_names).union(*map(_names, inside))


@lru_cache(maxsize=4096)
def _globals(code: CodeType) -> frozenset[str]:
    """Return the names of variables only, as an attribute may have the name of a variable."""
    inside = (const for const in code.co_consts if isinstance(const, CodeType))
    own = {str(i.argval) for i in dis.get_instructions(code) if i.opname in _GLOBAL}
    return frozenset(own).union(*map(_globals, inside))


def _key(item: Any) -> str:
    """Return a description of a member of a set, without calling code of the user's."""
    known = plain.is_scalar(item) or isinstance(item, (*_TEXTS, *_PLAIN))
    return repr(item) if known else object.__repr__(item)


def _members(value: Any) -> list[tuple[str, Any]]:
    """Return the attributes of an object, those in slots too."""
    return list(islice(structure.attributes_of(value).items(), _MOST_ITEMS))
