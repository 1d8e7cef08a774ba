"""What callbacks and scripts do in a training, and how a training is stopped."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from tests.support.kinds.kind import (
    BATCH,
    Callbacks,
    Ends,
    Killed,
    Kind,
    Raises,
    Terminated,
    X,
    Y,
    at_least_named,
    epoch_data,
    named,
    refused,
    restores,
    sorted_data,
)  # fmt: skip
from tests.support.kinds.models import dense

HOOKS = {
    "on_epoch_begin": Raises("on_epoch_begin"),
    "on_train_batch_begin": Raises("on_train_batch_begin"),
    "on_train_batch_end": Raises("on_train_batch_end"),
    "on_epoch_end": Raises("on_epoch_end"),
    "on_test_begin": Raises("on_test_begin"),
    "on_test_batch_begin": Raises("on_test_batch_begin"),
    "on_test_batch_end": Raises("on_test_batch_end"),
    "on_test_end": Raises("on_test_end"),
}


class Act(keras.callbacks.Callback):
    """Does something to the model after the first epoch."""

    def __init__(self, act: Any, when: int = 0) -> None:
        super().__init__()
        self._act, self._when = act, when

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == self._when:
            self._act(self.model)


def acting(act: Any, *inside: Any, **settings: Any) -> Kind:
    return Kind(
        lambda: dense(*(make() for make in inside)), callbacks=lambda: [Act(act)], **settings
    )


def dropout() -> Any:
    return layers.Dropout(0.3)


def noisy() -> keras.Model:
    return dense(dropout())


def freeze(model: keras.Model) -> None:
    model.layers[0].trainable = False


def slower(model: keras.Model) -> None:
    model.optimizer.learning_rate = 0.01


def drop_more(model: keras.Model) -> None:
    model.layers[1].rate = 0.6


def set_weights(model: keras.Model) -> None:
    model.layers[0].set_weights([value * 0.5 for value in model.layers[0].get_weights()])


def other_momentum(model: keras.Model) -> None:
    model.optimizer.momentum = 0.9


def other_clip(model: keras.Model) -> None:
    model.optimizer.clipnorm = 0.05


def other_regularizer(model: keras.Model) -> None:
    model.layers[0].kernel_regularizer = keras.regularizers.L2(0.1)


def other_activation(model: keras.Model) -> None:
    model.layers[0].activation = keras.activations.relu


def other_epsilon(model: keras.Model) -> None:
    model.layers[1].momentum = 0.1


class Stateful(keras.callbacks.Callback):
    """Has a state that matters, and says how to keep it."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.factor *= 0.5
        self.model.optimizer.learning_rate = 0.05 * self.factor

    def get_state(self) -> dict[str, Any]:
        return {"factor": self.factor}

    def set_state(self, state: dict[str, Any]) -> None:
        self.factor = state["factor"]


class Unsaying(keras.callbacks.Callback):
    """The same, without saying so."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.factor *= 0.5
        self.model.optimizer.learning_rate = 0.05 * self.factor


class KeepsArray(keras.callbacks.Callback):
    """Averages the weights in an array that it changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = np.zeros((6, 4), "float32")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        kernel = self.model.layers[0].kernel
        self.mean *= 0.5
        self.mean += 0.5 * keras.ops.convert_to_numpy(kernel)
        kernel.assign(self.mean)


class KeepsObject(keras.callbacks.Callback):
    """Keeps its state in an object."""

    class State:
        factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.state = self.State()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.state.factor *= 0.5
        self.model.optimizer.learning_rate = 0.05 * self.state.factor


def closure() -> Callbacks:
    """A LambdaCallback over a state of its own."""
    count = [0]

    def slow_down(epoch: int, logs: Any) -> None:
        count[0] += 1
        callback.model.optimizer.learning_rate = 0.05 / (1 + count[0])

    callback = keras.callbacks.LambdaCallback(on_epoch_end=slow_down)
    return [callback]


def validated() -> dict[str, Any]:
    return {**sorted_data(), "validation_data": (X, Y), "validation_batch_size": 6}


def validated_by_epoch() -> dict[str, Any]:
    return {**epoch_data(), "validation_data": (X, Y), "validation_batch_size": 6}


def averaged() -> keras.Model:
    return dense(dropout(), optimizer=keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.7))


def trained_before(model: keras.Model) -> None:
    model.train_on_batch(X[:4], Y[:4])


def fitted_before(model: keras.Model) -> None:
    model.fit(X, Y, epochs=1, batch_size=4, shuffle=False, verbose=0)


def fitted_and_frozen(model: keras.Model) -> None:
    fitted_before(model)
    model.layers[0].trainable = False
    model.compile(keras.optimizers.SGD(0.02, 0.5), "mse", run_eagerly=True)


def compiled_twice() -> keras.Model:
    model = noisy()
    model.compile(keras.optimizers.Adam(0.01), "mae", metrics=["mse"], run_eagerly=True)
    return model


def stopped(model: keras.Model, callbacks: Callbacks) -> dict[str, Any]:
    (early,) = (c for c in callbacks if isinstance(c, keras.callbacks.EarlyStopping))
    return {"epoch": early.stopped_epoch, "best": early.best, "weights": early.best_weights[0]}


def backup() -> Callbacks:
    import tempfile

    return [keras.callbacks.BackupAndRestore(tempfile.mkdtemp())]


