"""Summarizes what Python code refers to and callbacks hold, to notice that it changed."""

from __future__ import annotations

import argparse
import inspect
import itertools
import zlib
from collections import UserDict
from collections.abc import Collection, Hashable, Iterable
from functools import partial
from itertools import islice
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.capture import plain, random_generators, structure
from mlflow_ckpt._model.capture.code_origin import is_of_user
from mlflow_ckpt._model.capture.references_in_code import plain_function, referred_by

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
            for name, value in referred_by(waiting.pop(), self._saved):
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


def _is_data(value: Any) -> bool:
    return isinstance(value, (MethodType, partial)) or not (
        inspect.ismodule(value) or inspect.isclass(value) or inspect.isroutine(value)
    )


def _key(item: Any) -> str:
    """Return a description of a member of a set, without calling code of the user's."""
    known = plain.is_scalar(item) or isinstance(item, (*_TEXTS, *_PLAIN))
    return repr(item) if known else object.__repr__(item)


def _members(value: Any) -> list[tuple[str, Any]]:
    """Return the attributes of an object, those in slots too."""
    return list(islice(structure.attributes_of(value).items(), _MOST_ITEMS))
