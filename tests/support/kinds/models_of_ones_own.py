"""Ways of building a model, and policies of its dtypes."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from tests.support.kinds.kind import (
    EXACT,
    JAX,
    TENSORFLOW,
    TORCH,
    Callbacks,
    Expected,
    Kind,
    X,
    Y,
    named,
    refused,
    restores,
    resumes,
)  # fmt: skip
from tests.support.kinds.models import dense, finished, rows

register = keras.saving.register_keras_serializable("kinds")


@register
class Subclassed(keras.Model):
    """A model with layers in attributes, lists and dictionaries."""

    def __init__(self, units: int = 4, **settings: Any) -> None:
        super().__init__(**settings)
        self.units = units
        self.first = layers.Dense(units, activation="tanh")
        self.heads = [layers.Dense(1), layers.Dense(1)]
        self.others = {"drop": layers.Dropout(0.3), "norm": layers.BatchNormalization()}

    def call(self, x: Any, training: bool = False) -> Any:
        hidden = self.others["drop"](self.first(x), training=training)
        hidden = self.others["norm"](hidden, training=training)
        return self.heads[0](hidden) + self.heads[1](x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@register
class Tied(keras.Model):
    """A model whose decoder uses the weights of its encoder."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.encoder = layers.Dense(6, use_bias=False)
        self.out = layers.Dense(1)

    def call(self, x: Any) -> Any:
        code = ops.tanh(self.encoder(x))
        return self.out(ops.matmul(code, ops.transpose(self.encoder.kernel)))


@register
class Stepping(keras.Model):
    """Counts its training steps in Python, which changes what it computes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.out = layers.Dense(1)
        self.steps = 0

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.steps += 1
        return self.out(x) * min(1.0, 0.1 * self.steps)


@register
class Routed(keras.Model):
    """Its build makes other layers, by a shape."""

    def build(self, shape: Any) -> None:
        self.rows = [layers.Dense(1) for _ in range(shape[-1] // 2)]
        for row in self.rows:
            row.build((None, 2))
        self.built = True

    def call(self, x: Any) -> Any:
        parts = [row(x[:, 2 * i : 2 * i + 2]) for i, row in enumerate(self.rows)]
        return ops.sum(ops.concatenate(parts, axis=-1), axis=-1, keepdims=True)


def functional() -> keras.Model:
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    twin = layers.Dense(4, activation="tanh", name="twin")
    both = layers.Concatenate()([twin(left), layers.Dropout(0.3)(twin(right))])
    outputs = {"value": layers.Dense(1, name="value")(both), "other": layers.Dense(1)(both)}
    return finished(
        keras.Model({"left": left, "right": right}, outputs),
        loss={"value": "mse", "other": "mae"},
        loss_weights={"value": 1.0, "other": 0.5},
        metrics={"value": ["mae"]},
    )


def functional_data() -> dict[str, Any]:
    return rows({"left": X, "right": X[:, ::-1].copy()}, {"value": Y, "other": Y * 2})()


def nested() -> keras.Model:
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.Dropout(0.3)])
    deep = keras.Sequential([keras.Input((4,)), inner_norm(), Subclassed(3)])
    inputs = keras.Input((6,))
    return finished(keras.Model(inputs, deep(inner(inputs))))


def inner_norm() -> layers.Layer:
    return layers.BatchNormalization(momentum=0.7)


def frozen() -> keras.Model:
    model = dense(layers.BatchNormalization(), layers.Dense(3))
    model.layers[1].trainable = model.layers[2].trainable = False
    return finished(model)


def with_lambda() -> keras.Model:
    return dense(layers.Lambda(lambda x: x * 2.0))


@register
def doubled(x: Any) -> Any:
    return x * 2.0


def policies() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, dtype="mixed_bfloat16"),
            layers.Dropout(0.3, dtype="float16"),
            layers.Dense(4, dtype="mixed_float16"),
            layers.Dense(1, dtype="float32"),
        ]
    )
    return finished(model)


def in_float64() -> keras.Model:
    keras.config.set_floatx("float64")  # for the whole process, as scripts do
    return dense(layers.Dropout(0.3), dtype="float64")


def in_floats_of_64(run_id: str, kind: Kind, callbacks: Callbacks) -> Any:
    keras.config.set_floatx("float64")
    return resumes(run_id, kind, callbacks)


def same_names() -> keras.Model:
    """Layers of one name in different submodels."""

    def part() -> keras.Model:
        return keras.Sequential(
            [keras.Input((6,)), layers.Dense(6, name="same"), layers.Dropout(0.3, name="drop")]
        )

    inputs = keras.Input((6,))
    return finished(keras.Model(inputs, layers.Dense(1, name="same")(part()(part()(inputs)))))


def same_paths() -> keras.Model:
    """Functional submodels whose layers have the same names: their variables have equal paths."""

    def part() -> keras.Model:
        inputs = keras.Input((6,))
        return keras.Model(inputs, layers.Dense(6, name="same")(inputs))

    inputs = keras.Input((6,))
    return finished(keras.Model(inputs, layers.Dense(1)(part()(part()(inputs)))))


def one_model_twice() -> keras.Model:
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6), layers.Dropout(0.3)])
    inputs = keras.Input((6,))
    return finished(keras.Model(inputs, layers.Dense(1)(inner(inner(inputs)))))


def _built(model: keras.Model) -> keras.Model:
    model(X[:1])
    return finished(model)


KINDS = {
    "a subclassed model": Kind(lambda: finished(Subclassed(4))),
    "a subclassed model, restored": Kind(lambda: _built(Subclassed(4)), go_on=restores),
    "a model with tied weights": Kind(lambda: finished(Tied())),
    "a model that counts in Python": Kind(
        lambda: finished(Stepping()),
        backends=(TENSORFLOW, TORCH),
    ),
    "a model that makes layers in build": Kind(lambda: finished(Routed())),
    "inputs and outputs in dictionaries": Kind(functional, data=functional_data),
    "models inside models": Kind(nested),
    "a model without an Input": Kind(
        lambda: finished(keras.Sequential([layers.Dense(4), layers.Dropout(0.3), layers.Dense(1)]))
    ),
    "frozen layers": Kind(frozen),
    "a Lambda of a lambda": Kind(with_lambda, expected=refused("[Ll]ambda")),
    "a Lambda of a lambda, restored": Kind(
        with_lambda, go_on=restores, expected=Expected(EXACT, "[Ll]ambda")
    ),
    "a Lambda of a registered function": Kind(lambda: dense(layers.Lambda(doubled))),
    "policies layer by layer": Kind(policies),
    "bfloat16": Kind(lambda: dense(layers.Dropout(0.3), dtype="bfloat16")),
    "float64": Kind(in_float64, go_on=in_floats_of_64, backends=(TENSORFLOW, TORCH)),
    "float64, which the later process forgot": Kind(
        in_float64, backends=(TENSORFLOW, TORCH), expected=named("floatx")
    ),
    "layers of the same name": Kind(same_names),
    # On PyTorch, Keras itself adds up the gradients of variables with equal paths.
    "layers of the same path": Kind(
        same_paths, expected_on={TORCH: named("have the path 'same/kernel'")}
    ),
    "a submodel used twice": Kind(one_model_twice),
    "a compiled graph": Kind(
        lambda: dense(layers.Dropout(0.3), run_eagerly=False, jit_compile=False),
        backends=(TENSORFLOW, JAX),
    ),
}
