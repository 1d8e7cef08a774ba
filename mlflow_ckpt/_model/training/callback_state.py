"""Saves and restores the states of other callbacks, which Keras does not save."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._format.values import Arrays, UnpackableError, pack, unpack
from mlflow_ckpt._model.capture.code_origin import is_of_user
from mlflow_ckpt._model.capture.references_in_code import names_in_libraries
from mlflow_ckpt._model.keras_private.callback_internals import CALLBACK_STATE
from mlflow_ckpt._model.training.outline import outline
from mlflow_ckpt.errors import IntegrityError, InvalidArgumentError

GetState = Callable[[Any], Any]
SetState = Callable[[Any, Any], None]

# Callbacks without a state, or with one that a training does not depend on after an epoch.
_STATELESS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.History,
    keras.callbacks.LambdaCallback,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
    keras.callbacks.TerminateOnNaN,
)
# Their state is what their functions refer to.
_OF_FUNCTIONS = (keras.callbacks.LambdaCallback, keras.callbacks.LearningRateScheduler)
_registered: dict[type, tuple[GetState, SetState]] = {}


def register_callback_state(callback_class: type, get_state: GetState, set_state: SetState) -> None:
    """Register functions that save and restore the state of a class of callbacks.

    Callbacks with methods `get_state` and `set_state` need not be registered.

    Args:
        callback_class: A class of callbacks; the functions apply to its subclasses too.
        get_state: Called with a callback; returns its state: None, numbers, text, NumPy arrays, and
            lists, tuples and dictionaries of them.
        set_state: Called with a callback and the value that `get_state` returned, before the first
            epoch of the resumed training.

    Raises:
        InvalidArgumentError: If `callback_class` is not a subclass of `keras.callbacks.Callback`.
    """
    if not (
        isinstance(callback_class, type) and issubclass(callback_class, keras.callbacks.Callback)
    ):
        raise InvalidArgumentError(
            f"Expected a subclass of keras.callbacks.Callback. Received: {callback_class!r}"
        )
    _registered[callback_class] = (get_state, set_state)


@dataclass
class CapturedCallbacks:
    """The states of a training's callbacks.

    Attributes:
        states: States by key, such as `EarlyStopping/0`, packed as by `_format.values.pack`.
        arrays: The arrays of all states, by name.
        unsaved: Phrases that describe the states that could not be captured.
    """

    states: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    unsaved: list[str] = field(default_factory=list)


class CallbackMonitor:
    """Captures the states of callbacks, and detects callbacks whose state it cannot capture.

    Args:
        callbacks: All callbacks of a training, before its first epoch.
        data: The data set of `fit`, if its state is saved.
    """

    def __init__(self, callbacks: Iterable[keras.callbacks.Callback], data: Any = None) -> None:
        self._callbacks = list(callbacks)
        self._data = data
        self._before = {
            id(callback): self._outline(callback)
            for callback in self._callbacks
            if _may_hold_more(callback) and type(callback) not in CALLBACK_STATE
        }

    def capture(self) -> CapturedCallbacks:
        """Capture the current states."""
        captured = CapturedCallbacks()
        for key, callback in keyed(self._callbacks):
            accessors = _accessors(callback)
            if accessors is not None:
                _capture(captured, key, callback, accessors[0])
            if id(callback) in self._before:
                now, before = self._outline(callback), self._before[id(callback)]
                changed = sorted(name for name in now if now[name] != before.get(name))
                if changed:
                    captured.unsaved.append(
                        f"{key.partition('/')[0]} has state ({', '.join(changed[:3])}) but "
                        "no get_state and set_state (see register_callback_state)"
                    )
        captured.unsaved[:] = dict.fromkeys(captured.unsaved)
        return captured

    def _outline(self, callback: keras.callbacks.Callback) -> dict[str, Hashable]:
        ignored: Collection[str] = _state_attributes(callback)
        if isinstance(callback, _STATELESS):
            ignored = names_in_libraries(type(callback))
        return outline(callback, ignored, [id(self._data)])


def _capture(
    captured: CapturedCallbacks, key: str, callback: keras.callbacks.Callback, get_state: GetState
) -> None:
    arrays: Arrays = {}
    # Keras's own callbacks replace their arrays and never modify them.
    copy = _has_accessors(callback)
    try:
        captured.states[key] = pack(get_state(callback), f"callbacks/{key}", arrays, copy=copy)
    except UnpackableError as error:
        captured.unsaved.append(f"the state of {key.partition('/')[0]} cannot be saved ({error})")
    else:
        captured.arrays.update(arrays)


def restore(
    callbacks: Iterable[keras.callbacks.Callback],
    states: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray[Any, Any]],
) -> None:
    """Restore the states of callbacks, matched by class and order."""
    for key, callback in keyed(callbacks):
        accessors = _accessors(callback)
        if accessors is not None and key in states:
            accessors[1](callback, unpack(states[key], arrays))


def compare(
    callbacks: Iterable[keras.callbacks.Callback], states: Mapping[str, Any]
) -> Iterator[str]:
    """Describe the callbacks that a resumed training lacks, and those without a saved state."""
    stateful = {key for key, callback in keyed(callbacks) if _accessors(callback) is not None}
    for key, state in states.items():
        if key not in stateful and state is not None:
            yield f"{key.partition('/')[0]} was among the callbacks before and is missing now"
    for key in sorted(stateful - states.keys()):
        yield f"{key.partition('/')[0]} has no saved state, so it starts with its initial state"


def keyed(
    callbacks: Iterable[keras.callbacks.Callback],
) -> Iterator[tuple[str, keras.callbacks.Callback]]:
    """Yield callbacks with their keys in a checkpoint, such as `EarlyStopping/0`."""
    counts: dict[str, int] = {}
    for callback in callbacks:
        name = type(callback).__name__
        yield f"{name}/{counts.setdefault(name, 0)}", callback
        counts[name] += 1


def _accessors(callback: keras.callbacks.Callback) -> tuple[GetState, SetState] | None:
    """Return the functions that get and set a callback's state; None if there are none."""
    for base in type(callback).__mro__:
        if base in _registered:
            return _registered[base]
    if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
        return type(callback).get_state, type(callback).set_state
    names = _state_attributes(callback)
    if not names:
        return None
    return (
        lambda callback: {name: getattr(callback, name, None) for name in names},
        lambda callback, state: _set_attributes(callback, names, state),
    )


