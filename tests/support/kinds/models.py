"""Small compiled models that kinds are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from tests.support.kinds.kind import X, Y

IMAGES = np.random.default_rng(1).random((8, 8, 8, 3)).astype("float32")
CLASSES = np.arange(8) % 3
STEPS = np.random.default_rng(2).normal(size=(8, 4, 3)).astype("float32")
TOTALS = STEPS.sum(axis=(1, 2), keepdims=True)[:, :, 0]
TOKENS = np.random.default_rng(3).integers(1, 20, (8, 5))
SIGNS = (TOKENS[:, :1] > TOKENS[:, 1:2]).astype("float32")


def finished(model: keras.Model, optimizer: Any = None, **settings: Any) -> keras.Model:
    """Compile a model, eager because tracing takes longer than its few steps."""
    settings = {"loss": "mse", "run_eagerly": True, **settings}
    model.compile(keras.optimizers.SGD(0.05, 0.5) if optimizer is None else optimizer, **settings)
    return model


def dense(
    *inside: Any, optimizer: Any = None, dtype: Any = None, units: int = 4, **settings: Any
) -> keras.Model:
    """Two dense layers with others between them, for vectors."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(units, activation="tanh", bias_initializer="ones", dtype=dtype),
            *inside,
            layers.Dense(1, dtype=dtype),
        ]
    )
    return finished(model, optimizer, **settings)


def images(*inside: Any, **settings: Any) -> keras.Model:
    """Layers for images, and a linear classifier."""
    settings = {"loss": "sparse_categorical_crossentropy", **settings}
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), *inside, layers.Flatten(), layers.Dense(3, activation="softmax")]
    )
    return finished(model, **settings)


def recurrent(*inside: Any, batch_size: int | None = None, **settings: Any) -> keras.Model:
    """Layers for sequences of vectors, and a linear one."""
    model = keras.Sequential([keras.Input((4, 3), batch_size=batch_size), *inside, layers.Dense(1)])
    return finished(model, **settings)


def tokens(*inside: Any, **settings: Any) -> keras.Model:
    """Layers for sequences of numbered tokens, and a classifier."""
    model = keras.Sequential(
        [keras.Input((5,), dtype="int32"), *inside, layers.Dense(1, activation="sigmoid")]
    )
    return finished(model, **{"loss": "binary_crossentropy", **settings})


def rows(x: Any, y: Any) -> Callable[[], dict[str, Any]]:
    """Return a function that returns arrays for `fit`, in their order."""
    return lambda: {"x": x, "y": y, "batch_size": 4, "shuffle": False}


image_rows, step_rows, token_rows = rows(IMAGES, CLASSES), rows(STEPS, TOTALS), rows(TOKENS, SIGNS)
vector_rows = rows(X, Y)
