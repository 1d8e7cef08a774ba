"""Finds a model's optimizers, and the variables that each was built with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt._model.keras_private import capturing, optimizer_internals

# Variables by the name under which a record refers to them.
Names = Mapping[str, keras.Variable]
_CONTAINERS = (dict, list, tuple)
_Optimizer = keras.optimizers.Optimizer


def optimizers_of(model: keras.Model) -> dict[str, keras.optimizers.Optimizer]:
    """Return the optimizers that a model and its submodels hold in attributes, by path.

    A path is the same for a live model and its reloaded copy: `optimizer`, `d_optimizer`,
    `optimizers/0`, `layers/3/optimizer` for the optimizer of a compiled submodel. An optimizer that
    another wraps is part of that other.
    """
    return {path: optimizer for path, _, _, optimizer in places(model)}


def places(
    model: keras.Model,
) -> Iterator[tuple[str, Any, Any, keras.optimizers.Optimizer]]:
    """Yield each optimizer's path, the object or container that holds it, its key, and itself."""
    seen: set[int] = set()
    for prefix, owner in _models(model):
        held = [(n, v) for n, v in vars(owner).items() if isinstance(v, (*_CONTAINERS, _Optimizer))]
        for name, value in sorted(held, key=lambda item: (item[0] != "optimizer", item[0])):
            for path, holder, key, item in _members(owner, name, value):
                if isinstance(item, _Optimizer) and id(item) not in seen:
                    seen.add(id(item))
                    yield prefix + path, holder, key, item


def _models(model: keras.Model) -> Iterator[tuple[str, keras.Model]]:
    yield "", model
    for index, layer in enumerate(introspection.layers_of(model)):
        if isinstance(layer, keras.Model):
            yield f"layers/{index}/", layer


def _members(owner: Any, name: str, value: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{name}/{key}", value, key, item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"{name}/{index}", value, index, item
    else:
        yield name, owner, name, value


def names_of(model: keras.Model) -> dict[str, keras.Variable]:
    """Return a model's variables by names that are the same after a reload.

    A name is the variable's path in Keras's weights file or, for variables that the file does not
    hold as they are, such as a kernel with an adapter, its position among the model's variables.
    """
    by_position = {f"variables/{index}": v for index, v in enumerate(model.variables)}
    optimizers = optimizers_of(model).values()
    return {**capturing.named_variables(model, optimizers), **by_position}


def record(model: keras.Model, names: Names) -> dict[str, Any]:
    """Return what each optimizer was built with, by its path.

    Returns:
        For each optimizer its class, the names of its variables in order (None if it is not
        built), and for a `MultiOptimizer` which of its optimizers each variable belongs to.
    """
    by_id: dict[int, str] = {}
    for name, variable in names.items():
        by_id.setdefault(id(variable), name)
    return {path: _describe(optimizer, by_id) for path, optimizer in optimizers_of(model).items()}


def _describe(optimizer: keras.optimizers.Optimizer, by_id: Mapping[int, str]) -> dict[str, Any]:
    variables = built_with(optimizer)
    described: dict[str, Any] = {
        "class": type(optimizer).__name__,
        "variables": None if variables is None else [by_id.get(id(v), "") for v in variables],
    }
    inner = optimizer_internals.inner_optimizers(optimizer)
    if variables is not None and inner:
        described["inner"] = [type(item).__name__ for item in inner]
        described["parts"] = parts(variables, inner)
    return described


def parts(variables: list[Any], inner: list[Any]) -> list[int]:
    """Return, for each variable of a `MultiOptimizer`, the index of the optimizer it belongs to."""
    owners = {id(v): index for index, item in enumerate(inner) for v in built_with(item) or ()}
    return [owners.get(id(variable), -1) for variable in variables]


def built_with(optimizer: keras.optimizers.Optimizer) -> list[Any] | None:
    """Return the variables that an optimizer was built with; None if it is not built."""
    if not optimizer.built:
        return None
    return list(optimizer_internals.optimized_variables(optimizer))


def state_key(model: keras.Model) -> Any:
    """Return a value that changes when an optimizer is built or replaced."""
    return tuple(
        (path, id(optimizer), tuple(map(id, built_with(optimizer) or ())))
        for path, optimizer in optimizers_of(model).items()
    )
