"""One small model of every kind that checkpoints support."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, optimizers

Data = tuple[Any, Any]
ZOO: dict[str, Entry]
ROWS = 32
# With one of these settings, a model is compiled into a graph as usual.
GRAPH = {"jit_compile", "steps_per_execution"}


@dataclass(frozen=True)
class Entry:
    """A kind of model.

    Attributes:
        build: Returns a model, compiled if it can be trained.
        data: Returns its training data: inputs and targets.
        custom_objects: The custom objects that a loader needs.
        formats: The full formats to save it in; HDF5 where that takes a different path.
        forms: The forms that can hold it.
        compiled: Whether it can be trained.
    """

    build: Callable[[], keras.Model]
    data: Callable[[], Data]
    custom_objects: Mapping[str, Any] = field(default_factory=dict)
    formats: tuple[str, ...] = ("keras", "h5")
    forms: tuple[str, ...] = ("full", "split")
    compiled: bool = True


def vectors() -> Data:
    """Eight features and one target that a linear model can learn."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 8)).astype("float32")
    return x, (x[:, :1] - 2 * x[:, 1:2] + 0.5).astype("float32")


def pairs() -> Data:
    """Two named inputs, two named targets."""
    x, y = vectors()
    return {"left": x, "right": x[:, ::-1].copy()}, {"value": y, "sign": (y > 0).astype("float32")}


def images() -> Data:
    """Small images with three classes."""
    rng = np.random.default_rng(0)
    x = rng.random((ROWS, 8, 8, 3)).astype("float32")
    return x, np.argmax(x.mean(axis=(1, 2)), axis=1)


def sequences() -> Data:
    """Sequences of token ids, and whether the first is the larger."""
    x = np.random.default_rng(0).integers(0, 20, (ROWS, 6))
    return x, (x[:, :1] > x[:, 1:2]).astype("float32")


def words() -> Data:
    """Sentences, one string a row, and a target."""
    x = [[["red dog", "blue cat", "the red cat"][i % 3]] for i in range(ROWS)]
    return tf.constant(x), np.array([[i % 3 / 2] for i in range(ROWS)], "float32")


def compiled(model: keras.Model, optimizer: Any = None, **settings: Any) -> keras.Model:
    """Compile for a quick training: large steps, and eager, because tracing takes a second."""
    settings = {"loss": "mse", "run_eagerly": not GRAPH & settings.keys(), **settings}
    model.compile(optimizer or optimizers.Adam(0.01), **settings)
    return model


def perceptron(*, dtype: Any = None) -> keras.Model:
    """Two dense layers."""
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(12, activation="tanh", dtype=dtype),
            layers.Dense(1, dtype=dtype),
        ]
    )


def lazy_sequential() -> keras.Model:
    """A model without an Input, whose weights are created by the first batch."""
    return compiled(keras.Sequential([layers.Dense(12, activation="tanh"), layers.Dense(1)]))


def several_inputs_and_outputs() -> keras.Model:
    """Named inputs and outputs with losses of their own."""
    left, right = keras.Input((8,), name="left"), keras.Input((8,), name="right")
    both = layers.Concatenate()([left, layers.Dense(4)(right)])
    value = layers.Dense(1, name="value")(both)
    sign = layers.Dense(1, activation="sigmoid", name="sign")(both)
    return compiled(
        keras.Model([left, right], {"value": value, "sign": sign}),
        loss={"value": "mse", "sign": "binary_crossentropy"},
        loss_weights={"value": 1.0, "sign": 0.5},
        metrics={"value": ["mae"], "sign": ["accuracy"]},
    )


