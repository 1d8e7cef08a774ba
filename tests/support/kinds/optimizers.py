"""Every optimizer of Keras, its settings, and schedules of the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, optimizers
from keras.optimizers import schedules

from tests.support.kinds.kind import EXACT, Expected, Kind, refused, restores
from tests.support.kinds.models import dense, token_rows, tokens


def _with(make: Callable[[], Any], **settings: Any) -> Kind:
    return Kind(lambda: dense(optimizer=make()), **settings)


def _scheduled(schedule: Callable[[], Any]) -> Kind:
    return Kind(lambda: dense(optimizer=optimizers.SGD(schedule(), momentum=0.5)))


def _excluding(make: Callable[..., Any], **names: Any) -> keras.Model:
    optimizer = make(0.02, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(**names)
    return dense(optimizer=optimizer)


def _excluding_variables() -> keras.Model:
    optimizer = optimizers.AdamW(0.02, weight_decay=0.5)
    model = dense(optimizer=optimizer)
    optimizer.exclude_from_weight_decay(var_list=[model.layers[0].kernel])
    return model


@keras.saving.register_keras_serializable("kinds")
class Sawtooth(schedules.LearningRateSchedule):
    """A schedule of the user's own."""

    def __init__(self, high: float = 0.05) -> None:
        self.high = high

    def __call__(self, step: Any) -> Any:
        return self.high / (1 + keras.ops.cast(step % 3, "float32"))

    def get_config(self) -> dict[str, Any]:
        return {"high": self.high}


@keras.saving.register_keras_serializable("kinds")
class WarmedUp(schedules.LearningRateSchedule):
    """A schedule around another one, which Keras does not rebuild from the configuration."""

    def __init__(self, after: Any, steps: int = 3) -> None:
        self.after, self.steps = after, steps

    def __call__(self, step: Any) -> Any:
        part = keras.ops.minimum(1.0, (keras.ops.cast(step, "float32") + 1) / self.steps)
        return part * self.after(step)

    def get_config(self) -> dict[str, Any]:
        return {"after": keras.saving.serialize_keras_object(self.after), "steps": self.steps}