KINDS = {
    "the learning rate changed by a callback": acting(slower, dropout),
    "the learning rate changed, restored": acting(slower, dropout, go_on=restores),
    "trainable flipped without compiling": acting(freeze, dropout),
    "trainable flipped without compiling, restored": acting(
        freeze, dropout, go_on=restores, expected=named("trainable")
    ),
    "a rate of Dropout changed": acting(drop_more, dropout),
    "a rate of Dropout changed, restored": acting(
        drop_more, dropout, go_on=restores, expected=named("rate")
    ),
    "weights set between epochs": acting(set_weights, dropout),
    "the momentum of the optimizer changed": acting(other_momentum),
    "the momentum of the optimizer changed, restored": acting(
        other_momentum, go_on=restores, expected=named("momentum")
    ),
    "clipping of the optimizer changed": acting(other_clip),
    "a regularizer changed": acting(other_regularizer, expected=at_least_named("regularizer")),
    "an activation changed": acting(other_activation),
    "an activation changed, restored": acting(
        other_activation, go_on=restores, expected=named("activation")
    ),
    "the momentum of BatchNormalization changed": acting(
        other_epsilon, lambda: layers.BatchNormalization(momentum=0.7)
    ),
    "EarlyStopping that fires": Kind(
        noisy,
        data=validated,
        callbacks=lambda: [
            keras.callbacks.EarlyStopping(
                "val_loss", patience=3, min_delta=100.0, restore_best_weights=True
            )
        ],
        stop=Ends(2),
        whole_epochs=6,
        after=stopped,
    ),
    "ReduceLROnPlateau that fires": Kind(
        noisy,
        callbacks=lambda: [
            keras.callbacks.ReduceLROnPlateau("loss", patience=2, min_delta=100.0, cooldown=1)
        ],
        stop=Ends(2),
        whole_epochs=5,
    ),
    "LearningRateScheduler": Kind(
        noisy,
        callbacks=lambda: [keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.5 * rate)],
    ),
    "SwapEMAWeights": Kind(averaged, callbacks=lambda: [keras.callbacks.SwapEMAWeights()]),
    "SwapEMAWeights by epoch, killed": Kind(
        averaged,
        callbacks=lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
        stop=Killed(),
        checkpoint="epoch:2",
    ),
    "SwapEMAWeights by epoch, ended": Kind(
        averaged, callbacks=lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]
    ),
    "BackupAndRestore among the callbacks": Kind(
        noisy, callbacks=backup, expected=named("BackupAndRestore")
    ),
    "a callback with get_state": Kind(noisy, callbacks=lambda: [Stateful()]),
    "a callback without get_state": Kind(
        noisy, callbacks=lambda: [Unsaying()], expected=named("Unsaying.*factor")
    ),
    "a callback that changes an array in place": Kind(
        noisy, callbacks=lambda: [KeepsArray()], expected=named("KeepsArray.*mean")
    ),
    "a callback that keeps an object": Kind(
        noisy, callbacks=lambda: [KeepsObject()], expected=at_least_named("KeepsObject")
    ),
    "a LambdaCallback over a variable": Kind(
        noisy, callbacks=closure, expected=at_least_named("LambdaCallback")
    ),
    "trained before fit": Kind(noisy, before=trained_before),
    "fitted before": Kind(noisy, before=fitted_before),
    "fitted before, then frozen and compiled again": Kind(noisy, before=fitted_and_frozen),
    "compiled twice": Kind(compiled_twice),
    "class weights": Kind(
        lambda: dense(dropout(), loss="binary_crossentropy"),
        data=lambda: {
            "x": X,
            "y": (Y > 0).astype("int64"),
            "batch_size": BATCH,
            "shuffle": False,
            "class_weight": {0: 0.3, 1: 2.0},
        },
    ),
    "validation by fit's split": Kind(
        noisy, data=lambda: {**sorted_data(), "validation_split": 0.34}
    ),
    "validation every other epoch": Kind(
        noisy, data=lambda: {**validated(), "validation_freq": 2}, stop=Ends(1)
    ),
    "SIGTERM inside an epoch": Kind(noisy, data=epoch_data, stop=Terminated()),
    "SIGTERM in validation": Kind(
        noisy, data=validated_by_epoch, stop=Terminated("on_test_batch_end", batch=0)
    ),
    "killed after a save inside an epoch": Kind(
        noisy,
        data=epoch_data,
        stop=Killed(),
        checkpoints={"save_freq": 2},
        checkpoint="step:4",
    ),
    "killed between epochs": Kind(noisy, stop=Killed(), checkpoint="epoch:1"),
    "killed, with accumulated gradients": Kind(
        lambda: dense(
            dropout(), optimizer=keras.optimizers.Adam(0.02, gradient_accumulation_steps=2)
        ),
        data=epoch_data,
        stop=Raises(),
    ),
    "saved as HDF5": Kind(noisy, checkpoints={"full_format": "h5"}),
    "saved in the split form, restored": Kind(
        noisy,
        checkpoints={"forms": ("split",)},
        go_on=restores,
        expected=refused("optimizer", at_save=False),
    ),
    **{
        f"another callback raises in {hook}": Kind(noisy, data=validated_by_epoch, stop=stop)
        for hook, stop in HOOKS.items()
    },
}
