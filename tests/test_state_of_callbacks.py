"""A change of anything that a callback holds is noticed, and nothing else is."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from mlflow_ckpt._model.training.callback_state import CallbackMonitor


class Slotted:
    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Plain:
    def __init__(self) -> None:
        self.inner: dict[str, int] = {}
        self.number = 0.5


class Holding(keras.callbacks.Callback):
    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held


def changed_by(held: Any, change: Callable[[Any], Any]) -> list[str]:
    """What is said of a callback that holds something, after a change of it."""
    monitor = CallbackMonitor([Holding(held)])
    assert monitor.capture().unsaved == []
    change(held)
    return monitor.capture().unsaved


NAMED = ["Holding has state (held) but no get_state and set_state (see register_callback_state)"]
CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "a dictionary of the same length": (lambda: {"a": 1}, lambda held: held.update(a=2)),
    "a list of the same length": (lambda: [1, [2]], lambda held: held[1].__setitem__(0, 3)),
    "a long list": (lambda: [0] * 5000, lambda held: held.append(0)),
    "a set": (lambda: {1, 2}, lambda held: held.symmetric_difference_update({2, 3})),
    "a permuted array": (lambda: np.arange(6), lambda held: held.__iadd__(held[::-1] - held)),
    "a large array": (
        lambda: np.zeros(1 << 20, "float32"),
        lambda held: held.__iadd__(np.float32(1)),
    ),
    "arrays in a list": (lambda: [np.zeros(3)], lambda held: held[0].__iadd__(1)),
    "a variable": (lambda: keras.Variable([1.0, 2.0]), lambda held: held.assign([2.0, 1.0])),
    "a generator of NumPy": (lambda: np.random.default_rng(0), lambda held: held.random()),
    "an old generator of NumPy": (lambda: np.random.RandomState(0), lambda held: held.rand()),
    "a generator of Python": (lambda: random.Random(0), lambda held: held.random()),
    "an object": (Plain, lambda held: held.inner.update(x=1)),
    "an object with slots": (Slotted, lambda held: setattr(held, "count", 1)),
    "a number": (Plain, lambda held: setattr(held, "number", 1.5)),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_named(kind: str) -> None:
    make, change = CHANGES[kind]
    assert changed_by(make(), change) == NAMED
    assert changed_by(make(), lambda _: None) == []


def test_what_functions_refer_to_is_state_too() -> None:
    scale = keras.Variable(1.0)
    losses: list[float] = []
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])

    def rate(epoch: int) -> float:
        return epoch * float(scale.numpy())

    def note(epoch: int, logs: Any) -> None:
        losses.append(len(model.weights) + logs["loss"] + epoch)

    callbacks = [
        keras.callbacks.LearningRateScheduler(rate),
        keras.callbacks.LambdaCallback(on_epoch_end=note),
    ]
    for callback in callbacks:
        callback.set_model(model)
    monitor = CallbackMonitor(callbacks)
    assert monitor.capture().unsaved == []
    scale.assign(2.0)
    losses.append(1.0)
    model.layers[0].kernel.assign([[9.0]])  # the model is saved anyway
    first, second = monitor.capture().unsaved
    assert first.startswith("LearningRateScheduler has state (schedule: scale) but")
    assert second.startswith("LambdaCallback has state (on_epoch_end: losses) but")


COUNTS = {"epochs": 0}
SCALE = keras.Variable(1.0)


class OverModule(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        COUNTS["epochs"] += epoch


def test_variables_of_a_module_are_state_too() -> None:
    callbacks = [
        OverModule(),
        keras.callbacks.LearningRateScheduler(lambda epoch: epoch * float(SCALE.numpy())),
    ]
    monitor = CallbackMonitor(callbacks)
    assert monitor.capture().unsaved == []
    callbacks[0].on_epoch_end(1)
    SCALE.assign(2.0)
    first, second = monitor.capture().unsaved
    assert first.startswith("OverModule has state (on_epoch_end: COUNTS) but")
    assert second.startswith("LearningRateScheduler has state (schedule: SCALE) but")


def test_what_libraries_change_is_not_state() -> None:
    clock = threading.Event()
    held = [clock, time.monotonic, np.random, keras.layers.Dense(1)]
    assert changed_by(held, lambda _: clock.set()) == []
    assert changed_by(keras.callbacks.History(), lambda held: setattr(held, "epoch", [1])) == []


def test_variables_of_the_model_are_saved_with_it() -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    callback = Holding([model.layers[0].kernel, model.optimizer.learning_rate])
    callback.set_model(model)
    monitor = CallbackMonitor([callback])
    model.layers[0].kernel.assign([[9.0]])
    model.optimizer.learning_rate = 0.5
    assert monitor.capture().unsaved == []


def test_attributes_of_classes_are_state_too() -> None:
    class Counting(keras.callbacks.Callback):
        epochs = 0

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            Counting.epochs += 1

    callback = Counting()
    monitor = CallbackMonitor([callback])
    callback.on_epoch_end(0)
    (phrase,) = monitor.capture().unsaved
    assert phrase.startswith("Counting has state (epochs) but")


def test_a_method_that_a_training_does_not_call_does_not_count() -> None:
    class Plotting(keras.callbacks.Callback):
        def plot(self) -> None:
            """Called by the user, after training."""
            COUNTS["plots"] = 1

    monitor = CallbackMonitor([Plotting()])
    COUNTS["plots"] = 2
    assert monitor.capture().unsaved == []


def test_what_refers_to_itself() -> None:
    held: list[Any] = []
    held.append(held)
    assert changed_by(held, lambda held: held.append(1)) == NAMED
