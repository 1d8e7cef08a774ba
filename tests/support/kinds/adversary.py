"""Kinds that were made to be silently wrong: state in places where nobody looks for it."""

from __future__ import annotations

import functools
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.support.kinds.kind import (
    BATCH,
    JAX,
    TENSORFLOW,
    TORCH,
    Callbacks,
    Expected,
    Kind,
    Raises,
    X,
    Y,
    named,
    sorted_data,
)  # fmt: skip
from tests.support.kinds.models import dense, finished
from tests.support.kinds.trainings import NOT_ON_JAX, Act, acting, dropout, noisy, other_clip

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


@register
class Hooked(layers.Layer):
    """State behind bound methods, partial functions, closures and functions' attributes."""

    def __init__(self, way: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.way = way
        if way == "a bound method":
            self.hook = [Scaler().scaled][0]
        elif way == "a partial function":
            self.hook = functools.partial(scaled_by, keras.Variable(1.0, trainable=False))
        elif way == "an attribute of a function":
            self.hook = counting
        elif way == "a closure":
            self.hook = counting_in_closure()

    def call(self, x: Any) -> Any:
        return self.hook(x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "way": self.way}


class Scaler:
    def __init__(self) -> None:
        self.scale = keras.Variable(1.0, trainable=False)

    def scaled(self, x: Any) -> Any:
        return scaled_by(self.scale, x)


def scaled_by(scale: Any, x: Any) -> Any:
    scale.assign(scale * 0.8)
    return x * scale


def counting(x: Any) -> Any:
    counting.calls = getattr(counting, "calls", 0) + 1  # type: ignore[attr-defined]
    return x * min(1.0, 0.1 * counting.calls)  # type: ignore[attr-defined]


def counting_in_closure() -> Any:
    calls = 0

    def count(x: Any) -> Any:
        nonlocal calls
        calls += 1
        return x * min(1.0, 0.1 * calls)

    return count


def hooked(way: str, **settings: Any) -> Kind:
    def build() -> keras.Model:
        vars(counting).clear()
        return dense(Hooked(way))

    return Kind(build, **settings)


@register
class Keeper(layers.Layer):
    """Keeps something in an attribute, and scales by what is in it."""

    def __init__(self, what: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.what = what
        self.kept: Any = {
            "a set": set, "a Counter": Counter, "a bytearray": bytearray,
            "a dictionary by number": lambda: {0: 0}, "an array of Python": lambda: array("d", [0]),
            "a function": lambda: ops.tanh,
        }[what]()  # fmt: skip

    def call(self, x: Any) -> Any:
        return self.kept(x) if callable(self.kept) else x * (1.0 + 0.1 * amount(self.kept))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "what": self.what}


def amount(kept: Any) -> float:
    return float(sum(kept.values()) if isinstance(kept, dict) else len(kept))


def keep(model: keras.Model) -> None:
    (keeper,) = (layer for layer in model.layers if isinstance(layer, Keeper))
    kept = keeper.kept
    if keeper.what == "a function":
        keeper.kept = ops.sigmoid
    elif isinstance(kept, set):
        kept.add(5)
    elif isinstance(kept, dict):
        kept[0] = kept.get(0, 0) + 3
    else:
        kept.append(1)


NAMED_KEEPER = named("layer 'keeper': `kept` was")


def keeping(what: str, expected: Expected = NAMED_KEEPER) -> Kind:
    return acting(keep, lambda: Keeper(what), backends=EAGER, expected=expected)


def scaled_by_script(y_true: Any, y_pred: Any) -> Any:
    return of_a_helper() * ops.mean(ops.square(y_true - y_pred), axis=-1)


def of_a_helper() -> Any:
    return SCRIPT["beta"]


@register
class NoisyByScript(layers.Layer):
    """Draws with a seed generator of the script."""

    def call(self, x: Any) -> Any:
        return x + keras.random.normal(ops.shape(x), stddev=0.1, seed=NOISE)


NOISE = keras.random.SeedGenerator(5)
NOISE_AT_FIRST = np.array(keras.ops.convert_to_numpy(NOISE.state))


def with_noise_of_the_script() -> keras.Model:
    NOISE.state.assign(NOISE_AT_FIRST)
    return dense(NoisyByScript())


def constrain_kernel(model: keras.Model) -> None:
    model.layers[0].kernel.constraint = keras.constraints.MaxNorm(0.1)


def later(text: str, data: Callable[[], dict[str, Any]] = sorted_data, **settings: Any) -> Kind:
    return Kind(noisy, data=data, later=settings, expected=named(text))


def weighted() -> dict[str, Any]:
    return {**sorted_data(), "class_weight": None, "sample_weight": np.abs(X[:, 0])}


KINDS = {
    "a loss over a variable of the script": Kind(
        lambda: dense(loss=annealed),
        callbacks=annealing,
        expected=named("annealed|SCRIPT"),
    ),
    "an attribute of the model changed": Kind(
        lambda: finished(Warmed()),
        callbacks=lambda: [Act(warm)],
        backends=EAGER,
    ),
    "variables deep inside a plain object": Kind(lambda: dense(Deep())),
    "a helper with slots": Kind(lambda: dense(Slotted()), backends=EAGER),
    "a count in an attribute of the class": Kind(
        counted_by_class, backends=EAGER, expected=named("OfTheClass|calls")
    ),
    "a schedule changed by a callback": Kind(
        lambda: dense(optimizer=keras.optimizers.SGD(Heating())),
        callbacks=lambda: [Act(cool)],
        backends=EAGER,
    ),
    "a schedule put in the place of a rate": acting(other_schedule, dropout),
    "trainable of one variable flipped": acting(freeze_kernel, dropout, backends=NOT_ON_JAX),
    "a regularizer of one variable set": acting(regularize_kernel, dropout),
    "a constraint of one variable set": acting(constrain_kernel, dropout),
    "a regularizer of one variable set, in a graph": Kind(
        lambda: dense(run_eagerly=False, jit_compile=False),
        callbacks=lambda: [Act(regularize_kernel)],
        backends=(TENSORFLOW, JAX),
        expected=named("regulari"),
    ),
    "a setting of the optimizer changed in a graph": Kind(
        lambda: dense(run_eagerly=False, jit_compile=False),
        callbacks=lambda: [Act(other_clip)],
        backends=(TENSORFLOW, JAX),
        expected=named("clipnorm"),
    ),
    "a bound method of an object": hooked("a bound method"),
    "a partial function over a variable": hooked("a partial function"),
    "a count in an attribute of a function": hooked(
        "an attribute of a function", backends=EAGER, expected=named("calls")
    ),
    "a count in a closure": hooked("a closure", backends=EAGER, expected=named("calls|count")),
    "a set in an attribute": keeping("a set"),
    "a Counter in an attribute": keeping("a Counter", Expected()),
    "a bytearray in an attribute": keeping("a bytearray"),
    "a dictionary by number in an attribute": keeping("a dictionary by number", Expected()),
    "an array of Python in an attribute": keeping("an array of Python"),
    "a function in an attribute": keeping("a function"),
    "a loss over a variable of a helper": Kind(
        lambda: dense(loss=scaled_by_script),
        callbacks=annealing,
        custom_objects={"scaled_by_script": scaled_by_script},
        expected=named("SCRIPT"),
    ),
    "a seed generator of the script": Kind(
        with_noise_of_the_script, backends=EAGER, expected=named("NOISE")
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