@keras.saving.register_keras_serializable("kinds")
class WarmedUpAndRebuilt(WarmedUp):
    """The same, and it can be rebuilt."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**{**config, "after": keras.saving.deserialize_keras_object(config["after"])})


@keras.saving.register_keras_serializable("kinds")
class Signed(optimizers.Optimizer):
    """An optimizer of the user's own, with a variable for each weight."""

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self.previous = [self.add_variable_from_reference(v, "previous") for v in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        previous = self.previous[self._get_variable_index(variable)]
        mixed = 0.5 * previous + 0.5 * gradient
        self.assign(previous, mixed)
        self.assign_sub(variable, keras.ops.cast(learning_rate, variable.dtype) * mixed)


@keras.saving.register_keras_serializable("kinds")
class Warming(optimizers.SGD):
    """An optimizer that counts its steps in Python."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.made = 0

    def apply(self, *arguments: Any, **keywords: Any) -> Any:
        self.made += 1
        self.momentum = min(0.9, 0.1 * self.made)
        return super().apply(*arguments, **keywords)


def _multi(selector: Any = None) -> keras.Model:
    def by_path() -> Any:
        chosen = optimizers.OptimizerMap(optimizers.SGD(0.05, momentum=0.5))
        chosen["first/.*"] = optimizers.Adam(0.02)
        return chosen

    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, name="first"), layers.Dense(1, name="second")]
    )
    model.compile(optimizers.MultiOptimizer(by_path()), "mse", run_eagerly=True)
    return model


def _loss_scaled(**settings: Any) -> Kind:
    return Kind(
        lambda: dense(
            optimizer=optimizers.LossScaleOptimizer(
                optimizers.Adam(0.02), dynamic_growth_steps=2, **settings
            ),
            dtype="mixed_float16",
        )
    )


def _unscaled() -> keras.Model:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return dense(auto_scale_loss=False)
    finally:
        keras.config.set_dtype_policy("float32")


def _scaled_by_policy() -> keras.Model:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return dense()
    finally:
        keras.config.set_dtype_policy("float32")


KINDS = {
    "SGD": _with(lambda: optimizers.SGD(0.05)),
    "SGD with Nesterov momentum": _with(lambda: optimizers.SGD(0.05, 0.9, nesterov=True)),
    "Adam": _with(lambda: optimizers.Adam(0.02)),
    "AMSGrad": _with(lambda: optimizers.Adam(0.02, amsgrad=True)),
    "AdamW": _with(lambda: optimizers.AdamW(0.02, weight_decay=0.1)),
    "AdamW, biases excluded from decay": Kind(
        lambda: _excluding(optimizers.AdamW, var_names=["bias"])
    ),
    "AdamW, variables excluded from decay": Kind(_excluding_variables),
    "AdamW, biases excluded, restored": Kind(
        lambda: _excluding(optimizers.AdamW, var_names=["bias"]), go_on=restores
    ),
    "Adamax": _with(lambda: optimizers.Adamax(0.02)),
    "Adagrad": _with(lambda: optimizers.Adagrad(0.05)),
    "Adadelta": _with(lambda: optimizers.Adadelta(1.0)),
    "Adafactor": _with(lambda: optimizers.Adafactor(0.05)),
    "Ftrl": _with(lambda: optimizers.Ftrl(0.05, l1_regularization_strength=0.01)),
    "Lion": _with(lambda: optimizers.Lion(0.01)),
    "Lamb": _with(lambda: optimizers.Lamb(0.02)),
    "Muon": _with(lambda: optimizers.Muon(0.02)),
    "Nadam": _with(lambda: optimizers.Nadam(0.02)),
    "RMSprop, centered, with momentum": _with(
        lambda: optimizers.RMSprop(0.01, momentum=0.5, centered=True)
    ),
    "ScheduleFreeAdamW": _with(lambda: optimizers.ScheduleFreeAdamW(0.05, warmup_steps=4)),
    "MultiOptimizer with an OptimizerMap": Kind(_multi),
    "a moving average of the weights": _with(
        lambda: optimizers.Adam(0.02, use_ema=True, ema_momentum=0.7)
    ),
    "a moving average that overwrites": _with(
        lambda: optimizers.Adam(0.02, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=2)
    ),
    "gradient accumulation across epochs": _with(
        lambda: optimizers.Adam(0.02, gradient_accumulation_steps=2)
    ),
    "gradients clipped by norm": _with(lambda: optimizers.SGD(0.5, 0.5, clipnorm=0.1)),
    "gradients clipped by value": _with(lambda: optimizers.SGD(0.5, 0.5, clipvalue=0.1)),
    "gradients clipped by the norm of all": _with(
        lambda: optimizers.SGD(0.5, 0.5, global_clipnorm=0.1)
    ),
    "a loss scale": _loss_scaled(),
    "a loss scale that overflows": _loss_scaled(initial_scale=2.0**40),
    "a loss scale from the global policy": Kind(_scaled_by_policy),
    "auto_scale_loss=False": Kind(_unscaled),
    "a fixed loss scale factor": _with(lambda: optimizers.SGD(0.05, loss_scale_factor=8.0)),
    "ExponentialDecay": _scheduled(lambda: schedules.ExponentialDecay(0.1, 3, 0.5)),
    "PiecewiseConstantDecay": _scheduled(
        lambda: schedules.PiecewiseConstantDecay([4, 7], [0.1, 0.05, 0.01])
    ),
    "PolynomialDecay": _scheduled(lambda: schedules.PolynomialDecay(0.1, 6, cycle=True)),
    "InverseTimeDecay": _scheduled(lambda: schedules.InverseTimeDecay(0.1, 3, 0.5, staircase=True)),
    "CosineDecay": _scheduled(
        lambda: schedules.CosineDecay(0.02, 6, warmup_steps=3, warmup_target=0.1)
    ),
    "CosineDecayRestarts": _scheduled(lambda: schedules.CosineDecayRestarts(0.1, 4)),
    "a schedule of one's own": _scheduled(Sawtooth),
    "a schedule around another": Kind(
        lambda: dense(optimizer=optimizers.SGD(WarmedUp(schedules.CosineDecay(0.1, 6)))),
        expected=refused("learning rate of the optimizer .* cannot be computed"),
    ),
    "a schedule around another, restored": Kind(
        lambda: dense(optimizer=optimizers.SGD(WarmedUp(schedules.CosineDecay(0.1, 6)))),
        go_on=restores,
        expected=Expected(EXACT, "cannot be computed"),
    ),
    "a schedule around another, with from_config": _scheduled(
        lambda: WarmedUpAndRebuilt(schedules.CosineDecay(0.1, 6))
    ),
    "an optimizer of one's own": _with(lambda: Signed(0.05)),
    "an optimizer that counts in Python": _with(lambda: Warming(0.05, 0.1)),
    "a sparse gradient of an embedding": Kind(
        lambda: tokens(layers.Embedding(20, 3), layers.Flatten()), data=token_rows
    ),
    "an optimizer as a string": Kind(lambda: dense(optimizer="rmsprop")),
}
