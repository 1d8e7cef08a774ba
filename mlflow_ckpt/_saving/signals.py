"""Signals that end a training: held back until the model is whole, between two batches."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import keras

from mlflow_ckpt._model import keras_private

_Handler = Callable[[int, FrameType | None], Any] | int | None
SIGNALS = (signal.SIGINT, signal.SIGTERM)


# Handlers belong to the process: these are in place while any training runs.
_active: list[SignalHandler] = []
_before: dict[int, _Handler] = {}


class SignalHandler:
    """Notes SIGINT and SIGTERM while a training runs, so that it can end between two batches.

    A second signal acts at once, as it would without this. So does the first where this training is
    not on the stack any more, and in a child process.

    Args:
        callback: The callback whose training it is.
    """

    def __init__(self, callback: Any) -> None:
        self.received: int | None = None
        self._callback = callback
        self._process = 0
        self._training: CodeType | None = None

    @property
    def reason(self) -> str | None:
        """Name of the signal that was received, such as `"SIGTERM"`; None if none was."""
        return None if self.received is None else signal.Signals(self.received).name

    def install(self) -> None:
        """Start to hold signals back; to be called from the callback's `on_train_begin`.

        Does nothing in a thread other than the main one, where Python handles no signals.
        """
        self.received = None
        self._process = os.getpid()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_name == "on_train_begin":
            frame = frame.f_back
        self._training = None if frame is None else frame.f_code
        if threading.current_thread() is not threading.main_thread():
            return
        if self not in _active:
            _active.append(self)
        for number in SIGNALS:
            # One that is ignored stays so: a job in the background has nothing to do with Ctrl-C.
            if signal.getsignal(number) not in (_handle, signal.SIG_IGN):
                _before[number] = signal.signal(number, _handle)

    def restore(self) -> None:
        """Put back the handlers that were there before, unless another training needs them."""
        if threading.current_thread() is not threading.main_thread():
            return
        if self in _active:
            _active.remove(self)
        _put_back_unless_needed(sys._getframe())

    def raise_received(self) -> None:
        """End the training as the signal would have.

        Raises:
            KeyboardInterrupt: After SIGINT.
            SystemExit: After SIGTERM, with the exit code that a shell gives to it.
        """
        number, self.received = self.received, None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number is not None:
            raise SystemExit(128 + number)

    def is_training(self, frame: FrameType | None) -> bool:
        """Whether a stack is inside the training that this was installed for."""
        while frame is not None:
            if frame.f_code is self._training and self._is_among(frame.f_locals.get("callbacks")):
                return os.getpid() == self._process
            frame = frame.f_back
        return False

    def _is_among(self, callbacks: Any) -> bool:
        # Every training runs the same code; what it calls tells them apart.
        listed = getattr(callbacks, "callbacks", callbacks)
        if isinstance(listed, (list, tuple)):
            return any(item is self._callback for item in listed)
        return listed is None or listed is self._callback


def _handle(number: int, frame: FrameType | None) -> None:
    trainings = [each for each in _active if each.is_training(frame)]
    if trainings and all(each.received is None for each in trainings):
        for each in trainings:
            each.received = number
        return
    before = _before.get(number, signal.SIG_DFL)
    if not trainings:
        _put_back_unless_needed(frame)
    if callable(before):
        before(number, frame)
    elif before != signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _put_back_unless_needed(frame: FrameType | None) -> None:
    # Nobody tells of trainings that an exception ended, but they are not on the stack any more.
    _active[:] = [each for each in _active if each.is_training(frame)]
    if _active:
        return
    for number, handler in _before.items():
        # Whoever put another handler in place since then means it to stay; None is one that was
        # not Python's, and that Python cannot put back.
        if signal.getsignal(number) is _handle and handler is not None:
            signal.signal(number, handler)
    _before.clear()


def is_whole(model: keras.Model, error: BaseException | None, *, in_step: bool) -> bool:
    """Tell whether a model is as the last step left it, after an exception ended its training.

    Args:
        model: The model.
        error: The exception; None if it is not known, as where `sys.exit` ends the process.
        in_step: Whether a step had begun and was not heard to end.
    """
    backend = keras.config.backend()
    if not in_step or backend == "jax":
        return True  # JAX's steps give new state and leave the old alone
    if error is None:
        return backend != "torch" and not getattr(model, "run_eagerly", False)
    if _came_from_callback(error):
        return True  # one that Keras calls before the step, or after it
    # TensorFlow's step, where the data that it asks for first could not be had. A compiled one
    # counts the step all the same: what does not need the data runs beside it.
    first = getattr(model, "run_eagerly", False) and getattr(model, "steps_per_execution", 1) == 1
    return first and keras_private.failed_before_step(error)


def _came_from_callback(error: BaseException) -> bool:
    # By its methods: Keras takes its own frames out of a traceback.
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(isinstance(f.f_locals.get("self"), keras.callbacks.Callback) for f in frames)
