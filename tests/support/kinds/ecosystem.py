"""Callbacks, optimizers and scripts as people copy them from one another."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.support.kinds.kind import (
    TENSORFLOW,
    Ends,
    Expected,
    Kind,
    Raises,
    X,
    Y,
    epoch_data,
    named,
    refused,
    restores,
)  # fmt: skip
from tests.support.kinds.models import dense, finished
from tests.support.kinds.trainings import dropout, noisy, validated

register = keras.saving.register_keras_serializable("kinds")
ONLY = (TENSORFLOW,)
Callback = keras.callbacks.Callback


class CyclicLR(Callback):
    """The cyclical rate of bckenstler, by batch."""

    def __init__(self, base_lr: float = 0.01, max_lr: float = 0.06, step_size: float = 4.0) -> None:
        super().__init__()
        self.base_lr, self.max_lr, self.step_size = base_lr, max_lr, step_size
        self.clr_iterations, self.trn_iterations = 0.0, 0.0
        self.history: dict[str, list[Any]] = {}

    def clr(self) -> float:
        cycle = np.floor(1 + self.clr_iterations / (2 * self.step_size))
        x = np.abs(self.clr_iterations / self.step_size - 2 * cycle + 1)
        return self.base_lr + (self.max_lr - self.base_lr) * np.maximum(0, 1 - x)

    def on_train_begin(self, logs: Any = None) -> None:
        if self.clr_iterations == 0:
            self.model.optimizer.learning_rate = self.base_lr
        else:
            self.model.optimizer.learning_rate = self.clr()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.trn_iterations += 1
        self.clr_iterations += 1
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.history.setdefault("lr", []).append(rate)
        self.model.optimizer.learning_rate = self.clr()


class SavedCyclicLR(CyclicLR):
    """The same, keeping its state, with a history in a dictionary of lists."""

    def get_state(self) -> dict[str, Any]:
        return {"iterations": (self.clr_iterations, self.trn_iterations), "history": self.history}

    def set_state(self, state: dict[str, Any]) -> None:
        self.clr_iterations, self.trn_iterations = state["iterations"]
        self.history = dict(state["history"])


class SWA(Callback):
    """Averages the weights, and sets the average at the end."""

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.start, self.swa_weights, self.count = start, None, 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = self.model.get_weights()
        if self.swa_weights is None:
            self.swa_weights = now
        else:
            self.swa_weights = [
                (a * self.count + b) / (self.count + 1)
                for a, b in zip(self.swa_weights, now, strict=True)
            ]
        self.count += 1

    def on_train_end(self, logs: Any = None) -> None:
        self.model.set_weights(self.swa_weights)


class SavedSWA(SWA):
    def get_state(self) -> Any:
        return {"weights": self.swa_weights, "count": self.count}

    def set_state(self, state: Any) -> None:
        self.swa_weights, self.count = state["weights"], state["count"]


class Pretrained(Callback):
    """Sets the weights of another training when training begins."""

    def on_train_begin(self, logs: Any = None) -> None:
        random = np.random.default_rng(4)
        self.model.layers[0].kernel.assign(random.normal(size=(6, 4)))


class EmaModel(Callback):
    """Keeps a second model that averages the first."""

    def __init__(self) -> None:
        super().__init__()
        self.ema: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        self.ema = keras.models.clone_model(self.model)
        self.ema.set_weights(self.model.get_weights())

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        for mean, now in zip(self.ema.weights, self.model.weights, strict=True):
            mean.assign(0.9 * mean + 0.1 * now)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for now, mean in zip(self.model.trainable_weights, self.ema.trainable_weights, strict=True):
            now.assign(0.5 * now + 0.5 * mean)


class Features(Callback):
    """Makes a model of the layers of another, and predicts with it (as for Grad-CAM)."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.part = keras.Model(self.model.inputs, self.model.layers[0].output)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.part.predict(X, verbose=0)
        self.model.evaluate(X, Y, verbose=0)
        self.model.predict(X, verbose=0)


class Unfreeze(Callback):
    """Unfreezes a layer at an epoch, and compiles again."""

    def __init__(self, again: str) -> None:
        super().__init__()
        self.again = again

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            self.model.layers[0].trainable = True
            if "compile" in self.again:
                self.model.compile(
                    keras.optimizers.Adam(0.01), "mae", run_eagerly="eager" in self.again,
                    jit_compile=False,
                )  # fmt: skip
            if "function" in self.again:
                self.model.make_train_function(force=True)


def half_frozen(**settings: Any) -> keras.Model:
    model = dense(dropout(), **settings)
    model.layers[0].trainable = False
    return finished(model, **settings)


