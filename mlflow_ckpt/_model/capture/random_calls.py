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

from mlflow_ckpt._model.capture.code_origin import is_of_framework, package_of
from mlflow_ckpt._model.capture.references_in_code import OUTSIDE_STEPS, names_in
from mlflow_ckpt._model.capture.structure import LONGEST
from mlflow_ckpt._model.keras_private import initializer_seeds

PYTHON, NUMPY, TENSORFLOW = "Python's random", "NumPy's random", "TensorFlow"
_BASES = (keras.layers.Layer, keras.Model, keras.losses.Loss, keras.metrics.Metric)
# These run Python code in every step, although the step is compiled.
_ESCAPES = frozenset(["numpy_function", "py_function", "pure_callback", "io_callback"])
# Where functions that are no plain ones keep the function that they call.
_UNDER = ("__func__", "python_function", "func", "__wrapped__")
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
        return any(id(m) in self._reached and name in names_in(m.__code__) for m in methods)


@lru_cache(maxsize=512)
def _methods(cls: Any) -> tuple[FunctionType, ...]:
    """Return the functions of a class, and of its parents up to Keras's base classes."""
    found: dict[str, FunctionType] = {}
    for parent in cls.__mro__:
        if parent in _BASES or parent is object or parent.__module__ in _BASE_MODULES:
            continue
        for name, value in vars(parent).items():
            function = _plain(getattr(value, "fget", value))
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
                waiting += [name for name in names_in(method.__code__) if name in by_name]
    return reached


@lru_cache(maxsize=4096)
def _draws_of(function: FunctionType) -> tuple[tuple[str, str, bool], ...]:
    """Return the random functions that a function calls, also through others of the user."""
    return tuple(dict.fromkeys(_draws(function, set())))


def _draws(function: FunctionType, seen: set[int]) -> Iterator[tuple[str, str, bool]]:
    code = function.__code__
    if id(function) in seen or not (names_in(code) or code.co_freevars):
        return
    seen.add(id(function))
    known = {**vars(builtins), **function.__globals__, **_closure(function)}
    for inner_code, escapes in _codes(code):
        passed = False
        for chain, start in _chains(inner_code, known):
            value = _follow(start, chain[1:])
            owner = _owner(value)
            escaping, passed = passed, chain[-1] in _ESCAPES
            if escaping and owner != TENSORFLOW:
                continue  # the function that is called in every step
            seeded = any(isinstance(c, tuple) and "seed" in c for c in inner_code.co_consts)
            if seeded and initializer_seeds.draws_a_seed(value):
                continue
            if owner is not None and not (escapes and owner != TENSORFLOW):
                yield owner, ".".join(chain), seeded
            for inner in _functions_in(start if value is None else value):
                yield from _draws(inner, seen)


def _functions_in(value: Any) -> Iterator[FunctionType]:
    """Yield the user's functions that a value is, or that a container of the script holds."""
    if isinstance(value, (dict, list, tuple)):
        if len(value) > LONGEST:
            return  # data
        inside = value.values() if isinstance(value, dict) else value
        found = [_plain(item) for item in inside]
    else:
        found = [_plain(value)]
    for function in found:
        if isinstance(function, FunctionType) and not is_of_framework(function):
            yield function


def _plain(function: Any) -> Any:
    """Return the function under `tf.function`, a partial function, a method or a decorator."""
    for _ in range(8):
        if isinstance(function, (FunctionType, ModuleType, type)):
            break
        inside = (getattr(function, name, None) for name in _UNDER)
        inner = next((item for item in inside if callable(item)), None)
        if inner is None:
            break
        function = inner
    return function


def _closure(function: FunctionType) -> dict[str, Any]:
    found = {}
    cells: Iterable[Any] = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # not assigned yet
    return found


def _codes(code: CodeType, escapes: bool = False) -> Iterator[tuple[CodeType, bool]]:
    """Yield a code and those of the functions in it, and whether they may run in every step."""
    escapes = escapes or bool(_ESCAPES & set(code.co_names))
    yield code, escapes
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _codes(const, escapes)


def _chains(code: CodeType, known: Mapping[str, Any]) -> Iterator[tuple[list[str], Any]]:
    """Yield names such as `tf.random.normal`, and the value of the first one."""
    imported: dict[str, Any] = {}
    chain: list[str] = []
    start: Any = None
    module = imports = None
    for instruction in dis.get_instructions(code):
        operation, name = instruction.opname, str(instruction.argval)
        if operation in ("LOAD_ATTR", "LOAD_METHOD") and chain:
            chain.append(name)
            continue
        if chain:
            yield chain, start
        chain = []
        if operation == "IMPORT_NAME":
            module, imports = sys.modules.get(name), sys.modules.get(name.partition(".")[0])
        elif operation == "IMPORT_FROM":
            imports = getattr(module, name, None)
        elif operation.startswith("STORE_FAST") and imports is not None:
            imported[name], imports = imports, None
        elif operation.startswith("LOAD_FAST") and name in imported:
            chain, start = [name], imported[name]
        elif operation in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF") and name in known:
            chain, start = [name], known[name]
    if chain:
        yield chain, start


def _follow(value: Any, names: Iterable[str]) -> Any:
    """Return an attribute of a module, of its modules, of a generator or an object in it."""
    for name in names:
        if not isinstance(value, (ModuleType, random.Random, np.random.RandomState)):
            return _method(value, name)
        value = getattr(value, name, None)
    return value


def _method(value: Any, name: str) -> FunctionType | None:
    """Return a method that the user wrote, of an object or class of the script."""
    function = _plain(getattr(value if isinstance(value, type) else type(value), name, None))
    is_of_user = isinstance(function, FunctionType) and not is_of_framework(function)
    return function if is_of_user else None


def _owner(function: Any) -> str | None:
    """Return whose generator a function draws from, unless it is part of the model's state."""
    if initializer_seeds.draws_a_seed(function):
        return PYTHON
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
