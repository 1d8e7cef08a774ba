"""The states of other callbacks, which Keras keeps nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._format.values import Arrays, UnpackableError, pack, unpack
from mlflow_ckpt._model.keras_private import CALLBACK_STATE
from mlflow_ckpt.errors import InvalidArgumentError

GetState = Callable[[Any], Any]
SetState = Callable[[Any, Any], None]

# These have nothing that a training depends on, or nothing that outlives an epoch.
_STATELESS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.History,
    keras.callbacks.LambdaCallback,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TerminateOnNaN,
)
_KERAS_OWN = frozenset({"model", "_model", "params", "validation_data"})
_registered: dict[type, tuple[GetState, SetState]] = {}


def register_callback_state(callback_class: type, get_state: GetState, set_state: SetState) -> None:
    """Tell how to save and restore the state of callbacks that offer no `get_state`/`set_state`.

    Args:
        callback_class: A class of callbacks; its subclasses are meant too.
        get_state: Called with a callback; returns its state: None, numbers, text, NumPy arrays, and
            lists, tuples and dictionaries of them.
        set_state: Called with a callback and what `get_state` returned, before the first epoch of
            the resumed training.

    Raises:
        InvalidArgumentError: If `callback_class` is not a class of Keras callbacks.
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
        states: By key, such as `EarlyStopping/0`: packed, see `format.values`.
        arrays: The arrays of all states, by name.
        unsaved: What is not in there, one phrase each.
    """

    states: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    unsaved: list[str] = field(default_factory=list)


class Watch:
    """Notices callbacks that keep a state which nobody can ask them for.

    Args:
        callbacks: All callbacks of a training, before its first epoch.
    """

    def __init__(self, callbacks: Iterable[keras.callbacks.Callback]) -> None:
        self._callbacks = list(callbacks)
        self._before = {
            id(callback): _outline(callback)
            for callback in self._callbacks
            if _offers_nothing(callback) and type(callback) not in CALLBACK_STATE
        }

    def capture(self) -> CapturedCallbacks:
        """Capture the states as they are now."""
        captured = CapturedCallbacks()
        for key, callback in keyed(self._callbacks):
            accessors = _accessors(callback)
            if accessors is not None:
                _capture(captured, key, callback, accessors[0])
            if id(callback) in self._before:
                now, before = _outline(callback), self._before[id(callback)]
                changed = sorted(name for name in now if now[name] != before.get(name))
                if changed:
                    captured.unsaved.append(
                        f"{key.partition('/')[0]} keeps a state ({', '.join(changed[:3])}) and "
                        "has no get_state and set_state (see register_callback_state)"
                    )
        return captured


def _capture(
    captured: CapturedCallbacks, key: str, callback: keras.callbacks.Callback, get_state: GetState
) -> None:
    arrays: Arrays = {}
    # Keras's own replace their arrays, and never write to them.
    copy = not _offers_nothing(callback)
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
    """Give callbacks their states back: those of the same class, in the same order."""
    for key, callback in keyed(callbacks):
        accessors = _accessors(callback)
        if accessors is not None and key in states:
            accessors[1](callback, unpack(states[key], arrays))


def compare(
    callbacks: Iterable[keras.callbacks.Callback], states: Mapping[str, Any]
) -> Iterator[str]:
    """Tell which callbacks a resumed training has more or fewer of, one phrase each."""
    now = {key for key, callback in keyed(callbacks) if _accessors(callback) is not None}
    for key in states:
        if key not in now:
            yield f"{key.partition('/')[0]} took part before and is not among the callbacks now"
    for key in sorted(now - states.keys()):
        yield f"{key.partition('/')[0]} has no saved state, so it starts afresh"


def keyed(
    callbacks: Iterable[keras.callbacks.Callback],
) -> Iterator[tuple[str, keras.callbacks.Callback]]:
    """Yield callbacks with what they are called in a checkpoint: `EarlyStopping/0`."""
    seen: dict[str, int] = {}
    for callback in callbacks:
        name = type(callback).__name__
        yield f"{name}/{seen.setdefault(name, 0)}", callback
        seen[name] += 1


def _accessors(callback: keras.callbacks.Callback) -> tuple[GetState, SetState] | None:
    """Return what gets and sets a callback's state; None if nothing does."""
    for each in type(callback).__mro__:
        if each in _registered:
            return _registered[each]
    if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
        return type(callback).get_state, type(callback).set_state
    names = _known_attributes(callback)
    if not names:
        return None
    return (
        lambda callback: {name: getattr(callback, name, None) for name in names},
        lambda callback, state: _set_attributes(callback, names, state),
    )


def _offers_nothing(callback: keras.callbacks.Callback) -> bool:
    """Whether nobody but this module knows what a callback's state is."""
    offers = hasattr(callback, "get_state") and hasattr(callback, "set_state")
    registered = any(each in _registered for each in type(callback).__mro__)
    return not (offers or registered or isinstance(callback, _STATELESS))


def _known_attributes(callback: keras.callbacks.Callback) -> tuple[str, ...]:
    kinds = (names for kind, names in CALLBACK_STATE.items() if isinstance(callback, kind))
    return next(kinds, ())


def _set_attributes(
    callback: keras.callbacks.Callback, names: Iterable[str], state: Mapping[str, Any]
) -> None:
    for name in names:
        if name in state:
            setattr(callback, name, state[name])


def _outline(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Return what is quickly told of a callback's attributes: numbers, and lengths of the rest."""
    outline: dict[str, Any] = {}
    known = {*_KERAS_OWN, *_known_attributes(callback)}
    for name, value in vars(callback).items():
        if name in known:
            continue
        if value is None or isinstance(value, (bool, int, float, str, np.generic)):
            outline[name] = repr(value)
        elif isinstance(value, (list, tuple, dict, set)):
            outline[name] = len(value)
        elif isinstance(value, np.ndarray):
            outline[name] = (value.shape, float(np.sum(value)) if value.dtype.kind in "iuf" else 0)
    return outline