class Switch(Callback):
    """Puts another optimizer in the place of the first (Adam, then SGD)."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            other = keras.optimizers.SGD(0.02, 0.9)
            other.build(self.model.trainable_variables)
            self.model.optimizer = other


class Trains(Callback):
    """Trains the same model on another batch at the end of each epoch (replay)."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.train_on_batch(X[:4] + epoch, Y[:4])


class TrainsCritic(Callback):
    """Trains a submodel that is compiled for itself (a GAN by hand)."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        critic = self.model.get_layer("critic")
        critic.trainable = True
        critic.train_on_batch(X[:4] * 0.1, Y[:4])
        critic.trainable = False


def gan_by_hand() -> keras.Model:
    critic = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, "tanh"), layers.Dropout(0.2), layers.Dense(1)],
        name="critic",
    )
    critic.compile(keras.optimizers.Adam(0.02), "mse", run_eagerly=True)
    critic.trainable = False
    inputs = keras.Input((6,))
    model = keras.Model(inputs, critic(layers.Dense(6, name="generator")(inputs)))
    return finished(model, keras.optimizers.RMSprop(0.01))


@register
class Lookahead(keras.optimizers.Optimizer):
    """Slow and fast weights around another optimizer."""

    def __init__(self, inner: Any, sync: int = 2, learning_rate: Any = 0.01, **kw: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kw)
        self.inner, self.sync = keras.optimizers.get(inner), sync

    def build(self, variables: Any) -> None:
        super().build(variables)
        self.inner.build(variables)
        self.slow = [self.add_variable_from_reference(v, name="slow") for v in variables]
        for slow, fast in zip(self.slow, variables, strict=True):
            slow.assign(fast)

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        variables = list(trainable_variables or self._trainable_variables)
        if not self.built:
            self.build(variables)
        self.inner.apply(grads, variables)
        self._iterations.assign_add(1)
        if int(self._iterations) % self.sync == 0:
            for slow, fast in zip(self.slow, variables, strict=True):
                slow.assign(slow + 0.5 * (fast - slow))
                fast.assign(slow)
        return self._iterations

    def get_config(self) -> dict[str, Any]:
        inner = keras.saving.serialize_keras_object(self.inner)
        return {**super().get_config(), "inner": inner, "sync": self.sync}

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None) -> Any:
        config["inner"] = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**config)


several_early_ones = (
    lambda: keras.callbacks.EarlyStopping("loss", patience=2, min_delta=10.0, start_from_epoch=1),
    lambda: keras.callbacks.EarlyStopping("val_loss", patience=4, min_delta=10.0, baseline=0.001),
    lambda: keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=10.0),
    lambda: keras.callbacks.ReduceLROnPlateau("val_loss", patience=2, min_delta=10.0, factor=0.5),
)


def called(*make: Any, build: Any = noisy, **settings: Any) -> Kind:
    return Kind(build, callbacks=lambda: [one() for one in make], **{"backends": ONLY, **settings})


INSIDE = Raises()
KINDS = {
    "a cyclical rate": called(CyclicLR, expected=named("CyclicLR.*clr_iterations")),
    "a cyclical rate with get_state": called(SavedCyclicLR),
    "a cyclical rate with get_state, stopped inside an epoch": called(
        SavedCyclicLR, data=epoch_data, stop=INSIDE
    ),
    "weights set in on_train_begin": called(Pretrained),
    "stochastic weight averaging with get_state": called(SavedSWA, stop=INSIDE),
    "a callback that averages in a second model": called(EmaModel, expected=named("EmaModel.*ema")),
    "a callback that makes a model of layers": called(Features),
    "a callback that unfreezes and compiles": called(
        lambda: Unfreeze("compile function"),
        build=lambda: half_frozen(run_eagerly=False, jit_compile=False),
        stop=Ends(2),
    ),
    "a callback that switches the optimizer": called(
        Switch, build=lambda: dense(dropout(), optimizer="adam"), stop=Ends(2)
    ),
    "a callback that trains the model": called(Trains),
    "a callback that trains a submodel": called(TrainsCritic, build=gan_by_hand),
    "several callbacks that stop early": called(
        *several_early_ones, data=validated, stop=Ends(2), whole_epochs=6
    ),
    "Lookahead around Adam": Kind(
        lambda: dense(optimizer=Lookahead(keras.optimizers.Adam(0.02))),
        backends=ONLY,
        expected=refused("Keras does not load what it saved of Adam"),
    ),
    "Lookahead around Adam, restored": Kind(
        lambda: dense(optimizer=Lookahead(keras.optimizers.Adam(0.02))),
        backends=ONLY,
        go_on=restores,
        expected=Expected(text="will not load"),
    ),
}
