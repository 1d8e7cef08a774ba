"""Layers that draw random numbers, from everything that has some."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.support.kinds.kind import JAX, TENSORFLOW, TORCH, Kind, named, refused
from tests.support.kinds.models import dense

# Where a layer can draw anew at each call in Python.
EAGER = (TENSORFLOW, TORCH)
register = keras.saving.register_keras_serializable("kinds")


@register
class PlainGenerator(layers.Layer):
    """Draws from a generator of TensorFlow's own."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        import tensorflow as tf

        self.random = tf.random.Generator.from_seed(3)

    def call(self, x: Any) -> Any:
        return x + self.random.normal(ops.shape(x), stddev=0.1)


@register
class NumpyGenerator(layers.Layer):
    """Draws from NumPy's generator, in eager mode."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.random = np.random.default_rng(3)

    def call(self, x: Any) -> Any:
        return x * float(1 + 0.1 * self.random.normal())


@register
class PythonGenerator(layers.Layer):
    """Draws from one of Python's generators, in eager mode."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._random = random.Random(3)

    def call(self, x: Any) -> Any:
        return x * (1 + 0.1 * self._random.random())


@register
class Noise(layers.Layer):
    """Draws with a seed generator that it is given, and shares."""

    def __init__(self, seed_generator: Any = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.seed_generator = seed_generator or keras.random.SeedGenerator(5)

    def call(self, x: Any) -> Any:
        return x + keras.random.normal(ops.shape(x), stddev=0.1, seed=self.seed_generator)

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


@register
class GlobalNoise(layers.Layer):
    """Draws from Keras's global generator."""

    def call(self, x: Any) -> Any:
        return x + keras.random.normal(ops.shape(x), stddev=0.1)


@register
class BackendNoise(layers.Layer):
    """Draws with TensorFlow's stateful random operations."""

    def call(self, x: Any) -> Any:
        import tensorflow as tf

        return x + tf.random.normal(tf.shape(x), stddev=0.1)


@register
class TorchNoise(layers.Layer):
    """Draws from PyTorch's global generator."""

    def call(self, x: Any) -> Any:
        import torch

        return x + 0.1 * torch.randn_like(x)


def shared_generator() -> keras.Model:
    generator = keras.random.SeedGenerator(5)
    return dense(Noise(generator), Noise(generator))


def drops(layer: Any, **settings: Any) -> Kind:
    return Kind(lambda: dense(layer()), **settings)


@register
class Initializing(layers.Layer):
    """Makes an initializer in each call, which draws a seed for itself."""

    def call(self, x: Any) -> Any:
        return x + keras.initializers.RandomNormal(stddev=0.1)(ops.shape(x)[1:])


@register
class Seeded(layers.Layer):
    """The same with a seed."""

    def call(self, x: Any) -> Any:
        return x + keras.initializers.RandomNormal(stddev=0.1, seed=4)(ops.shape(x)[1:])


KINDS = {
    "an initializer made in call": drops(Initializing, backends=EAGER),
    "an initializer made in call, in a graph": Kind(
        lambda: dense(Initializing(), run_eagerly=False, jit_compile=False),
        backends=(TENSORFLOW, JAX),
        expected=named("RandomNormal"),
    ),
    "an initializer with a seed made in call, in a graph": Kind(
        lambda: dense(Seeded(), run_eagerly=False, jit_compile=False), backends=(TENSORFLOW, JAX)
    ),
    "a tf.random.Generator in a layer": drops(PlainGenerator, backends=(TENSORFLOW,)),
    "a NumPy generator in a layer": drops(
        NumpyGenerator,
        backends=EAGER,
    ),
    "a Python generator in a layer": drops(
        PythonGenerator,
        backends=EAGER,
    ),
    "a generator that two layers share": Kind(
        shared_generator, expected=refused("seed generators")
    ),
    "Keras's global generator": drops(GlobalNoise, backends=EAGER),
    "tf.random.normal, eager": drops(BackendNoise, backends=(TENSORFLOW,)),
    "tf.random.normal in a graph": Kind(
        lambda: dense(BackendNoise(), run_eagerly=False, jit_compile=False),
        backends=(TENSORFLOW,),
        expected=named("random"),
    ),
    "torch.randn in call": drops(TorchNoise, backends=(TORCH,)),
}
