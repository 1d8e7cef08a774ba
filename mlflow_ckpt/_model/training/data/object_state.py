"""The state of a user's object that produces data: its own state functions, or its attributes."""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mlflow_ckpt._format.values import UnpackableError, pack
from mlflow_ckpt._model.keras_private import data_adapters

_FUNCTIONS = (("get_state", "set_state"), ("state_dict", "load_state_dict"))
_BYTES, _TENSOR, _OWN = "$bytes", "$tensor", "own"
# Attributes of at most this size are compared and saved; larger ones are the data themselves.
_LARGEST = 16 * 2**20
_LONGEST_LIST = 20_000
_DEEPEST = 3
_LIBRARIES = ("builtins", "grain", "jax", "keras", "numpy", "tensorflow", "torch", "threading")


def state_functions(item: Any) -> tuple[str, str] | None:
    """Return the names of the methods that get and set an object's state; None without any."""
    for names in _FUNCTIONS:
        if all(callable(getattr(item, name, None)) for name in names):
            return names
    return None


class ObjectState:
    """Saves what changes in an object: with its own functions, or attribute by attribute.

    Attributes count if they are numbers, text, arrays, or lists and dictionaries of them, or random
    generators of Python, NumPy or PyTorch; so do those of the object's objects.

    Args:
        item: The object.
    """

    def __init__(self, item: Any) -> None:
        self._item = item
        self._functions = state_functions(item)
        self._before = {} if self._functions else dict(self._outlines())

    def capture(self) -> tuple[dict[str, Any], list[str]]:
        """Return what changed, and the names of attributes that changed and cannot be saved."""
        if self._functions:
            return {_OWN: encode(getattr(self._item, self._functions[0])())}, []
        state: dict[str, Any] = {}
        unsaved = []
        for path, outline in self._outlines():
            if outline == self._before.get(path):
                continue
            owner, name = self._owner(path)
            try:
                state[path] = _copied(vars(owner)[name])
            except UnpackableError:
                unsaved.append(path)
        return state, unsaved

    def capture_generators(self) -> dict[str, Any]:
        """Return the states of the random generators among the attributes, and of numbers."""
        state = {}
        for owner, prefix in _objects(self._item):
            for name, value in vars(owner).items():
                if generator_state(value) is not None or type(value) in (int, float):
                    state[prefix + name] = _copied(value)
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `capture` returned."""
        if _OWN in state and self._functions:
            getattr(self._item, self._functions[1])(decode(state[_OWN]))
            return
        for path, value in state.items():
            owner, name = self._owner(path)
            if owner is not None:
                current = vars(owner).get(name)
                if not set_generator_state(current, value):
                    setattr(owner, name, decode(value))

    def _owner(self, path: str) -> tuple[Any, str]:
        """Return the object that holds an attribute, and the attribute's name.

        Args:
            path: Names joined by dots, such as `sampler.seed`.

        Returns:
            Both; None as the object if there is none.
        """
        *parents, name = path.split(".")
        owner = self._item
        for parent in parents:
            owner = getattr(owner, parent, None)
        return owner, name

    def _outlines(self) -> Iterator[tuple[str, Any]]:
        """Yield the path of each attribute of the user's, and its outline."""
        for owner, prefix in _objects(self._item):
            for name, value in vars(owner).items():
                if name not in data_adapters.PY_DATASET_SETTINGS:
                    yield prefix + name, _outline(value)


def _objects(item: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[Any, str]]:
    """Yield an object and its attributes that are objects of the user's classes."""
    if not hasattr(item, "__dict__"):
        return
    yield item, prefix
    for name, value in vars(item).items() if depth < _DEEPEST else ():
        if _is_own(value):
            yield from _objects(value, f"{prefix}{name}.", depth + 1)


def _is_own(value: Any) -> bool:
    """Whether a value is an object of a class of the user's."""
    module = type(value).__module__.partition(".")[0]
    if module in _LIBRARIES or isinstance(value, type) or callable(value):
        return False
    return hasattr(value, "__dict__") and generator_state(value) is None


def _outline(value: Any) -> Any:
    """Return a value that changes if an attribute does, without copying it."""
    state = generator_state(value)
    if state is not None:
        return repr(state)
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, np.ndarray):
        if value.nbytes > _LARGEST or value.dtype.hasobject:
            return (value.shape, str(value.dtype), id(value) if value.dtype.hasobject else None)
        return (value.shape, str(value.dtype), zlib.crc32(np.ascontiguousarray(value).data))
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        if len(value) > _LONGEST_LIST:
            return (len(value), id(value))
        return (len(value), zlib.crc32(repr(value).encode()))
    return id(value)


def _copied(value: Any) -> Any:
    """Return an attribute's value as `pack` takes it.

    Raises:
        UnpackableError: If it cannot be saved.
    """
    state = generator_state(value)
    encoded = encode(value if state is None else state)
    pack(encoded, "", {})
    return np.array(encoded, copy=True) if isinstance(encoded, np.ndarray) else encoded


def generator_state(value: Any) -> Any:
    """Return the state of a random generator of Python, NumPy or PyTorch; None for other values."""
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    if isinstance(value, random.Random):
        version, words, gauss = value.getstate()
        return [version, np.array(words, dtype=np.uint32), gauss]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Generator):
        return value.get_state().numpy()
    return None


def set_generator_state(value: Any, state: Any) -> bool:
    """Set the state of a random generator; return whether the value is one."""
    if isinstance(value, np.random.Generator):
        value.bit_generator.state = decode(state)
    elif isinstance(value, np.random.RandomState):
        value.set_state(decode(state))
    elif isinstance(value, random.Random):
        version, words, gauss = state
        value.setstate((version, tuple(int(word) for word in words), gauss))
    elif generator_state(value) is not None:
        torch = sys.modules["torch"]
        value.set_state(torch.from_numpy(np.array(state)))
    else:
        return False
    return True


def encode(value: Any) -> Any:
    """Return a state with its bytes and tensors as `pack` takes them."""
    if isinstance(value, bytes):
        return {_BYTES: np.frombuffer(value, dtype=np.uint8)}
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return {_TENSOR: value.detach().cpu().numpy().copy()}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(encode(item) for item in value)
    return value


def decode(value: Any) -> Any:
    """Return the state that `encode` encoded."""
    if isinstance(value, dict):
        if set(value) == {_BYTES}:
            return value[_BYTES].tobytes()
        if set(value) == {_TENSOR}:
            return sys.modules["torch"].from_numpy(np.array(value[_TENSOR]))
        return {key: decode(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(decode(item) for item in value)
    return value
