"""Training steps, optimizers and compile settings that users write."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

import mlflow_ckpt
from tests.support.kinds.kind import (
    TENSORFLOW,
    Callbacks,
    Kind,
    Raises,
    X,
    epoch_data,
    restores,
)  # fmt: skip
from tests.support.kinds.models import finished

register = keras.saving.register_keras_serializable("kinds")
ONLY = (TENSORFLOW,)


@register
class OwnStep(keras.Model):
    """Overrides train_step, with a metric of its own (as in Keras's guide)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.hidden, self.drop, self.out = layers.Dense(4), layers.Dropout(0.3), layers.Dense(1)
        self.error = keras.metrics.MeanAbsoluteError(name="error")

    def call(self, x: Any, training: bool = False) -> Any:
        return self.out(self.drop(self.hidden(x), training=training))

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=predicted)
        weights = self.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        self.error.update_state(y, predicted)
        return {"loss": loss, "error": self.error.result()}

    @property
    def metrics(self) -> Any:
        return [self.error]


@register
class Gan(keras.Model):
    """Two networks and two optimizers, with a compile() of its own (as in Keras's examples)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.generator = keras.Sequential([keras.Input((2,)), layers.Dense(6)])
        self.critic = keras.Sequential([keras.Input((6,)), layers.Dropout(0.3), layers.Dense(1)])
        self.seeds = keras.random.SeedGenerator(4)
        self.g_loss = keras.metrics.Mean(name="g_loss")

    def call(self, x: Any) -> Any:
        return self.critic(x)

    def compile(self, d_optimizer: Any, g_optimizer: Any, loss_fn: Any, **settings: Any) -> None:
        super().compile(run_eagerly=True, **settings)
        self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn

    def train_step(self, real: Any) -> Any:
        import tensorflow as tf

        real = real[0] if isinstance(real, tuple) else real
        count = ops.shape(real)[0]
        fakes = self.generator(keras.random.normal((count, 2), seed=self.seeds))
        truth = ops.concatenate([ops.ones((count, 1)), ops.zeros((count, 1))], axis=0)
        with tf.GradientTape() as tape:
            both = self.critic(ops.concatenate([fakes, real], axis=0), training=True)
            d_loss = self.loss_fn(truth, both)
        weights = self.critic.trainable_weights
        self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)
        with tf.GradientTape() as tape:
            fakes = self.generator(keras.random.normal((count, 2), seed=self.seeds))
            g_loss = self.loss_fn(ops.zeros((count, 1)), self.critic(fakes, training=True))
        weights = self.generator.trainable_weights
        self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
        self.g_loss.update_state(g_loss)
        return {"d_loss": d_loss, "g_loss": self.g_loss.result()}


@register
class DescribedGan(Gan):
    """The same, with get_compile_config and compile_from_config (as in Keras's guide)."""

    def get_compile_config(self) -> Any:
        described = {
            name: getattr(self, name) for name in ("d_optimizer", "g_optimizer", "loss_fn")
        }
        return {
            name: keras.saving.serialize_keras_object(value) for name, value in described.items()
        }

    def compile_from_config(self, config: Any) -> None:
        self.compile(
            **{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()}
        )


def compile_gan(model: Any) -> None:
    model.compile(
        keras.optimizers.Adam(0.02),
        keras.optimizers.RMSprop(0.01),
        keras.losses.BinaryCrossentropy(from_logits=True),
    )


def gan(of: Any = Gan) -> keras.Model:
    model = of()
    model.build((None, 6))
    compile_gan(model)
    return model


def real_data() -> dict[str, Any]:
    return {"x": X, "batch_size": 4, "shuffle": False}


def resumes_compiling(run_id: str, kind: Kind, callbacks: Callbacks) -> Any:
    return mlflow_ckpt.resume(run_id, kind.checkpoint, callbacks=callbacks, compile=compile_gan)


@register
class Vae(keras.Model):
    """A variational autoencoder with trackers (as in Keras's example)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.encode, self.decode = layers.Dense(4), layers.Dense(6)
        self.seeds = keras.random.SeedGenerator(3)
        self.total = keras.metrics.Mean(name="total")

    @property
    def metrics(self) -> Any:
        return [self.total]

    def call(self, x: Any) -> Any:
        mean, log_variance = ops.split(self.encode(x), 2, axis=-1)
        noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
        self.add_loss(ops.mean(ops.square(mean) + ops.exp(log_variance) - log_variance - 1))
        return self.decode(mean + ops.exp(0.5 * log_variance) * noise)

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        x = data[0] if isinstance(data, tuple) else data
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(self(x) - x)) + sum(self.losses)
        weights = self.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        self.total.update_state(loss)
        return {"loss": self.total.result()}


@register
class Distiller(keras.Model):
    """A student learns from a teacher (as in Keras's example): its compile() takes more."""

    def __init__(self, student: Any = None, teacher: Any = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.student = student or keras.Sequential([keras.Input((6,)), layers.Dense(1)])
        self.teacher = teacher or keras.Sequential([keras.Input((6,)), layers.Dense(1)])

    def compile(
        self, optimizer: Any, student_loss_fn: Any, alpha: float = 0.1, **settings: Any
    ) -> None:
        super().compile(optimizer=optimizer, run_eagerly=True, **settings)
        self.student_loss_fn, self.alpha = student_loss_fn, alpha

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        **_: Any,
    ) -> Any:  # fmt: skip
        taught = self.teacher(x, training=False)
        own = self.student_loss_fn(y, y_pred)
        return self.alpha * own + (1 - self.alpha) * self.student_loss_fn(taught, y_pred)

    def call(self, x: Any) -> Any:
        return self.student(x)


def distiller() -> keras.Model:
    model = Distiller()
    model.build((None, 6))
    model.compile(keras.optimizers.Adam(0.02), keras.losses.MeanSquaredError(), alpha=0.3)
    return model


@register
class Task(keras.Model):
    """As KerasHub's tasks: compiles itself when made, and its compile() has other defaults."""

    def __init__(self, units: int = 4, **settings: Any) -> None:
        inputs = keras.Input((6,))
        hidden = layers.Dropout(0.3)(layers.Dense(units)(inputs))
        super().__init__(inputs, layers.Dense(1)(hidden), **settings)
        self.units = units
        self.compile()

    def compile(
        self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **settings: Any
    ) -> None:
        if optimizer == "auto":
            optimizer = keras.optimizers.AdamW(0.02, weight_decay=0.1)
            optimizer.exclude_from_weight_decay(var_names=["bias"])
        loss = keras.losses.MeanSquaredError() if loss == "auto" else loss
        metrics = [keras.metrics.MeanAbsoluteError()] if metrics == "auto" else metrics
        super().compile(
            optimizer=optimizer, loss=loss, metrics=metrics, **{"run_eagerly": True, **settings}
        )

    def get_config(self) -> dict[str, Any]:
        return {"units": self.units, "name": self.name}


def compiled_task() -> keras.Model:
    model = Task()
    model.compile(keras.optimizers.SGD(0.05, 0.5), "mae")
    return model


@register
class Fixed(keras.Model):
    """Its compile() takes fewer arguments than Keras's (`compile_of_its_own.py`)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.out = layers.Dense(1)

    def compile(self, optimizer: Any = "sgd", loss_fn: Any = None, **settings: Any) -> None:
        super().compile(optimizer=optimizer, loss="mse", run_eagerly=True, **settings)
        self.loss_fn = loss_fn

    def call(self, x: Any) -> Any:
        return self.out(x)


def fixed() -> keras.Model:
    model = Fixed()
    model.compile("adam")
    return model


def adversarial(of: Any = Gan, **settings: Any) -> Kind:
    monitored = {"monitor": "g_loss"}
    return Kind(lambda: gan(of), data=real_data, checkpoints=monitored, backends=ONLY, **settings)


KINDS = {
    "a train_step of one's own": Kind(lambda: finished(OwnStep()), backends=ONLY),
    "a train_step, stopped inside an epoch": Kind(
        lambda: finished(OwnStep()), data=epoch_data, stop=Raises(), backends=ONLY
    ),
    "a GAN, restored": adversarial(go_on=restores),
    "a GAN, resumed": adversarial(),
    "a GAN, resumed with compile=": adversarial(go_on=resumes_compiling),
    "a GAN with get_compile_config": adversarial(DescribedGan),
    "a VAE with trackers": Kind(lambda: finished(Vae()), data=real_data, backends=ONLY),
    "a distillation": Kind(distiller),
    "a distillation, restored": Kind(distiller, go_on=restores),
    "a task that compiles itself": Kind(Task),
    "a task that was compiled again": Kind(compiled_task),
    "a compile() with other arguments": Kind(fixed),
}
