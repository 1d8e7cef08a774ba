"""What callbacks and scripts do in a training, and how a training is stopped."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from tests.support.kinds.kind import (
    BATCH,
    TENSORFLOW,
    TORCH,
    Callbacks,
    Ends,
    Killed,
    Kind,
    X,
    Y,
    named,
    restores,
    sorted_data,
)  # fmt: skip
from tests.support.kinds.models import dense


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


def draw_weights_again(model: keras.Model) -> None:
    layer = model.layers[0]
    layer.kernel.assign(layer.kernel_initializer(layer.kernel.shape))


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


def validated() -> dict[str, Any]:
    return {**sorted_data(), "validation_data": (X, Y), "validation_batch_size": 6}


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


# On JAX, Keras's fit fails when the variables to train change within it.
NOT_ON_JAX = (TENSORFLOW, TORCH)

KINDS = {
    "the learning rate changed by a callback": acting(slower, dropout),
    "the learning rate changed, restored": acting(slower, dropout, go_on=restores),
    "trainable flipped without compiling": acting(freeze, dropout, backends=NOT_ON_JAX),
    "trainable flipped without compiling, restored": acting(
        freeze, dropout, go_on=restores, expected=named("trainable"), backends=NOT_ON_JAX
    ),
    "a rate of Dropout changed": acting(drop_more, dropout),
    "a rate of Dropout changed, restored": acting(drop_more, dropout, go_on=restores),
    "weights set between epochs": acting(set_weights, dropout),
    "the momentum of the optimizer changed": acting(other_momentum),
    "the momentum of the optimizer changed, restored": acting(
        other_momentum, go_on=restores, expected=named("momentum")
    ),
    "clipping of the optimizer changed": acting(other_clip),
    "weights drawn again by an initializer": Kind(
        dense, callbacks=lambda: [Act(draw_weights_again, when=1)]
    ),
    "weights drawn again by an initializer, restored": Kind(
        dense, callbacks=lambda: [Act(draw_weights_again, when=1)], go_on=restores
    ),
    "a regularizer changed": acting(other_regularizer),
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
}
