"""Kinds that were made to be silently wrong: state in places where nobody looks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.support.kinds.kind import (
    BATCH,
    TENSORFLOW,
    TORCH,
    Callbacks,
    Kind,
    Raises,
    X,
    Y,
    at_least_named,
    named,
    sorted_data,
)  # fmt: skip
from tests.support.kinds.models import dense, finished
from tests.support.kinds.trainings import NOT_ON_JAX, Act, acting, dropout, noisy

register = keras.saving.register_keras_serializable("kinds")
EAGER = (TENSORFLOW, TORCH)
# What a training script keeps in its module.
SCRIPT: dict[str, Any] = {}


@register
def annealed(y_true: Any, y_pred: Any) -> Any:
    """A loss over a variable of the script, as for annealing."""
    return SCRIPT["beta"] * ops.mean(ops.square(y_true - y_pred), axis=-1)


def annealing() -> Callbacks:
    SCRIPT["beta"] = keras.Variable(1.0, trainable=False)
    return [Act(anneal)]


def anneal(_: keras.Model) -> None:
    SCRIPT["beta"].assign(SCRIPT["beta"] * 0.5)


@register
class Warmed(keras.Model):
    """A model with an attribute that a callback changes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.out = layers.Dense(1)
        self.beta = 1.0

    def call(self, x: Any) -> Any:
        return self.out(x) * self.beta


def warm(model: Any) -> None:
    model.beta = 0.25


@register
class Deep(layers.Layer):
    """Variables and seed generators in containers, within a plain object."""

    class Part:
        def __init__(self) -> None:
            self.stored = {"scales": [keras.Variable(1.0, trainable=False)]}
            self.seeds = {"first": (keras.random.SeedGenerator(3),)}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.part = self.Part()

    def call(self, x: Any) -> Any:
        (scale,) = self.part.stored["scales"]
        scale.assign(scale * 0.8)
        noise = keras.random.normal(ops.shape(x), stddev=0.1, seed=self.part.seeds["first"][0])
        return x * scale + noise


@register
class Slotted(layers.Layer):
    """Its helper has slots instead of a dictionary."""

    class Part:
        __slots__ = ("calls",)

        def __init__(self) -> None:
            self.calls = 0

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.part = self.Part()

    def call(self, x: Any) -> Any:
        self.part.calls += 1
        return x * min(1.0, 0.1 * self.part.calls)


@register
class OfTheClass(layers.Layer):
    """Counts in an attribute of its class."""

    calls = 0

    def call(self, x: Any) -> Any:
        type(self).calls += 1
        return x * min(1.0, 0.1 * self.calls)


def counted_by_class() -> keras.Model:
    OfTheClass.calls = 0
    return dense(OfTheClass())


@register
class Heating(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule with an attribute that a callback changes, and that its config lacks."""

    factor = 1.0

    def __call__(self, step: Any) -> Any:
        return 0.05 * self.factor / (1 + ops.cast(step, "float32"))

    def get_config(self) -> dict[str, Any]:
        return {}


def cool(model: keras.Model) -> None:
    model.optimizer._learning_rate.factor = 0.2


def freeze_kernel(model: keras.Model) -> None:
    model.layers[0].kernel.trainable = False


def regularize_kernel(model: keras.Model) -> None:
    model.layers[0].kernel.regularizer = keras.regularizers.L2(0.5)


def other_schedule(model: keras.Model) -> None:
    model.optimizer.learning_rate = keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)


def half_precision(model: keras.Model) -> None:
    model.layers[0].dtype_policy = keras.DTypePolicy("mixed_bfloat16")


def reset_optimizer(model: keras.Model) -> None:
    model.optimizer.iterations.assign(0)


def later(text: str, data: Callable[[], dict[str, Any]] = sorted_data, **settings: Any) -> Kind:
    return Kind(noisy, data=data, later=settings, expected=named(text))


def weighted() -> dict[str, Any]:
    return {**sorted_data(), "class_weight": None, "sample_weight": np.abs(X[:, 0])}


KINDS = {
    "a loss over a variable of the script": Kind(
        lambda: dense(loss=annealed),
        callbacks=annealing,
        expected=at_least_named("annealed|SCRIPT"),
    ),
    "an attribute of the model changed": Kind(
        lambda: finished(Warmed()),
        callbacks=lambda: [Act(warm)],
        backends=EAGER,
        expected=at_least_named("beta"),
    ),
    "variables deep inside a plain object": Kind(
        lambda: dense(Deep()), expected=at_least_named("[Dd]eep")
    ),
    "a helper with slots": Kind(
        lambda: dense(Slotted()), backends=EAGER, expected=at_least_named("[Ss]lotted")
    ),
    "a count in an attribute of the class": Kind(
        counted_by_class, backends=EAGER, expected=at_least_named("OfTheClass|calls")
    ),
    "a schedule changed by a callback": Kind(
        lambda: dense(optimizer=keras.optimizers.SGD(Heating())),
        callbacks=lambda: [Act(cool)],
        backends=EAGER,
        expected=at_least_named("Heating|factor"),
    ),
    "a schedule put in the place of a rate": acting(other_schedule, dropout),
    "trainable of one variable flipped": acting(
        freeze_kernel, dropout, expected=at_least_named("trainable"), backends=NOT_ON_JAX
    ),
    "a regularizer of one variable set": acting(
        regularize_kernel, dropout, expected=at_least_named("regulari")
    ),
    "a dtype policy changed": acting(half_precision, dropout),
    "iterations set back": acting(reset_optimizer, dropout),
    "sample weights that are forgotten": later(
        "sample_weight|weight", weighted, sample_weight=None
    ),
    "class weights that come later": later(
        "class_weight", lambda: {**sorted_data(), "y": (Y > 0) * 1}, class_weight={0: 0.5, 1: 2.0}
    ),
    "another batch size": later("batch", batch_size=6),
    "other arrays": later("data|arrays|x ", x=X + 1.0),
    "shuffling that comes later": later("shuffle|order|batches", shuffle=True),
    "validation data that are forgotten": later(
        "validation",
        lambda: {**sorted_data(), "validation_data": (X, Y), "validation_batch_size": 12},
        validation_data=None,
    ),
    "other steps per epoch": later("steps_per_epoch|steps", steps_per_epoch=2),
    "a bigger batch, stopped inside an epoch": Kind(
        noisy, stop=Raises(), later={"batch_size": BATCH + 2}, expected=named("batch")
    ),
}
