"""The structure of objects that a model consists of: what is in what, and under which name.

Everything that the training's state may hide in is reached from the model along attributes,
positions and keys. Their names form a path, such as `layers/2/cell/kernel`, that leads to the same
thing in the live model and in the one that is rebuilt from its configuration.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import copy
from functools import lru_cache, partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.capture.code_origin import package_of
from mlflow_ckpt._model.keras_private import compiled_model, initializer_seeds, tracked_attributes

# Longer lists are data, and are not looked through.
LONGEST = 1000
CONTAINERS = (list, tuple, dict, deque)
CALLABLES = (FunctionType, MethodType, partial)
# Objects of these packages hold no state that could be told from their internals.
_OPAQUE = {
    *sys.stdlib_module_names,
    *("tensorflow", "jax", "jaxlib", "torch", "numpy", "ml_dtypes", "pandas", "mlflow"),
    *("h5py", "scipy", "sklearn", "PIL", "optree", "tree", "mlflow_ckpt", "wandb", "matplotlib"),
} - {"__main__", "types"}
# Of Keras's classes, those that only describe something that the configuration has.
_DESCRIPTIONS = (
    keras.initializers.Initializer,
    keras.dtype_policies.DTypePolicy,
    keras.layers.InputLayer,
    keras.layers.InputSpec,
    keras.KerasTensor,
    keras.callbacks.Callback,
)


_COMPILED = (keras.optimizers.Optimizer, keras.losses.Loss, keras.metrics.Metric)


class MissingPathError(LookupError):
    """A path that leads nowhere in a model."""


def is_variable(value: Any) -> bool:
    """Whether a value is a variable of Keras or of the backend, or a tensor that is one."""
    return isinstance(value, (keras.Variable, *_variable_types()))


def is_generator(value: Any) -> bool:
    """Whether a value is a random generator other than Keras's, whose state is a variable."""
    if isinstance(value, keras.initializers.Initializer):
        return initializer_seeds.drawn_seed(value) is not None
    return isinstance(value, _generator_types())


def is_mutable_table(value: Any) -> bool:
    """Whether a value is a lookup table of TensorFlow that a step can change."""
    experimental = getattr(
        getattr(sys.modules.get("tensorflow"), "lookup", None), "experimental", None
    )
    names = ("MutableHashTable", "DenseHashTable")
    kinds = tuple(getattr(experimental, n) for n in names if hasattr(experimental, n))
    return isinstance(value, kinds)


def is_array(value: Any) -> bool:
    """Whether a value is an array that cannot be assigned to: an attribute's value."""
    return isinstance(value, (np.ndarray, *_tensor_types())) and not is_variable(value)


def members(item: Any) -> Mapping[str, Any]:
    """Return what is in an object or a container, by the names that paths use, in their order."""
    if isinstance(item, dict):
        repeated = tracked_attributes.TORCH_PARAMETERS
        return {str(key): value for key, value in item.items() if key != repeated}
    if isinstance(item, CONTAINERS):
        return {str(index): value for index, value in enumerate(item)}
    if isinstance(item, CALLABLES):
        return held_by_callable(item)
    found: dict[str, Any] = {}
    if tracked_attributes.has_layers_in_order(item):
        found["layers"] = item.layers
    attributes = attributes_of(item)
    ignored = ignored_in(item)
    for name in sorted(attributes, key=lambda name: (name.startswith("_"), name)):
        if name not in ignored and not tracked_attributes.is_of_wrapper(name):
            found[name] = attributes[name]
    if isinstance(item, keras.Model):
        found |= compiled_model.metrics_given(item)
    if tracked_attributes.is_tracked(item):
        found.update(tracked_attributes.tracked_lists(item))
    elif _is_torch_module(item):
        found.pop("training", None)
    return found


def step(item: Any, name: str) -> Any:
    """Return what is under one name of a path.

    Raises:
        MissingPathError: If there is nothing.
    """
    try:
        if isinstance(item, dict):
            return next(value for key, value in item.items() if str(key) == name)
        if isinstance(item, CONTAINERS):
            return item[int(name)]
        attributes = attributes_of(item)
        if name in attributes and not isinstance(item, CALLABLES):
            return attributes[name]
        return members(item)[name]
    except (LookupError, StopIteration, ValueError) as error:
        raise MissingPathError(name) from error


def resolve(root: Any, path: str) -> Any:
    """Return what a path leads to.

    Raises:
        MissingPathError: If it leads nowhere.
    """
    for name in parts(path):
        root = step(root, name)
    return root


def parts(path: str) -> list[str]:
    """Return the names in a path."""
    return [name.replace("~1", "/").replace("~0", "~") for name in path.split("/") if name]


def joined(path: str, name: str) -> str:
    """Return the path of something inside of what another path leads to."""
    name = name.replace("~", "~0").replace("/", "~1")
    return f"{path}/{name}" if path else name


def attributes_of(item: Any) -> Mapping[str, Any]:
    """Return an object's attributes, without looking at its class or calling its properties."""
    attributes: Mapping[str, Any] = getattr(item, "__dict__", {})
    kind: Any = type(item)
    slots = _slots(kind)
    if slots:
        attributes = {**attributes, **{n: getattr(item, n) for n in slots if hasattr(item, n)}}
    return attributes


def holds_state(value: Any) -> bool:
    """Whether to look inside an object for state."""
    if isinstance(value, CONTAINERS):
        return True
    if isinstance(value, CALLABLES):
        return bool(held_by_callable(value))
    if isinstance(value, (type, ModuleType, _DESCRIPTIONS)) or callable(
        getattr(value, "__get__", None)
    ):
        return False
    kind: Any = type(value)
    if not hasattr(value, "__dict__") and not _slots(kind):
        return False
    return (
        _is_torch_module(value)
        or tracked_attributes.is_tracked(value)
        or package_of(kind) not in _OPAQUE
    )