def _has_accessors(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback has functions of the user's to get and set its state."""
    own = hasattr(callback, "get_state") and hasattr(callback, "set_state")
    return own or any(base in _registered for base in type(callback).__mro__)


def _state_attributes(callback: keras.callbacks.Callback) -> tuple[str, ...]:
    matches = (names for base, names in CALLBACK_STATE.items() if isinstance(callback, base))
    return next(matches, ())


def _set_attributes(
    callback: keras.callbacks.Callback, names: Iterable[str], state: Mapping[str, Any]
) -> None:
    if not isinstance(state, Mapping) or not all(_is_numbers(state.get(name)) for name in names):
        raise IntegrityError(
            f"The state of {type(callback).__name__} in training_state.json is not one that it had."
        )
    for name in names:
        if name in state:
            setattr(callback, name, state[name])


def _is_numbers(value: Any) -> bool:
    """Whether a value is what Keras's callbacks keep: None, a number, or a list of arrays."""
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, np.ndarray) and item.dtype.kind != "O" for item in value)
    return value is None or isinstance(value, (bool, int, float, np.number, np.bool_))


def _may_hold_more(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback may have a state that is not saved."""
    is_ours = type(callback).__module__.partition(".")[0] == "mlflow_ckpt"  # the one of `resume`
    if is_ours or _has_accessors(callback):
        return False
    is_own = is_of_user(type(callback).__module__) or isinstance(callback, _OF_FUNCTIONS)
    return is_own or not isinstance(callback, _STATELESS)
