"""All state that can be reached from a model: what two equal trainings have in common.

Written independently of the package, which must find the same.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

State = dict[str, Any]
# Attributes that only describe how an object was made or called.
_IGNORED = {
    "_build_shapes_dict",
    "_auto_config",
    "_tracker",
    "input_spec",
    "_input_spec",
    "summary",
}
_IGNORED_STARTS = ("_inbound", "_outbound", "_self_", "_trainable_var", "_non_trainable_var")


def state_of(model: keras.Model) -> State:
    """Return all variables, and the state of all generators and custom objects, by place."""
    state: State = {}
    for number, variable in enumerate([*model.variables, *model.metrics_variables]):
        state[f"variable {number}"] = _array(variable)
    known: set[int] = {id(model)}
    optimizers = dict(_optimizers(model))
    for name, optimizer in optimizers.items():
        known.add(id(optimizer))
        for number, variable in enumerate(optimizer.variables):
            state[f"{name}/{number}"] = _array(variable)
        rate = getattr(optimizer, "_learning_rate", None)
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            state[f"{name}/schedule"] = _described(rate)
    layers = list(model._flatten_layers())
    known |= {id(layer) for layer in layers}
    for number, layer in enumerate(layers):
        place = f"layer {number} {type(layer).__name__}"
        state[f"{place}/trainable"] = layer.trainable
        _walk(layer, place, state, known)
    return state


def _described(schedule: keras.optimizers.schedules.LearningRateSchedule) -> str:
    try:
        return repr(schedule.get_config())
    except NotImplementedError:
        return repr(vars(schedule))


def _optimizers(model: keras.Model) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(vars(model).items()):
        if isinstance(value, keras.optimizers.Optimizer):
            yield f"optimizer {name}", value
            inner = getattr(value, "inner_optimizer", None)
            if inner is not None:
                yield f"optimizer {name}/inner", inner


def _walk(thing: Any, place: str, state: State, known: set[int], depth: int = 0) -> None:
    """Collect what an object holds, apart from objects that are looked at for themselves."""
    if depth > 4 or not hasattr(thing, "__dict__"):
        return
    own = type(thing).__module__.startswith("tests.")
    for name, value in sorted(vars(thing).items()):
        if name not in _IGNORED and not name.startswith(_IGNORED_STARTS):
            _visit(value, f"{place}.{name}", state, known, depth, own=own)


def _visit(value: Any, place: str, state: State, known: set[int], depth: int, *, own: bool) -> None:
    found = _content(value)
    if found is not None:
        state[place] = found
    elif isinstance(value, (bool, int, float, str)):
        if own and not place.rpartition(".")[2].startswith("_"):
            state[place] = value
    elif isinstance(value, dict):
        for key, item in value.items():
            _visit(item, f"{place}[{key}]", state, known, depth + 1, own=own)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _visit(item, f"{place}[{number}]", state, known, depth + 1, own=own)
    elif id(value) not in known and _is_looked_into(value):
        known.add(id(value))
        _walk(value, place, state, known, depth + 1)


def _is_looked_into(value: Any) -> bool:
    if isinstance(value, (keras.KerasTensor, keras.DTypePolicy, type)):
        return False
    kinds = (keras.layers.Layer, keras.random.SeedGenerator, keras.metrics.Metric)
    return isinstance(value, kinds) or type(value).__module__.startswith("tests.")


def _content(value: Any) -> Any:
    """Return the state that a value is; None if it is none."""
    if isinstance(value, keras.Variable):
        return _array(value)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    if isinstance(value, random.Random):
        return repr(value.getstate())
    tf, torch = sys.modules.get("tensorflow"), sys.modules.get("torch")
    if tf is not None and isinstance(value, tf.Variable):
        return value.numpy()
    if tf is not None and isinstance(value, tf.random.Generator):
        return value.state.numpy()
    if torch is not None and isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy().copy()
    return None


def _array(variable: Any) -> np.ndarray[Any, Any]:
    return np.array(keras.ops.convert_to_numpy(variable), copy=True)


def differences(first: State, second: State) -> list[str]:
    """Describe where two states differ."""
    found = [f"{name} is missing" for name in first.keys() - second.keys()]
    found += [f"{name} is new" for name in second.keys() - first.keys()]
    for name in first:
        if name in second and not _same(first[name], second[name]):
            found.append(f"{name}{_distance(first[name], second[name])}")
    return sorted(found)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        same = one.dtype == other.dtype and one.shape == other.shape
        if one.dtype.kind == "O":
            return same and bool(np.all(one == other))
        return same and one.tobytes() == other.tobytes()
    return repr(one) == repr(other)


def _distance(one: Any, other: Any) -> str:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and one.shape == other.shape:
        try:
            apart = np.abs(one.astype("float64") - other.astype("float64"))
        except (TypeError, ValueError):
            return " differs"
        return f" differs by {apart.max():.3g}" if apart.size else " differs"
    return f": {str(one)[:60]} and {str(other)[:60]}"