def is_managed(item: Any, name: str) -> bool:
    """Whether an attribute of one of Keras's own classes is set by Keras, not by users."""
    if isinstance(item, keras.Model) and name in ("loss", "metrics", "weighted_metrics"):
        return True
    if package_of(type(item)) != "keras":
        return False
    # Compile settings are compared as such.
    managed = isinstance(item, _COMPILED) or name.startswith("_") or name == "name"
    return managed and not tracked_attributes.is_lost_by_configuration(item, name)


def ignored_in(item: Any) -> frozenset[str]:
    """Return the names of an object's attributes that hold no state of the user's."""
    if not tracked_attributes.is_tracked(item):
        return frozenset()
    return tracked_attributes.own_attributes(item)


def is_walked_by_keras(item: Any) -> bool:
    """Whether Keras looks into an object or a container when it saves a model."""
    return isinstance(item, (list, tuple, dict)) or tracked_attributes.is_tracked(item)


def reader_of(item: Any) -> Callable[[], Any]:
    """Return a function that returns the content of an object or a container, quickly."""
    if isinstance(item, CONTAINERS):
        return lambda: item
    if isinstance(item, CALLABLES):
        return lambda: held_by_callable(item)
    attributes = attributes_of(item)
    if attributes is getattr(item, "__dict__", None):
        return lambda: attributes
    return lambda: attributes_of(item)


def label_of(root: Any, path: str) -> str:
    """Return a readable name of what a path leads to, such as `layer 'dense': lora_alpha`."""
    label, rest, item = "model", parts(path), root
    for index, name in enumerate(parts(path)):
        try:
            item = step(item, name)
        except MissingPathError:
            break
        if isinstance(item, keras.layers.Layer):
            label, rest = f"layer {item.name!r}", parts(path)[index + 1 :]
        elif isinstance(item, keras.optimizers.Optimizer):
            label, rest = f"optimizer {type(item).__name__}", parts(path)[index + 1 :]
        elif isinstance(item, (keras.losses.Loss, keras.metrics.Metric)):
            label, rest = f"{type(item).__name__} {item.name!r}", parts(path)[index + 1 :]
    return f"{label}: {'.'.join(rest)}" if rest else label


def children(item: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is in an object that may hold state, unless it is long, plain data."""
    if isinstance(item, CONTAINERS) and len(item) > LONGEST:
        return
    yield from members(item).items()


def held_by_callable(item: Any) -> dict[str, Any]:
    """Return what a function's closure, a method or a partial function holds."""
    if isinstance(item, MethodType):
        return {"self": item.__self__}
    if isinstance(item, partial):
        return {"func": item.func, "args": item.args, "keywords": item.keywords}
    held: dict[str, Any] = {}
    # Keras wraps methods of the user's in functions of its own.
    if str(item.__globals__.get("__name__")).partition(".")[0] not in _OPAQUE | {"keras"}:
        for name, cell in zip(item.__code__.co_freevars, item.__closure__ or (), strict=True):
            with suppress(ValueError):  # not assigned yet
                held[name] = cell.cell_contents
    return held


@lru_cache(maxsize=1024)
def _slots(cls: Any) -> tuple[str, ...]:
    found = []
    for parent in cls.__mro__:
        slots = vars(parent).get("__slots__", ())
        found += [slots] if isinstance(slots, str) else list(slots)
    return tuple(name for name in found if not name.startswith("__"))


def _is_torch_module(item: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(item, torch.nn.Module)


def _variable_types() -> tuple[type, ...]:
    return _backend(("tensorflow", "Variable"), ("torch", "Tensor"))


def _tensor_types() -> tuple[type, ...]:
    return _backend(("tensorflow", "Tensor"), ("jax", "Array"))


def _generator_types() -> tuple[type, ...]:
    own = (np.random.Generator, np.random.RandomState, random.Random)
    return (*own, *_backend(("tensorflow.random", "Generator"), ("torch", "Generator")))


def _backend(*names: tuple[str, str]) -> tuple[type, ...]:
    """Return the types of backends that are loaded."""
    found = []
    for path, name in names:
        module, _, inner = path.partition(".")
        owner = sys.modules.get(module)
        owner = getattr(owner, inner, None) if inner else owner
        found += [getattr(owner, name)] if hasattr(owner, name) else []
    return tuple(found)


def assign(variable: Any, value: np.ndarray[Any, Any]) -> None:
    """Set a variable's value, of the same shape."""
    if hasattr(variable, "assign"):
        variable.assign(value)
    else:
        torch = sys.modules["torch"]
        with torch.no_grad():
            variable.copy_(keras.ops.convert_to_tensor(value))


def replace(owner: Any, name: str, value: Any) -> None:
    """Set an attribute, or a member of a container.

    Raises:
        AttributeError, IndexError, TypeError, ValueError: If it cannot be set. What a function
            holds is not set, because others may use the function.
    """
    if isinstance(owner, CALLABLES):
        raise TypeError(f"{owner!r} may be used by others")
    if isinstance(owner, dict):
        key = next((key for key in owner if str(key) == name), name)
        owner[key] = value
    elif isinstance(owner, (list, deque)):
        owner[int(name)] = value
    else:
        setattr(owner, name, value)


def like(current: Any, value: Any) -> Any:
    """Return a plain value as the kind of container or tensor that another one is."""
    if isinstance(current, deque):
        return deque(value, current.maxlen)
    if isinstance(current, dict) and type(current) is not dict:  # a Counter, say
        made = copy(current)
        made.clear()
        made.update(value)
        return made
    if is_array(current) and not isinstance(current, np.ndarray):
        return keras.ops.convert_to_tensor(value)
    return value
