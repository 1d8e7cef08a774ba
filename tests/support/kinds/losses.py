"""Losses and metrics: Keras's settings of them, and the user's own, with state."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

import mlflow_ckpt
from tests.support.kinds.kind import (
    EXACT,
    JAX,
    TENSORFLOW,
    TORCH,
    Callbacks,
    Expected,
    Kind,
    Raises,
    X,
    epoch_data,
    named,
    refused,
    restores,
    sorted_data,
)  # fmt: skip
from tests.support.kinds.models import dense

register = keras.saving.register_keras_serializable("kinds")


@register
class Smoothed(keras.losses.Loss):
    """A loss with a moving average in a variable."""

    def __init__(self, name: str = "smoothed", reduction: str = "mean") -> None:
        super().__init__(name=name, reduction=reduction)
        self.scale = keras.Variable(1.0, trainable=False, name="scale")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        error = ops.mean(ops.abs(y_true - y_pred), axis=-1)
        self.scale.assign(0.8 * self.scale + 0.2 * ops.stop_gradient(ops.mean(error)))
        return error / self.scale


@register
class Annealed(keras.losses.Loss):
    """A loss that a callback weighs anew (`beta`), which its config lacks."""

    beta = 1.0

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.beta * ops.mean(ops.square(y_true - y_pred), axis=-1)


class Anneals(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.loss.beta = self.model.loss.beta * 0.5


@register
class Lasting(keras.metrics.Metric):
    """A metric that is not reset between epochs."""

    def __init__(self, name: str = "lasting", **settings: Any) -> None:
        super().__init__(name=name, **settings)
        self.highest = self.add_variable((), "zeros", name="highest")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        error = ops.max(ops.abs(ops.cast(y_true, "float32") - y_pred))
        self.highest.assign(self.highest + error)

    def result(self) -> Any:
        return ops.convert_to_tensor(self.highest)  # JAX takes no variables

    def reset_state(self) -> None:
        pass


@register
class InPython(Lasting):
    """The same, and counted in Python."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.updates = 0

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.updates += 1

    def result(self) -> Any:
        return float(self.updates)


def a_loss_function(y_true: Any, y_pred: Any) -> Any:
    return ops.mean(ops.abs(y_true - y_pred), axis=-1)


def own_activation(x: Any) -> Any:
    return ops.tanh(x) * 2


def restores_another_delta(run_id: str, _: Kind, callbacks: Callbacks) -> Any:
    model = dense(loss=keras.losses.Huber(delta=0.5))
    return mlflow_ckpt.restore(model, run_id, callbacks=callbacks)


KINDS = {
    "Huber with a delta": Kind(lambda: dense(loss=keras.losses.Huber(delta=0.1))),
    "Huber with a delta, restored": Kind(
        lambda: dense(loss=keras.losses.Huber(delta=0.1)), go_on=restores
    ),
    "Huber with another delta, restored": Kind(
        lambda: dense(loss=keras.losses.Huber(delta=0.1)),
        go_on=restores_another_delta,
        expected=named("delta"),
    ),
    "a loss and a metric over another axis": Kind(
        lambda: dense(
            loss=keras.losses.CosineSimilarity(axis=0),
            metrics=[keras.metrics.CosineSimilarity(axis=0), "mae"],
            weighted_metrics=[keras.metrics.CosineSimilarity(axis=0, name="another")],
        )
    ),
    "a loss with state": Kind(lambda: dense(loss=Smoothed())),
    "a loss that a callback changes": Kind(
        lambda: dense(loss=Annealed()),
        callbacks=lambda: [Anneals()],
        backends=(TENSORFLOW, TORCH),
    ),
    "a loss that is a lambda": Kind(
        lambda: dense(loss=lambda y, p: ops.mean(ops.square(y - p), axis=-1)),
        expected=refused("lambda"),
    ),
    "a loss that is a lambda, restored": Kind(
        lambda: dense(loss=lambda y, p: ops.mean(ops.square(y - p), axis=-1)),
        go_on=restores,
        expected=Expected(EXACT, "lambda"),
    ),
    "a loss that is a function": Kind(
        lambda: dense(loss=a_loss_function),
        custom_objects={"a_loss_function": a_loss_function},
        expected=Expected(EXACT, "custom_objects"),
    ),
    "a metric that lasts": Kind(lambda: dense(metrics=[Lasting()])),
    "a metric that lasts, stopped inside an epoch": Kind(
        lambda: dense(metrics=[Lasting(), "mae"]), data=epoch_data, stop=Raises()
    ),
    "a metric that lasts, with weights": Kind(
        lambda: dense(weighted_metrics=[Lasting()]),
        data=lambda: {**sorted_data(), "sample_weight": abs(X[:, 0])},
    ),
    "a metric that counts in Python": Kind(
        lambda: dense(metrics=[InPython()]),
        backends=(TENSORFLOW, TORCH),
    ),
    "weighted metrics and sample weights": Kind(
        lambda: dense(metrics=["mae"], weighted_metrics=["mse"]),
        data=lambda: {**sorted_data(), "sample_weight": abs(X[:, 0])},
    ),
    "several steps per execution": Kind(
        lambda: dense(
            layers.Dropout(0.3), steps_per_execution=2, run_eagerly=False, jit_compile=False
        ),
        backends=(TENSORFLOW, JAX),
    ),
    "an activation that is not registered": Kind(
        lambda: dense(layers.Dense(3, activation=own_activation)),
        expected=refused("own_activation"),
    ),
}
