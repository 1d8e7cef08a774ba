"""Callbacks of the user's own, with a state in every place where one can be."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from tests.support.kinds.kind import TENSORFLOW, Callbacks, Kind, named
from tests.support.kinds.trainings import Act, noisy

# What a training script keeps in its module.
SCRIPT: dict[str, Any] = {}


class Stateful(keras.callbacks.Callback):
    """Has a state that matters, and says how to keep it."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.factor *= 0.5
        self.model.optimizer.learning_rate = 0.05 * self.factor

    def get_state(self) -> dict[str, Any]:
        return {"factor": self.factor}

    def set_state(self, state: dict[str, Any]) -> None:
        self.factor = state["factor"]


class Unsaying(keras.callbacks.Callback):
    """The same, without saying so."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.factor *= 0.5
        self.model.optimizer.learning_rate = 0.05 * self.factor


class KeepsArray(keras.callbacks.Callback):
    """Averages the weights in an array that it changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = np.zeros((6, 4), "float32")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        kernel = self.model.layers[0].kernel
        self.mean *= 0.5
        self.mean += 0.5 * keras.ops.convert_to_numpy(kernel)
        kernel.assign(self.mean)


class KeepsObject(keras.callbacks.Callback):
    """Keeps its state in an object."""

    class State:
        factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.state = self.State()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.state.factor *= 0.5
        self.model.optimizer.learning_rate = 0.05 * self.state.factor


def closure() -> Callbacks:
    """A LambdaCallback over a state of its own."""
    count = [0]

    def slow_down(epoch: int, logs: Any) -> None:
        count[0] += 1
        callback.model.optimizer.learning_rate = 0.05 / (1 + count[0])

    callback = keras.callbacks.LambdaCallback(on_epoch_end=slow_down)
    return [callback]


class _Keeping(keras.callbacks.Callback):
    """Lowers the rate by a state that subclasses keep in different ways."""

    def change(self) -> float:
        raise NotImplementedError

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = 0.05 * self.change()


class InDictionary(_Keeping):
    def __init__(self) -> None:
        super().__init__()
        self.kept = {"factor": 1.0}

    def change(self) -> float:
        self.kept["factor"] *= 0.5
        return self.kept["factor"]


class InPermutation(_Keeping):
    """Keeps an array whose sum does not change."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = np.array([1.0, 0.5, 0.25])

    def change(self) -> float:
        self.kept = np.roll(self.kept, -1)
        return float(self.kept[0])


class InVariable(_Keeping):
    def __init__(self) -> None:
        super().__init__()
        self.kept = keras.Variable(1.0, trainable=False)

    def change(self) -> float:
        self.kept.assign(self.kept * 0.5)
        return float(ops.convert_to_numpy(self.kept))


class InGenerator(_Keeping):
    def __init__(self) -> None:
        super().__init__()
        self.random = np.random.default_rng(3)

    def change(self) -> float:
        return float(self.random.random())


class InWeights(keras.callbacks.Callback):
    """Keeps the weights of the epoch before, and mixes them with the new ones."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.before = self.model.get_weights()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = self.model.get_weights()
        mixed = [0.5 * (a + b) for a, b in zip(now, self.before, strict=True)]
        self.before = now
        self.model.set_weights(mixed)


class MorePatient(keras.callbacks.EarlyStopping):
    """A callback of Keras, with a state of its own beside."""

    def __init__(self) -> None:
        super().__init__("loss", patience=5)
        self.factor = 1.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)
        self.factor *= 0.5
        self.model.optimizer.learning_rate = 0.05 * self.factor


def scheduled_by_closure() -> Callbacks:
    count = [0]

    def rate(epoch: int, before: float) -> float:
        count[0] += 1
        return 0.05 / (1 + count[0])

    return [keras.callbacks.LearningRateScheduler(rate)]


def of_the_script() -> Callbacks:
    SCRIPT["count"] = 0

    def act(model: keras.Model) -> None:
        SCRIPT["count"] += 1
        model.optimizer.learning_rate = 0.05 / (1 + SCRIPT["count"])

    return [Act(act, when) for when in range(3)]


def loggers() -> Callbacks:
    directory = Path(tempfile.mkdtemp())
    return [
        keras.callbacks.CSVLogger(str(directory / "log.csv")),
        keras.callbacks.TensorBoard(str(directory)),
    ]


def one_after_another() -> Callbacks:
    return [Stepped(0.5), Stepped(0.9)]


class Stepped(keras.callbacks.Callback):
    """Two of one class, with states of their own."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.value = factor, 1.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.value *= self.factor
        variable = self.model.optimizer.learning_rate
        variable.assign(0.05 * self.value + 0.1 * ops.convert_to_numpy(variable))

    def get_state(self) -> dict[str, Any]:
        return {"value": self.value}

    def set_state(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def keeping(make: Callable[[], Any], expected: Any = None) -> Kind:
    expected = expected or named(make.__name__)
    return Kind(noisy, callbacks=lambda: [make()], expected=expected)


KINDS = {
    "a callback with get_state": Kind(noisy, callbacks=lambda: [Stateful()]),
    "a callback without get_state": Kind(
        noisy, callbacks=lambda: [Unsaying()], expected=named("Unsaying.*factor")
    ),
    "a callback that changes an array in place": Kind(
        noisy, callbacks=lambda: [KeepsArray()], expected=named("KeepsArray.*mean")
    ),
    "a callback that keeps an object": Kind(
        noisy, callbacks=lambda: [KeepsObject()], expected=named("KeepsObject")
    ),
    "a LambdaCallback over a variable": Kind(
        noisy, callbacks=closure, expected=named("LambdaCallback")
    ),
    "a callback that changes a dictionary": keeping(InDictionary),
    "a callback that permutes an array": keeping(InPermutation),
    "a callback that keeps a variable": keeping(InVariable),
    "a callback that keeps a generator": keeping(InGenerator),
    "a callback that keeps weights in a list": keeping(InWeights),
    "a subclass of EarlyStopping": keeping(MorePatient),
    "a LearningRateScheduler over a variable": Kind(
        noisy, callbacks=scheduled_by_closure, expected=named("LearningRateScheduler")
    ),
    "CSVLogger and TensorBoard": Kind(noisy, callbacks=loggers, backends=(TENSORFLOW,)),
    "two callbacks of one class": Kind(noisy, callbacks=one_after_another),
    "a callback over a variable of the script": Kind(
        noisy, callbacks=of_the_script, expected=named("Act|SCRIPT")
    ),
}