@keras.saving.register_keras_serializable("zoo")
class Regressor(keras.Model):
    """A subclassed model that can describe itself."""

    def __init__(self, units: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.hidden = layers.Dense(units, activation="tanh")
        self.drop = layers.Dropout(0.1)
        self.heads = [layers.Dense(1), layers.Dense(1)]

    def call(self, x: Any, training: bool = False) -> Any:
        hidden = self.drop(self.hidden(x), training=training)
        return self.heads[0](hidden) + self.heads[1](x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("zoo")
class Scale(layers.Layer):
    """A custom layer that is registered, with a weight of each kind."""

    def __init__(self, start: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start = start

    def build(self, input_shape: Any) -> None:
        initial = keras.initializers.Constant(self.start)
        self.factor = self.add_weight(shape=(input_shape[-1],), initializer=initial, name="factor")
        self.calls = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False, name="calls"
        )

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.calls.assign_add(1)
        return x * self.factor

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "start": self.start}


class Shift(layers.Layer):
    """A custom layer that is not registered."""

    def build(self, input_shape: Any) -> None:
        self.offset = self.add_weight(shape=(input_shape[-1],), name="offset")

    def call(self, x: Any) -> Any:
        return x + self.offset


@keras.saving.register_keras_serializable("zoo")
def huber_like(y_true: Any, y_pred: Any) -> Any:
    """A custom loss function that is registered."""
    return keras.ops.mean(keras.ops.sqrt(1.0 + keras.ops.square(y_true - y_pred)) - 1.0, axis=-1)


def with_layer(*inserted: layers.Layer) -> keras.Model:
    """A perceptron with other layers in the middle."""
    return compiled(
        keras.Sequential([keras.Input((8,)), layers.Dense(12), *inserted, layers.Dense(1)])
    )


def augmented_images() -> keras.Model:
    """Layers that draw random numbers, a convolution, batch statistics."""
    return compiled(
        keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.RandomFlip("horizontal", seed=5),
                layers.GaussianNoise(0.05),
                layers.Conv2D(4, 3),
                layers.BatchNormalization(),
                layers.SpatialDropout2D(0.1),
                layers.GlobalAveragePooling2D(),
                layers.Dense(3, activation="softmax"),
            ]
        ),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")],
    )


def recurrent() -> keras.Model:
    """An embedding, a bidirectional LSTM with dropout inside."""
    return compiled(
        keras.Sequential(
            [
                keras.Input((6,), dtype="int32"),
                layers.Embedding(20, 4, mask_zero=True),
                layers.Bidirectional(layers.LSTM(3, dropout=0.1)),
                layers.Dense(1, activation="sigmoid"),
            ]
        ),
        loss="binary_crossentropy",
        metrics=[keras.metrics.AUC(num_thresholds=20)],
    )


def shared_layers() -> keras.Model:
    """One layer used in two places."""
    left, right = keras.Input((8,), name="left"), keras.Input((8,), name="right")
    twin = layers.Dense(4, activation="tanh")
    both = layers.Concatenate()([twin(left), twin(right)])
    outputs = {"value": layers.Dense(1, name="value")(both), "sign": layers.Dense(1)(both)}
    return compiled(keras.Model([left, right], outputs), loss={"value": "mse", "sign": "mse"})


def frozen() -> keras.Model:
    """A layer that is not trainable."""
    model = with_layer(layers.Dense(6, name="frozen"), layers.BatchNormalization())
    model.get_layer("frozen").trainable = False
    return compiled(model)


def nested() -> keras.Model:
    """Models within a model."""
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(6), layers.Dropout(0.1)], name="inner"
    )
    deep = keras.Sequential([keras.Input((6,)), layers.Dense(3), layers.Dense(1)], name="deep")
    inputs = keras.Input((8,))
    return compiled(keras.Model(inputs, deep(inner(inputs))))


def string_lookup() -> keras.Model:
    """A vocabulary adapted to data, which is stored in a file besides the weights."""
    lookup = layers.StringLookup(output_mode="multi_hot")
    lookup.adapt(np.array(["red dog", "blue cat", "the red cat"]))
    return compiled(keras.Sequential([keras.Input((1,), dtype="string"), lookup, layers.Dense(1)]))


def text_vectorization() -> keras.Model:
    """Sentences to token ids to an embedding."""
    vectorize = layers.TextVectorization(output_sequence_length=4)
    vectorize.adapt(words()[0])
    return compiled(
        keras.Sequential(
            [
                keras.Input((1,), dtype="string"),
                vectorize,
                layers.Embedding(10, 3),
                layers.Flatten(),
                layers.Dense(1),
            ]
        )
    )


