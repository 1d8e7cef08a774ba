"""Finds calls of random functions whose state no file can hold, in the code of layers and losses.

A function that draws from Python's, NumPy's or TensorFlow's own generators is exact if it runs
step by step, as those generators are restored. In a compiled step it is not: Python and NumPy draw
only while the step is traced, and TensorFlow's operations keep a state of their own.
"""

from __future__ import annotations

import builtins
import dis
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.capture.structure import package_of

PYTHON, NUMPY, TENSORFLOW = "Python's random", "NumPy's random", "TensorFlow"
_BASES = (keras.layers.Layer, keras.Model, keras.losses.Loss, keras.metrics.Metric)
# Not called in a training step.
OUTSIDE_STEPS = frozenset(
    ["__init__", "__new__", "build", "adapt", "get_config", "from_config", "compile", "summary"]
)
# These run Python code in every step, although the step is compiled.
_ESCAPES = frozenset(["numpy_function", "py_function", "pure_callback", "io_callback"])
_DRAWING = ("dropout", "shuffle", "multinomial", "categorical")


class Calls:
    """The random functions that objects and functions call in a training step.

    Args:
        objects: Objects by path.
        functions: Functions of the user by path.
    """

    def __init__(self, objects: Mapping[str, Any], functions: Mapping[str, FunctionType]) -> None:
        self._methods: dict[str, list[FunctionType]] = {}
        by_name: dict[str, list[FunctionType]] = defaultdict(list)
        for path, item in objects.items():
            kind: Any = type(item)
            self._methods[path] = list(_methods(kind))
            for method in self._methods[path]:
                by_name[method.__name__].append(method)
        self._reached = _reached(by_name)
        for path, function in functions.items():
            self._methods[path] = [function]
            self._reached.add(id(function))

    def draws(self) -> Iterator[tuple[str, str, str, bool]]:
        """Yield the path of an object, whose generator it uses, how, and whether with a seed."""
        for path, methods in self._methods.items():
            found: dict[tuple[str, str], bool] = {}
            for method in methods:
                if id(method) in self._reached:
                    for owner, call, seeded in _draws_of(method):
                        found[owner, call] = found.get((owner, call), False) or seeded
            for (owner, call), seeded in found.items():
                yield path, owner, call, seeded

    def reads(self, path: str, name: str) -> bool:
        """Whether the code of an object, or of the model, reads an attribute of this name."""
        methods = [*self._methods.get(path, []), *self._methods.get("", [])]
        return any(id(m) in self._reached and name in _names(m.__code__) for m in methods)


@lru_cache(maxsize=512)
def _methods(cls: Any) -> tuple[FunctionType, ...]:
    """Return the functions of a class, and of its parents up to Keras's base classes."""
    found: dict[str, FunctionType] = {}
    for parent in cls.__mro__:
        if parent in _BASES or parent is object or parent.__module__ in _BASE_MODULES:
            continue
        for name, value in vars(parent).items():
            function = getattr(value, "__func__", getattr(value, "fget", value))
            if isinstance(function, FunctionType) and name not in OUTSIDE_STEPS:
                found.setdefault(name, function)
    return tuple(found.values())


_BASE_MODULES = frozenset(
    parent.__module__
    for base in (*_BASES, keras.Sequential, keras.optimizers.Optimizer)
    for parent in base.__mro__
)


def _reached(by_name: Mapping[str, list[FunctionType]]) -> set[int]:
    """Return the ids of the methods that Keras's own methods lead to, judged by their names."""
    names = {name for base in (*_BASES, keras.optimizers.Optimizer) for name in dir(base)}
    reached: set[int] = set()
    waiting = [name for name in by_name if name in names]
    while waiting:
        for method in by_name[waiting.pop()]:
            if id(method) not in reached:
                reached.add(id(method))
                waiting += [name for name in _names(method.__code__) if name in by_name]
    return reached


@lru_cache(maxsize=4096)
def _names(code: CodeType) -> frozenset[str]:
    inside = (const for const in code.co_consts if isinstance(const, CodeType))
    return frozenset(code.co_names).union(*map(_names, inside))


@lru_cache(maxsize=4096)
def _draws_of(function: FunctionType) -> tuple[tuple[str, str, bool], ...]:
    """Return the random functions that a function calls, also through others of the user."""
    return tuple(dict.fromkeys(_draws(function, set())))


def _draws(function: FunctionType, seen: set[int]) -> Iterator[tuple[str, str, bool]]:
    if id(function) in seen or not _names(function.__code__):
        return
    seen.add(id(function))
    known = {**vars(builtins), **function.__globals__, **_closure(function)}
    for code in _codes(function.__code__):
        escapes = bool(_ESCAPES & _names(code))
        for chain, start in _chains(code, known):
            value = _follow(start, chain[1:])
            owner = _owner(value)
            if owner is not None and not (escapes and owner != TENSORFLOW):
                seeded = any(isinstance(c, tuple) and "seed" in c for c in code.co_consts)
                yield owner, ".".join(chain), seeded
            elif isinstance(value, FunctionType) and _is_of_user(value):
                yield from _draws(value, seen)


def _closure(function: FunctionType) -> dict[str, Any]:
    found = {}
    cells: Iterable[Any] = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # not assigned yet
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _codes(const)


def _chains(code: CodeType, known: Mapping[str, Any]) -> Iterator[tuple[list[str], Any]]:
    """Yield names such as `tf.random.normal`, and the value of the first one."""
    imported: dict[str, str] = {}
    chain: list[str] = []
    start: Any = None
    last_import = ""
    for instruction in dis.get_instructions(code):
        operation, name = instruction.opname, str(instruction.argval)
        if operation in ("LOAD_ATTR", "LOAD_METHOD") and chain:
            chain.append(name)
            continue
        if chain:
            yield chain, start
        chain = []
        if operation == "IMPORT_NAME":
            last_import = name
        elif operation.startswith("STORE_FAST") and last_import:
            imported[name], last_import = last_import, ""
        elif operation.startswith("LOAD_FAST") and name in imported:
            chain, start = [name], sys.modules.get(imported[name])
        elif operation in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF") and name in known:
            chain, start = [name], known[name]
    if chain:
        yield chain, start


def _follow(value: Any, names: Iterable[str]) -> Any:
    """Return an attribute of a module, of its modules, or of a generator in it."""
    for name in names:
        if not isinstance(value, (ModuleType, random.Random, np.random.RandomState)):
            return None
        value = getattr(value, name, None)
    return value


def _owner(function: Any) -> str | None:
    """Return whose generator a function draws from, unless it is part of the model's state."""
    if isinstance(function, (type, ModuleType)) or not callable(function):
        return None
    bound_to = getattr(function, "__self__", None)
    if bound_to is getattr(random, "_inst", random):
        return PYTHON
    if isinstance(bound_to, np.random.RandomState) and bound_to is _GLOBAL_NUMPY:
        return NUMPY
    name = getattr(function, "__name__", "")
    if package_of(function) == "tensorflow" and "stateless" not in name:
        module = function.__module__
        draws = module.endswith(".random_ops") or name.startswith(("random_", *_DRAWING))
        return TENSORFLOW if draws else None
    return None


_GLOBAL_NUMPY = getattr(np.random.normal, "__self__", None)


def _is_of_user(function: FunctionType) -> bool:
    return package_of(function) not in ("keras", "tensorflow", "jax", "torch", "numpy", "random")
