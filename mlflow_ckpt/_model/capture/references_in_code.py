"""What functions and classes refer to, read from their code."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from mlflow_ckpt._model.capture.code_origin import is_of_user

# Not called in a training step.
OUTSIDE_STEPS = frozenset(
    ["__init__", "__new__", "build", "adapt", "get_config", "from_config", "compile", "summary"]
)
_OF_CLASS = (staticmethod, classmethod)
_GLOBAL = frozenset(["LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"])
# Modules and classes, within each other, that a name is looked for in.
_MODULES = 3


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
            waiting += methods.keys() & names_in(methods[name].__code__)
    return reached


def plain_function(value: Any) -> FunctionType | None:
    """Return the function that a value is, or that a method or partial function calls."""
    while isinstance(value, (MethodType, partial)):
        value = value.__func__ if isinstance(value, MethodType) else value.func
    return value if isinstance(value, FunctionType) else None


def names_in_libraries(cls: Any) -> frozenset[str]:
    """Return the names that the code which a class inherits from libraries refers to."""
    bases = [base for base in cls.__mro__ if not is_of_user(base.__module__)]
    functions = (function for base in bases for _, function in _functions(base))
    return frozenset().union(*(names_in(function.__code__) for function in functions))


def referred_by(function: FunctionType, known: Collection[int]) -> Iterator[tuple[str, Any]]:
    """Yield what a function of the user's refers to, and what it holds, by name."""
    code = function.__code__
    if is_of_user(function.__module__):
        yield from function.__dict__.items()
        scope = function.__globals__
        for name in sorted(_globals(code)):
            if name in scope:
                yield from _inside(name, scope[name], names_in(code), known)
        for index, default in enumerate(function.__defaults__ or ()):
            yield f"default {index + 1}", default
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not assigned yet
            yield from _inside(name, cell.cell_contents, names_in(code), known)


@lru_cache(maxsize=4096)
def names_in(code: CodeType) -> frozenset[str]:
    """Return the names of variables and attributes in a code, and in the functions in it."""
    inside = (const for const in code.co_consts if isinstance(const, CodeType))
    return frozenset(code.co_names).union(*map(names_in, inside))


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


def _functions(base: type) -> Iterator[tuple[str, FunctionType]]:
    for name, value in vars(base).items():
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(function, FunctionType):
            yield name, function


@lru_cache(maxsize=4096)
def _globals(code: CodeType) -> frozenset[str]:
    """Return the names of variables only, as an attribute may have the name of a variable."""
    inside = (const for const in code.co_consts if isinstance(const, CodeType))
    own = {str(i.argval) for i in dis.get_instructions(code) if i.opname in _GLOBAL}
    return frozenset(own).union(*map(_globals, inside))
