"""A change of anything that a callback holds is noticed, and nothing else is."""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import ops

from mlflow_ckpt._model.capture import code_origin
from mlflow_ckpt._model.training.callback_state import CallbackMonitor
from mlflow_ckpt._model.training.kept_variables import KeptVariables
from tests.support.kinds import trainings


class Slotted:
    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Plain:
    def __init__(self) -> None:
        self.inner: dict[str, int] = {}
        self.number = 0.5

    def add(self, *_: Any) -> float:
        self.number += 1
        return self.number


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
    "a deque": (lambda: deque([1.0], maxlen=5), lambda held: held.append(2.0)),
    "a long deque": (lambda: deque(range(2000)), lambda held: held.rotate(1)),
    "a tensor": (lambda: [ops.ones(2)], lambda held: held.__setitem__(0, ops.zeros(2))),
    "an array that is not contiguous": (
        lambda: np.zeros((2000, 600), "float32").T[:, ::2],
        lambda held: held.__iadd__(np.float32(1)),
    ),
    "bytes": (lambda: bytearray(b"a"), lambda held: held.append(1)),
    "a namespace": (lambda: SimpleNamespace(a=1), lambda held: setattr(held, "a", 2)),
    "parsed arguments": (lambda: Namespace(a=1), lambda held: setattr(held, "a", 2)),
    "a counter": (itertools.count, next),
    "what a partial function holds": (
        lambda: partial(max, []),
        lambda held: held.args[0].append(1),
    ),
    "the object of a method": (lambda: Plain().add, lambda held: held()),
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


class Config:
    rate = 1.0


class OverOthers(keras.callbacks.Callback):
    """Uses a class's attribute, and a variable of another module."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        Config.rate *= 0.5
        trainings.REVIEWED = epoch


def test_attributes_of_other_classes_and_modules_are_state_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trainings, "REVIEWED", 0, raising=False)
    callback = OverOthers()
    monitor = CallbackMonitor([callback])
    assert monitor.capture().unsaved == []
    callback.on_epoch_end(1)
    (phrase,) = monitor.capture().unsaved
    assert "(on_epoch_end: Config.rate, on_epoch_end: trainings.REVIEWED)" in phrase


def test_an_attribute_with_the_name_of_a_variable_is_another_thing() -> None:
    class Counting(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.COUNTS = epoch

    monitor = CallbackMonitor([Counting()])
    COUNTS["others"] = COUNTS.get("others", 0) + 1
    assert monitor.capture().unsaved == []


@pytest.mark.parametrize(
    "make",
    [
        lambda held: keras.callbacks.LambdaCallback(on_epoch_end=held.add),
        lambda held: keras.callbacks.LambdaCallback(on_epoch_end=partial(Plain.add, held)),
        lambda held: keras.callbacks.LearningRateScheduler(held.add),
    ],
)
def test_objects_behind_functions_are_state_too(make: Callable[[Plain], Any]) -> None:
    held = Plain()
    monitor = CallbackMonitor([make(held)])
    assert monitor.capture().unsaved == []
    held.add()
    (phrase,) = monitor.capture().unsaved
    assert "but no get_state and set_state" in phrase


def test_subclasses_of_callbacks_without_state_may_have_one(tmp_path: Path) -> None:
    class Logging(keras.callbacks.CSVLogger):
        factor = 1.0

    logger = Logging(tmp_path / "log.csv")
    logger.factor = 1.0
    monitor = CallbackMonitor([logger])
    logger.on_train_begin()
    logger.on_epoch_end(0, {"loss": 1.0})
    assert monitor.capture().unsaved == []
    logger.factor = 0.5
    (phrase,) = monitor.capture().unsaved
    assert phrase.startswith("Logging has state (factor) but")
    logger.on_train_end()


class Own(keras.metrics.Metric):
    """A metric of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.add_weight(initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(ops.sum(y_pred))

    def result(self) -> Any:
        return self.total


def test_the_model_and_its_metrics_are_saved_elsewhere() -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=[Own()])
    model.fit(np.ones((2, 1)), np.ones((2, 1)), verbose=0)
    callbacks = [Holding(model), Holding(list(model.metrics)), Holding(model.metrics[0].total)]
    for callback in callbacks:
        callback.set_model(model)
    monitor = CallbackMonitor(callbacks)
    model.fit(np.ones((2, 1)), np.zeros((2, 1)), verbose=0)
    assert monitor.capture().unsaved == []


class Shuffled(keras.utils.PyDataset):
    order = 0

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return np.ones((1, 1)), np.ones((1, 1))


def test_the_data_of_fit_are_saved_elsewhere() -> None:
    data = Shuffled()
    monitors = CallbackMonitor([Holding(data)], data), CallbackMonitor([Holding(data)])
    data.order = 1
    assert [monitor.capture().unsaved for monitor in monitors] == [[], NAMED]


def test_an_open_file_is_not_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        monitor = CallbackMonitor([Holding(file)])
    assert monitor.capture().unsaved == []


def test_libraries_in_the_users_directory_are_libraries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, directory in (("of_a_library", "site-packages"), ("of_the_user", "project")):
        module = ModuleType(name)
        module.__file__ = str(tmp_path / ".local" / directory / f"{name}.py")
        monkeypatch.setitem(sys.modules, name, module)
    assert not code_origin.is_of_user("of_a_library")
    assert code_origin.is_of_user("of_the_user")


def test_hooks_that_are_no_functions_of_python() -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    begun: list[Any] = []
    callback = keras.callbacks.LambdaCallback(on_train_begin=begun.append)
    kept = KeptVariables(model, [callback], ["on_train_begin"])
    callback.on_train_begin(None)
    kept.put_back()
    assert begun == [None]
