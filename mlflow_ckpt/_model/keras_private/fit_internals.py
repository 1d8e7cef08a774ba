"""The `fit` on the stack, which Keras gives no callback access to.

- `EpochIterator`, and the local variables `self`, `epoch_iterator` and `epoch` in the frames of
  `fit`, give the other callbacks, the data and the epoch. Fallback: they are unknown, which
  resuming reports, and an `EpochDataset` without `MlflowCheckpoint` repeats one order: it warns.
- The local variable `callbacks` in the frames of a training distinguishes it from others. Fallback:
  a signal counts for each training in whose code it arrives.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import keras

from mlflow_ckpt._model.keras_private.keras_version import PrivateApiError


@dataclass(frozen=True)
class FitFrame:
    """Local variables of the `fit` that calls a callback.

    Attributes:
        callbacks: The outermost list that contains the callback; None if there is none.
        iterator: Its `EpochIterator`; None outside of `fit`.
        variables: All local variables, the arguments of `fit` among them.
    """

    callbacks: keras.callbacks.CallbackList | None
    iterator: Any
    variables: Mapping[str, Any] = field(default_factory=dict)


def find_fit_frame() -> FitFrame:
    """Find the `fit` on the stack of a callback's `on_train_begin`.

    Raises:
        PrivateApiError: If Keras has no `EpochIterator`.
    """
    try:
        from keras.src.trainers.epoch_iterator import EpochIterator
    except ImportError as error:  # pragma: no cover - another Keras
        raise PrivateApiError(str(error)) from error
    callbacks: keras.callbacks.CallbackList | None = None
    inside = False
    for frame in _stack():
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            # Of nested lists, the outermost contains all callbacks.
            if callbacks is None or inside:
                callbacks, inside = caller, True
        elif callbacks is not None:
            inside = False
            iterator = frame.f_locals.get("epoch_iterator")
            if isinstance(iterator, EpochIterator):
                return FitFrame(callbacks, iterator, dict(frame.f_locals))
    return FitFrame(callbacks, None)


def running_epoch() -> tuple[int, Any] | None:
    """Return the epoch of the `fit` on the stack, and its `EpochIterator`; None outside of one."""
    for frame in _stack():
        iterator, epoch = frame.f_locals.get("epoch_iterator"), frame.f_locals.get("epoch")
        if iterator is not None:
            return (epoch, iterator) if isinstance(epoch, int) else None
    return None


def callbacks_in(frame: FrameType) -> list[Any] | None:
    """Return the callbacks that a frame of a training was called with; None if it has none."""
    given = frame.f_locals.get("callbacks")
    callbacks = getattr(given, "callbacks", given)
    if callbacks is None:
        return None
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def _stack() -> Iterator[FrameType]:
    """Yield the frames that called the function which iterates over them, the innermost first."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back
