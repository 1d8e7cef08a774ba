"""The user's classes and functions that a model consists of."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras

from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt._model.capture.code_origin import is_of_framework, package_of
from mlflow_ckpt._model.keras_private import compiled_model


def digests(model: keras.Model) -> dict[str, str]:
    """Return digests of the source of the user's classes and functions in a model, by name."""
    result: dict[str, str] = {}
    for item in used_by(model):
        try:
            source = inspect.getsource(item)
        except (OSError, TypeError):
            continue
        name = f"{item.__module__}.{item.__qualname__}"
        result[name] = f"sha256:{hashlib.sha256(source.encode()).hexdigest()}"
    return result


def used_by(model: keras.Model) -> list[Any]:
    """Return the user's classes and functions in a model and its compile settings."""
    found: dict[int, Any] = {}
    settings = [getattr(model, "loss", None), *compiled_model.compile_arguments(model).values()]
    items = [model, *introspection.layers_of(model), getattr(model, "optimizer", None)]
    items += [*getattr(model, "metrics", []), *keras.tree.flatten(settings)]
    for item in items:
        for candidate in (*_of(item), *(c for part in _parts(item) for c in _of(part))):
            found[id(candidate)] = candidate
    return list(found.values())


def _parts(item: Any) -> Iterator[Any]:
    """Yield what an object holds: activations, initializers, inner losses, layers in lists."""
    for value in list(vars(item).values()) if hasattr(item, "__dict__") else []:
        yield from value if isinstance(value, (list, tuple)) else [value]


def _of(item: Any) -> Iterator[Any]:
    """Yield a function, or the class of an object, unless it is a framework's."""
    candidate = item if inspect.isfunction(item) or inspect.isclass(item) else type(item)
    # Models hold objects of the standard library too, whose source takes long to find.
    if package_of(candidate) and not is_of_framework(candidate):
        yield candidate
