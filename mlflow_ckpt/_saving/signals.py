"""Defers signals that end a training until the model is consistent, between two batches."""

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

from mlflow_ckpt._model.keras_private import fit_internals, messages_of_keras

_Handler = Callable[[int, FrameType | None], Any] | int | None
SIGNALS = (signal.SIGINT, signal.SIGTERM)


# Signal handlers are per process: one is installed while any training runs.
_active: list[SignalHandler] = []
_previous_handlers: dict[int, _Handler] = {}
# The signal mask from before a fork, in the thread that forks.
_forking = threading.local()


class SignalHandler:
    """Defers SIGINT and SIGTERM during a training, so that it can end between two batches.

    A second signal has its usual effect immediately. So has the first one if the training is no
    longer on the stack. A forked child process has the handlers from before the training.
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
        """Start to defer signals; called from the callback's `on_train_begin`.

        Has no effect outside the main thread, where Python handles no signals.
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
            # Keep an ignored signal ignored: Ctrl-C must not affect a background job.
            if signal.getsignal(number) not in (_handle, signal.SIG_IGN):
                _previous_handlers[number] = signal.signal(number, _handle)

    def restore(self) -> None:
        """Restore the previous handlers, unless another training still needs the new ones."""
        if threading.current_thread() is not threading.main_thread():
            return
        if self in _active:
            _active.remove(self)
        _restore_unless_needed(sys._getframe())

    def raise_received(self) -> None:
        """End the training as the signal would have.

        Raises:
            KeyboardInterrupt: After SIGINT.
            SystemExit: After SIGTERM, with the exit code that a shell reports for it.
        """
        number, self.received = self.received, None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number is not None:
            raise SystemExit(128 + number)

    @property
    def is_abandoned(self) -> bool:
        """Whether the training began in this process and is on no thread's stack any more."""
        frames = sys._current_frames().values()
        return os.getpid() == self._process and not any(map(self.is_training, frames))

    def is_training(self, frame: FrameType | None) -> bool:
        """Whether a stack is within the training that this handler was installed for."""
        while frame is not None:
            if frame.f_code is self._training and self._is_called_from(frame):
                return os.getpid() == self._process
            frame = frame.f_back
        return False

    def _is_called_from(self, frame: FrameType) -> bool:
        # All trainings run the same code object; their callbacks distinguish them.
        callbacks = fit_internals.callbacks_in(frame)
        return callbacks is None or any(callback is self._callback for callback in callbacks)


def _handle(number: int, frame: FrameType | None) -> None:
    handlers = [handler for handler in _active if handler.is_training(frame)]
    if handlers and all(handler.received is None for handler in handlers):
        for handler in handlers:
            handler.received = number
        return
    previous = _previous_handlers.get(number, signal.SIG_DFL)
    if not handlers:
        _restore_unless_needed(frame)
    if callable(previous):
        previous(number, frame)
    elif previous != signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _restore_unless_needed(frame: FrameType | None) -> None:
    # Trainings that ended in an exception are not reported, but are no longer on the stack.
    _active[:] = [handler for handler in _active if handler.is_training(frame)]
    if not _active:
        _restore_previous_handlers()


def _restore_previous_handlers() -> None:
    for number, previous in _previous_handlers.items():
        # Keep a handler that was installed later. None means that it was not installed from
        # Python, so Python cannot restore it.
        if signal.getsignal(number) is _handle and previous is not None:
            signal.signal(number, previous)
    _previous_handlers.clear()


def _before_fork() -> None:
    # Python forgets the signals that a child receives before Python is ready in it, so that a
    # worker terminated at once would never end: they wait until it is.
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if _active else None


def _after_fork_in_parent() -> None:
    if getattr(_forking, "mask", None) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _after_fork_in_child() -> None:
    _active.clear()
    _restore_previous_handlers()
    _after_fork_in_parent()


if os.name != "nt":
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


def is_whole(model: keras.Model, error: BaseException | None, *, in_step: bool) -> bool:
    """Whether a model is unchanged since its last complete step, after an exception in training.

    Args:
        model: The model.
        error: The exception; None if unknown, such as when `sys.exit` ends the process.
        in_step: Whether a step has begun whose end has not been reported.
    """
    backend = keras.config.backend()
    if not in_step or backend == "jax":
        return True  # a JAX step returns new state and does not modify the old
    if error is None:
        return False
    if _came_from_callback(error):
        return True  # callbacks run before or after the step
    # A TensorFlow step that failed to fetch its data has changed nothing if it is eager. A compiled
    # one counts the step nevertheless, because operations that need no data run in parallel.
    is_eager = (
        getattr(model, "run_eagerly", False) and getattr(model, "steps_per_execution", 1) == 1
    )
    return is_eager and messages_of_keras.failed_before_step(error)


def _came_from_callback(error: BaseException) -> bool:
    # By the callback's own frames, because Keras removes its frames from tracebacks.
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(isinstance(f.f_locals.get("self"), keras.callbacks.Callback) for f in frames)