def normalization() -> keras.Model:
    """Statistics of the data as weights that are not trainable."""
    layer = layers.Normalization()
    layer.build((None, 8))
    layer.adapt(vectors()[0] * 3 + 1)
    return compiled(keras.Sequential([keras.Input((8,)), layer, layers.Dense(1)]))


def loss_scaled() -> keras.Model:
    """Half precision with a loss scale."""
    return compiled(
        perceptron(dtype="mixed_float16"),
        optimizers.LossScaleOptimizer(optimizers.Adam(0.01), dynamic_growth_steps=3),
    )


def decayed_adamw() -> keras.Model:
    """A learning-rate schedule, weight decay and clipped gradients."""
    schedule = optimizers.schedules.CosineDecay(0.02, 100)
    return compiled(perceptron(), optimizers.AdamW(schedule, weight_decay=1e-3, clipnorm=1.0))


def averaged(**settings: Any) -> keras.Model:
    """An optimizer that keeps a moving average of the weights."""
    return compiled(perceptron(), optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9, **settings))


ZOO = {
    "sequential": Entry(
        lambda: compiled(perceptron(), metrics=["mae"], jit_compile=False), vectors
    ),
    "sequential without Input": Entry(lazy_sequential, vectors, formats=("keras",)),
    "several inputs and outputs": Entry(several_inputs_and_outputs, pairs),
    "subclassed": Entry(lambda: compiled(Regressor(5)), vectors, formats=("keras",)),
    "registered layer": Entry(lambda: with_layer(Scale(0.5)), vectors),
    "unregistered layer": Entry(lambda: with_layer(Shift()), vectors, {"Shift": Shift}),
    "batch normalization": Entry(lambda: with_layer(layers.BatchNormalization()), vectors),
    "dropout": Entry(lambda: with_layer(layers.Dropout(0.2)), vectors),
    "augmentation": Entry(augmented_images, images, formats=("keras",)),
    "recurrent": Entry(recurrent, sequences, formats=("keras",)),
    "mixed_float16": Entry(loss_scaled, vectors),
    "mixed_bfloat16": Entry(
        lambda: compiled(perceptron(dtype="mixed_bfloat16")), vectors, formats=("keras",)
    ),
    # Adam makes no progress in bfloat16, which rounds its beta_2 up to 1.
    "bfloat16": Entry(
        lambda: compiled(perceptron(dtype="bfloat16"), optimizers.SGD(0.1, momentum=0.5)),
        vectors,
        formats=("keras",),
    ),
    "moving average": Entry(averaged, vectors),
    "moving average, overwriting": Entry(
        lambda: averaged(ema_overwrite_frequency=3), vectors, formats=("keras",)
    ),
    "gradient accumulation": Entry(
        lambda: compiled(perceptron(), optimizers.Adam(0.01, gradient_accumulation_steps=3)),
        vectors,
    ),
    "momentum": Entry(
        lambda: compiled(perceptron(), optimizers.SGD(0.01, momentum=0.9, nesterov=True)), vectors
    ),
    "plain sgd": Entry(lambda: compiled(perceptron(), "sgd"), vectors, formats=("keras",)),
    "schedule": Entry(decayed_adamw, vectors),
    "shared layers": Entry(shared_layers, pairs, formats=("keras",)),
    "frozen layers": Entry(frozen, vectors),
    "uncompiled": Entry(perceptron, vectors, compiled=False),
    "string lookup": Entry(string_lookup, words, formats=("keras",), forms=("full",)),
    "text vectorization": Entry(text_vectorization, words, formats=("keras",), forms=("full",)),
    "normalization": Entry(normalization, vectors),
    "nested models": Entry(nested, vectors),
    "registered loss": Entry(lambda: compiled(perceptron(), loss=huber_like), vectors),
    "just-in-time compiled": Entry(
        lambda: compiled(perceptron(), jit_compile=True), vectors, formats=("keras",)
    ),
    "steps per execution": Entry(
        lambda: compiled(perceptron(), steps_per_execution=2), vectors, formats=("keras",)
    ),
}
