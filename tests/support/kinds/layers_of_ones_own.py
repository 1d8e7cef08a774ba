"""Layers and models that users write: states that Keras does not know, configs that lack some."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.support.kinds.kind import (
    EXACT,
    TENSORFLOW,
    TORCH,
    Expected,
    Kind,
    X,
    Y,
    restores,
)
from tests.support.kinds.models import dense, finished, rows

# Where a layer can keep state of its own in Python, call by call.
EAGER = (TENSORFLOW, TORCH)
register = keras.saving.register_keras_serializable("kinds")


@register
class PlainVariable(layers.Layer):
    """Keeps a moving maximum in a variable of TensorFlow's own."""

    def build(self, shape: Any) -> None:
        import tensorflow as tf

        self.highest = tf.Variable(1.0, trainable=False)

    def call(self, x: Any) -> Any:
        self.highest.assign(0.5 * self.highest + ops.max(ops.abs(x)))
        return x / self.highest


@register
class Counting(layers.Layer):
    """Counts its calls in Python, in eager mode, and warms up with them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.calls = 0

    def call(self, x: Any) -> Any:
        self.calls += 1
        return x * min(1.0, 0.1 * self.calls)


@register
class PrivateCount(layers.Layer):
    """The same, in an attribute of an object that it keeps for itself."""

    class Box:
        def __init__(self) -> None:
            self._n = 0

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._box = self.Box()

    def call(self, x: Any) -> Any:
        self._box._n += 1
        return x * min(1.0, 0.1 * self._box._n)


@register
class Remembering(layers.Layer):
    """Adds the mean of the batch before, which it keeps as a plain array, in eager mode."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.last = np.zeros(4, "float32")

    def call(self, x: Any) -> Any:
        before = self.last
        self.last = np.asarray(ops.convert_to_numpy(ops.mean(ops.stop_gradient(x), axis=0)))
        return x + 0.5 * ops.convert_to_tensor(before)


@register
class Queue(layers.Layer):
    """Keeps the means of the last batches in a list that grows, in eager mode."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.recent: list[float] = []

    def call(self, x: Any) -> Any:
        self.recent.append(float(ops.convert_to_numpy(ops.mean(x))))
        return x + sum(self.recent[-4:])


@register
class HiddenLayer(layers.Layer):
    """Keeps a layer where Keras does not look for one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.hidden = {"the": (lambda made: lambda: made)(layers.Dropout(0.4))}

    def call(self, x: Any, training: bool = False) -> Any:
        return self.hidden["the"]()(x, training=training)


@register
class Buffer(layers.Layer):
    """Keeps its state in a buffer of a PyTorch module."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        import torch

        self.inner = torch.nn.BatchNorm1d(4, momentum=0.4)

    def call(self, x: Any, training: bool = False) -> Any:
        self.inner.train(training)
        return self.inner(x)


@register
class Forgetful(layers.Layer):
    """Its config lacks an argument."""

    def __init__(self, factor: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.factor = factor

    def call(self, x: Any) -> Any:
        return x * self.factor

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


@register
class Counter(layers.Layer):
    """Counts in a variable that Keras knows, and draws with its seed generator."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.drop = layers.Dropout(0.3)

    def build(self, shape: Any) -> None:
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, x: Any, training: bool = False) -> Any:
        self.count.assign_add(1.0)
        return self.drop(x, training=training) / ops.sqrt(self.count)


class Unregistered(layers.Layer):
    """A layer that is passed to `custom_objects`."""

    def build(self, shape: Any) -> None:
        self.offset = self.add_weight(shape=(shape[-1],), name="offset")

    def call(self, x: Any) -> Any:
        return x + self.offset


@register
class Inside(layers.Wrapper):
    """Calls another layer."""

    def call(self, x: Any) -> Any:
        return self.layer(x)


@register
class SavesItself(layers.Layer):
    """Has save_own_variables and load_own_variables that keep only a part."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        self.shift = self.add_weight(shape=(shape[-1],), initializer="zeros", name="shift")

    def call(self, x: Any) -> Any:
        return x * self.scale + self.shift

    def save_own_variables(self, store: Any) -> None:
        store["scale"] = np.asarray(ops.convert_to_numpy(self.scale))

    def load_own_variables(self, store: Any) -> None:
        self.scale.assign(store["scale"])


def used_directly_and_inside() -> keras.Model:
    first, second = keras.Input((6,)), keras.Input((6,))
    shared = layers.Dense(1)
    model = keras.Model([first, second], shared(first) + Inside(shared)(second))
    return finished(model)


def drops(layer: Any, **settings: Any) -> Kind:
    return Kind(lambda: dense(layer()), **settings)


KINDS = {
    "a plain tf.Variable in a layer": drops(PlainVariable, backends=(TENSORFLOW,)),
    "a layer that counts in Python": drops(Counting, backends=EAGER),
    "a layer whose helper counts in Python": drops(PrivateCount, backends=EAGER),
    "a layer that keeps a plain array": drops(
        Remembering,
        backends=EAGER,
    ),
    "a layer that keeps a list": drops(Queue, backends=EAGER),
    "a layer in a closure of a layer": drops(HiddenLayer),
    "a PyTorch module in a layer": drops(Buffer, backends=(TORCH,)),
    "a config that lacks an argument": drops(lambda: Forgetful(0.5)),
    "a config that lacks an argument, restored": drops(lambda: Forgetful(0.5), go_on=restores),
    "a layer with a counter and an own Dropout": drops(Counter),
    "a layer given as custom object": drops(
        Unregistered,
        custom_objects={"Unregistered": Unregistered},
        expected=Expected(EXACT, "custom_objects"),
    ),
    "a layer used directly and inside a wrapper": Kind(
        used_directly_and_inside,
        data=rows([X, X[:, ::-1].copy()], Y),
    ),
    "a layer that saves only a part of itself": drops(SavesItself),
}
