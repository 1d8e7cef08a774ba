"""Models of Keras's own examples and guides, small."""

from __future__ import annotations

import logging
import threading
from collections import deque
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.support.kinds.kind import (
    BATCH,
    TENSORFLOW,
    Expected,
    Kind,
    Raises,
    Terminated,
    X,
    Y,
    named,
    refused,
    restores,
)  # fmt: skip
from tests.support.kinds.models import TOKENS, dense, finished, rows

register = keras.saving.register_keras_serializable("kinds")
ONLY = (TENSORFLOW,)


def just_x() -> dict[str, Any]:
    return {"x": X, "batch_size": BATCH, "shuffle": False}


def descend(model: Any, loss_of: Any, weights: Any = None, optimizer: Any = None) -> Any:
    """Take one step down, and return the loss."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = loss_of()
    weights = model.trainable_weights if weights is None else weights
    (optimizer or model.optimizer).apply(tape.gradient(loss, weights), weights)
    return loss


@register
class Sampling(layers.Layer):
    """Draws from a distribution of the encoder (as in Keras's VAE)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs: Any) -> Any:
        mean, log = inputs
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log) * noise


@register
class ExampleVae(keras.Model):
    """Encoder and decoder are arguments, and there is no call() (as in Keras's VAE)."""

    def __init__(self, encoder: Any, decoder: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self.encoder, self.decoder = encoder, decoder
        self.total = keras.metrics.Mean(name="total")
        self.kl = keras.metrics.Mean(name="kl")

    @property
    def metrics(self) -> Any:
        return [self.total, self.kl]

    def train_step(self, data: Any) -> Any:
        data = data[0] if isinstance(data, tuple) else data
        kept = []

        def loss() -> Any:
            mean, log, z = self.encoder(data)
            kl = -0.5 * ops.mean(1 + log - ops.square(mean) - ops.exp(log))
            kept.append(kl)
            return ops.mean(ops.square(self.decoder(z) - data)) + kl

        self.total.update_state(descend(self, loss))
        self.kl.update_state(kept[0])
        return {"loss": self.total.result(), "kl": self.kl.result()}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "decoder": keras.saving.serialize_keras_object(self.decoder),
        }

    @classmethod
    def from_config(cls, config: Any) -> Any:
        config["encoder"] = keras.saving.deserialize_keras_object(config["encoder"])
        config["decoder"] = keras.saving.deserialize_keras_object(config["decoder"])
        return cls(**config)


@register
class BareVae(ExampleVae):
    """The same as it stands in the example: with no get_config."""

    get_config = keras.Model.get_config
    from_config = keras.Model.from_config


def vae(of: Any = ExampleVae) -> keras.Model:
    inputs = keras.Input((6,))
    hidden = layers.Dense(4, activation="relu")(inputs)
    mean, log = layers.Dense(2)(hidden), layers.Dense(2)(hidden)
    encoder = keras.Model(inputs, [mean, log, Sampling()([mean, log])], name="encoder")
    decoder = keras.Sequential([keras.Input((2,)), layers.Dense(6)], name="decoder")
    model = of(encoder, decoder)
    model.compile(optimizer=keras.optimizers.Adam(0.02), run_eagerly=True)
    return model


@register
class Diffusion(keras.Model):
    """A network, and its moving average in a second one (as in Keras's DDIM)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.normalizer = layers.Normalization()
        self.network = keras.Sequential([keras.Input((7,)), layers.Dense(6)])
        self.ema_network = keras.models.clone_model(self.network)
        self.seeds = keras.random.SeedGenerator(2)

    def compile(self, **settings: Any) -> None:
        super().compile(**settings)
        self.noise_loss = keras.metrics.Mean(name="n_loss")

    @property
    def metrics(self) -> Any:
        return [self.noise_loss]

    def call(self, x: Any) -> Any:
        return self.ema_network(ops.concatenate([x, x[:, :1]], axis=-1))

    def train_step(self, data: Any) -> Any:
        x = self.normalizer(data[0] if isinstance(data, tuple) else data, training=True)
        noise = keras.random.normal(ops.shape(x), seed=self.seeds)
        time = keras.random.uniform((ops.shape(x)[0], 1), seed=self.seeds)
        noisy = ops.concatenate([x * (1 - time) + noise * time, time], axis=-1)
        loss = descend(
            self,
            lambda: self.compute_loss(y=noise, y_pred=self.network(noisy, training=True)),
            self.network.trainable_weights,
        )
        self.noise_loss.update_state(loss)
        for weight, mean in zip(self.network.weights, self.ema_network.weights, strict=True):
            mean.assign(0.9 * mean + 0.1 * weight)
        return {m.name: m.result() for m in self.metrics}


def diffusion(**settings: Any) -> keras.Model:
    model = Diffusion()
    model.normalizer.adapt(X)
    settings = {"run_eagerly": True, **settings}
    model.compile(optimizer=keras.optimizers.AdamW(0.02), loss="mse", **settings)
    model.build((None, 6))
    return model


@register
class CycleGan(keras.Model):
    """Four networks, four optimizers, loss functions as arguments (as in Keras's CycleGAN)."""

    def __init__(self, lambda_cycle: float = 10.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.gen_g, self.gen_f = (
            keras.Sequential([keras.Input((6,)), layers.Dense(6)]) for _ in range(2)
        )
        self.disc_x, self.disc_y = (
            keras.Sequential([keras.Input((6,)), layers.Dense(1)]) for _ in range(2)
        )
        self.lambda_cycle = lambda_cycle

    def call(self, x: Any) -> Any:
        return self.disc_x(x), self.disc_y(x), self.gen_g(x), self.gen_f(x)

    def compile(self, optimizers: Any, gen_loss_fn: Any, disc_loss_fn: Any) -> None:
        super().compile(run_eagerly=True)
        self.optimizers = optimizers
        self.gen_loss_fn, self.disc_loss_fn = gen_loss_fn, disc_loss_fn
        self.cycle_loss_fn = keras.losses.MeanAbsoluteError()

    def train_step(self, data: Any) -> Any:
        x, y = data[0], -data[0]
        g = descend(
            self,
            lambda: self.gen_loss_fn(self.disc_y(self.gen_g(x, training=True)))
            + self.cycle_loss_fn(x, self.gen_f(self.gen_g(x))) * self.lambda_cycle,
            self.gen_g.trainable_weights, self.optimizers["gen_g"],
        )  # fmt: skip
        d = descend(
            self,
            lambda: self.disc_loss_fn(self.disc_y(y), self.disc_y(self.gen_g(x))),
            self.disc_y.trainable_weights, self.optimizers["disc_y"],
        )  # fmt: skip
        return {"g_loss": g, "d_loss": d}


@register
def generator_loss(fake: Any) -> Any:
    return ops.mean(ops.square(1.0 - fake))


@register
def discriminator_loss(real: Any, fake: Any) -> Any:
    return ops.mean(ops.square(1.0 - real)) + ops.mean(ops.square(fake))


def cyclegan() -> keras.Model:
    model = CycleGan()
    model.build((None, 6))
    model.compile(
        {"gen_g": keras.optimizers.Adam(2e-2, 0.5), "disc_y": keras.optimizers.Adam(1e-2, 0.5)},
        generator_loss,
        discriminator_loss,
    )
    return model


@register
class DeepQ(keras.Model):
    """A target network, exploration and a replay buffer in Python, in eager mode (a DQN)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.q = keras.Sequential([keras.Input((6,)), layers.Dense(2)])
        self.target = keras.models.clone_model(self.q)
        self.memory: Any = deque(maxlen=6)
        self.epsilon, self.frames = 1.0, 0
        self.rng = np.random.default_rng(1)

    def call(self, x: Any) -> Any:
        return self.q(x)

    def train_step(self, data: Any) -> Any:
        for row in np.asarray(data[0]):
            self.memory.append((row, float(row[0]), int(self.rng.random() < self.epsilon)))
        chosen = self.rng.integers(0, len(self.memory), 4)
        states = np.stack([self.memory[i][0] for i in chosen])
        rewards = np.array([self.memory[i][1] for i in chosen], "float32")
        actions = np.array([self.memory[i][2] for i in chosen])
        future = rewards + 0.9 * ops.max(self.target(states), axis=1)
        loss = descend(
            self,
            lambda: ops.mean(
                ops.square(ops.sum(self.q(states) * ops.one_hot(actions, 2), axis=1) - future)
            ),
            self.q.trainable_weights,
        )
        self.frames += 1
        self.epsilon = max(0.1, self.epsilon * 0.8)
        if self.frames % 2 == 0:
            self.target.set_weights(self.q.get_weights())
        return {"loss": loss}


class OfNetwork(keras.Model):
    """Is made of a network, which its config holds."""

    def get_config(self) -> dict[str, Any]:
        return {"network": keras.saving.serialize_keras_object(self.network)}

    @classmethod
    def from_config(cls, config: Any) -> Any:
        return cls(keras.saving.deserialize_keras_object(config["network"]))


@register
class Siamese(OfNetwork):
    """Embeds triplets (as in Keras's Siamese network)."""

    def __init__(self, network: Any, margin: float = 0.5, **settings: Any) -> None:
        super().__init__()
        self.network, self.margin = network, margin
        self.tracker = keras.metrics.Mean(name="loss")

    def call(self, inputs: Any) -> Any:
        return self.network(inputs)

    def train_step(self, data: Any) -> Any:
        loss = descend(self, lambda: self._loss(data), self.network.trainable_weights)
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}

    def _loss(self, data: Any) -> Any:
        near, far = self.network(data[0])
        return ops.mean(ops.maximum(near - far + self.margin, 0.0))

    @property
    def metrics(self) -> Any:
        return [self.tracker]


@register
class Distances(layers.Layer):
    """Distances of an anchor to two others."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)

    def call(self, anchor: Any, positive: Any, negative: Any) -> Any:
        return (
            ops.sum(ops.square(anchor - positive), -1), ops.sum(ops.square(anchor - negative), -1),
        )  # fmt: skip


def siamese() -> keras.Model:
    embedding = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, activation="relu"), layers.BatchNormalization()],
        name="Embedding",
    )
    anchor, positive, negative = (keras.Input((6,), name=n) for n in ("a", "p", "n"))
    distances = Distances()(embedding(anchor), embedding(positive), embedding(negative))
    model = Siamese(keras.Model([anchor, positive, negative], distances))
    model.compile(optimizer=keras.optimizers.Adam(0.01), weighted_metrics=[], run_eagerly=True)
    return model


def triplets() -> dict[str, Any]:
    return rows([X, X + 0.1, X[::-1].copy()], Y)()


@register
class CTCLayer(layers.Layer):
    """Adds the loss of its labels (as in Keras's OCR)."""

    def __init__(self, name: Any = None, **kwargs: Any) -> None:
        super().__init__(name=name)
        self.loss_fn = keras.losses.CategoricalCrossentropy(from_logits=True)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        self.add_loss(self.loss_fn(y_true, y_pred))
        return y_pred


def ocr() -> keras.Model:
    inputs, labels = keras.Input((6,), name="image"), keras.Input((3,), name="label")
    hidden = layers.Dropout(0.3)(layers.Dense(4)(inputs))
    outputs = CTCLayer(name="ctc_loss")(labels, layers.Dense(3)(hidden))
    model = keras.Model(inputs=[inputs, labels], outputs=outputs, name="ocr_model_v1")
    model.compile(optimizer=keras.optimizers.Adam(0.02), run_eagerly=True)
    return model


def ocr_data() -> dict[str, Any]:
    labels = np.eye(3, dtype="float32")[np.arange(12) % 3]
    return {"x": {"image": X, "label": labels}, "batch_size": 4, "shuffle": False}


@register
class Experts(layers.Layer):
    """A mixture of experts with a loss for balance and statistics of load."""

    def __init__(self, count: int = 3, **settings: Any) -> None:
        super().__init__(**settings)
        self.count = count
        self.experts = [layers.Dense(4, activation="tanh") for _ in range(count)]
        self.gate = layers.Dense(count, activation="softmax")
        self.noise = layers.GaussianNoise(0.1)

    def build(self, shape: Any) -> None:
        self.load = self.add_weight(
            shape=(self.count,), initializer="zeros", trainable=False, name="load"
        )
        for part in [*self.experts, self.gate]:
            part.build(shape)
        self.built = True

    def call(self, x: Any, training: bool = False) -> Any:
        gates = self.gate(self.noise(x, training=training))
        mean = ops.mean(gates, axis=0)
        if training:
            self.load.assign(0.9 * self.load + 0.1 * mean)
        self.add_loss(self.count * ops.sum(mean * ops.convert_to_tensor(self.load)))
        stacked = ops.stack([expert(x) for expert in self.experts], axis=1)
        return ops.sum(stacked * gates[:, :, None], axis=1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "count": self.count}


@register
class TransformerBlock(layers.Layer):
    """As in Keras's text classification, without build() and get_config()."""

    def __init__(self, embed_dim: int, num_heads: int, ff_dim: int, rate: float = 0.1) -> None:
        super().__init__()
        self.att = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.ffn = keras.Sequential([layers.Dense(ff_dim, "relu"), layers.Dense(embed_dim)])
        self.layernorm1 = layers.LayerNormalization(epsilon=1e-6)
        self.layernorm2 = layers.LayerNormalization(epsilon=1e-6)
        self.dropout1, self.dropout2 = layers.Dropout(rate), layers.Dropout(rate)

    def call(self, inputs: Any, training: bool = False) -> Any:
        out1 = self.layernorm1(inputs + self.dropout1(self.att(inputs, inputs), training=training))
        return self.layernorm2(out1 + self.dropout2(self.ffn(out1), training=training))


@register
class TokenAndPosition(layers.Layer):
    """As in Keras's text classification."""

    def __init__(self, maxlen: int, vocab_size: int, embed_dim: int) -> None:
        super().__init__()
        self.token_emb = layers.Embedding(input_dim=vocab_size, output_dim=embed_dim)
        self.pos_emb = layers.Embedding(input_dim=maxlen, output_dim=embed_dim)

    def call(self, x: Any) -> Any:
        positions = ops.arange(start=0, stop=ops.shape(x)[-1], step=1)
        return self.token_emb(x) + self.pos_emb(positions)


def transformer(rate: Any = 0.01) -> keras.Model:
    inputs = keras.Input((5,))
    hidden = TransformerBlock(4, 2, 8)(TokenAndPosition(5, 20, 4)(inputs))
    hidden = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(hidden))
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(hidden))
    return finished(
        model, keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )  # fmt: skip


def text() -> dict[str, Any]:
    return rows(TOKENS, (TOKENS[:, 0] > TOKENS[:, 1]).astype("int64"))()


@register
class MaskedLanguage(keras.Model):
    """Functional, with a step of its own and module-like trackers (as in Keras's masked LM)."""

    def train_step(self, inputs: Any) -> Any:
        features, labels, weight = inputs
        loss = descend(
            self,
            lambda: MLM_LOSS(labels, self(features, training=True), sample_weight=weight),
        )
        MLM_TRACKER.update_state(loss)
        return {"loss": MLM_TRACKER.result()}

    @property
    def metrics(self) -> Any:
        return [MLM_TRACKER]


MLM_LOSS = keras.losses.SparseCategoricalCrossentropy()
MLM_TRACKER = keras.metrics.Mean(name="loss")


def masked_language() -> keras.Model:
    inputs = keras.Input((5,), dtype="int64")
    embedding = layers.Embedding(20, 4)
    outputs = layers.Dense(20, activation="softmax")(layers.Dropout(0.2)(embedding(inputs)))
    model = MaskedLanguage(inputs, outputs, name="masked_bert_model")
    model.compile(optimizer=keras.optimizers.Adam(0.02), run_eagerly=True)
    return model


def masked_text() -> dict[str, Any]:
    weight = (TOKENS % 3 == 0).astype("float32")
    return {**rows(TOKENS, TOKENS)(), "sample_weight": weight}


@register
class SAM(OfNetwork):
    """Sharpness-aware minimization (as in Keras's example)."""

    def __init__(self, network: Any, rho: float = 0.05) -> None:
        super().__init__()
        self.network, self.rho = network, rho

    def call(self, x: Any) -> Any:
        return self.network(x)

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        x, y = data
        weights = self.network.trainable_variables
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self.network(x, training=True))
        gradients = tape.gradient(loss, weights)
        norm = tf.linalg.global_norm(gradients)
        steps = [g * self.rho / (norm + 1e-12) for g in gradients]
        for weight, step in zip(weights, steps, strict=True):
            weight.assign_add(step)
        with tf.GradientTape() as tape:
            predicted = self.network(x, training=True)
            loss = self.compute_loss(x, y, predicted)
        gradients = tape.gradient(loss, weights)
        for weight, step in zip(weights, steps, strict=True):
            weight.assign_sub(step)
        self.optimizer.apply(gradients, weights)
        return self.compute_metrics(x, y, predicted)


def sam() -> keras.Model:
    network = keras.Sequential([keras.Input((6,)), layers.Dense(4, "tanh"), layers.Dropout(0.2),
                                layers.Dense(1)])  # fmt: skip
    return finished(SAM(network), keras.optimizers.SGD(0.05, 0.9), metrics=["mae"])


@register
class Accumulating(keras.Model):
    """Accumulates gradients by hand in variables of TensorFlow (a recipe that many copy)."""

    def __init__(self, n_gradients: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        import tensorflow as tf

        self.n_gradients = tf.constant(n_gradients, dtype=tf.int32)
        self.n_acum_step = tf.Variable(0, dtype=tf.int32, trainable=False)
        self.gradient_accumulation = [
            tf.Variable(tf.zeros_like(v), trainable=False) for v in self.trainable_variables
        ]

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        self.n_acum_step.assign_add(1)
        x, y = data
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=predicted)
        for sum_, g in zip(
            self.gradient_accumulation, tape.gradient(loss, self.trainable_variables), strict=True
        ):
            sum_.assign_add(g)
        tf.cond(tf.equal(self.n_acum_step, self.n_gradients), self.apply_accumulated, lambda: None)
        return {"loss": loss}

    def apply_accumulated(self) -> None:
        import tensorflow as tf

        self.optimizer.apply_gradients(
            zip(self.gradient_accumulation, self.trainable_variables, strict=True)
        )
        self.n_acum_step.assign(0)
        for sum_ in self.gradient_accumulation:
            sum_.assign(tf.zeros_like(sum_))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "n_gradients": 2}


@register
class Mixup(keras.Model):
    """Mixes each batch with itself, by Keras's random functions."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.out = layers.Dense(1)
        self.seed_gen = keras.random.SeedGenerator(8)

    def call(self, x: Any) -> Any:
        return self.out(x)

    def train_step(self, data: Any) -> Any:
        x, y = data
        part = keras.random.beta((1,), 0.2, 0.2, seed=self.seed_gen)
        order = keras.random.shuffle(ops.arange(ops.shape(x)[0]), seed=self.seed_gen)
        x = x * part + ops.take(x, order, axis=0) * (1 - part)
        y = y * part + ops.take(y, order, axis=0) * (1 - part)
        return super().train_step((x, y))


@register
class Centralized(keras.Model):
    """Functional; clips and centralizes gradients, in mixed precision."""

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            loss = self.compute_loss(x, y, predicted)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        gradients = [g - ops.mean(g, axis=0) if len(g.shape) > 1 else g for g in gradients]
        gradients, _ = tf.clip_by_global_norm(gradients, 1000.0)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, predicted)
        return {m.name: m.result() for m in self.metrics}


def functional(of: Any, *before: Any, dtype: Any = None, **settings: Any) -> keras.Model:
    inputs = keras.Input((6,))
    hidden = layers.Dropout(0.2)(layers.Dense(4, "tanh", dtype=dtype)(inputs))
    model = of(*before, inputs=inputs, outputs=layers.Dense(1, dtype=dtype)(hidden))
    return finished(model, **settings)


@register
class Gadgets(keras.Model):
    """Has all sorts of things in attributes that are no state."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        import tensorflow as tf

        self.out = layers.Dense(1)
        self.lock, self.logger = threading.Lock(), logging.getLogger("gadgets")
        self.folder, self.scale = Path("/tmp"), lambda x: x * 0.5
        self.settings: Any = {"a": (1, 2), "b": {"c": [1.0, None]}}
        self.dataset = tf.data.Dataset.range(3)
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.constant([1, 2]), tf.constant([3, 4])), -1
        )
        self.spec = tf.TensorSpec((None, 6), tf.float32)
        self.function = tf.function(self.shifted)
        self.thread = threading.Thread(target=print)
        self.event = threading.Event()

    def shifted(self, x: Any) -> Any:
        return self.scale(x) + 1.0

    def call(self, x: Any) -> Any:
        return self.out(self.function(x))


@register
class Tabled(layers.Layer):
    """Counts in a table of TensorFlow that changes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        import tensorflow as tf

        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)

    def call(self, x: Any) -> Any:
        import tensorflow as tf

        key = tf.constant([1], tf.int64)
        seen = ops.reshape(self.table.lookup(key) + 1.0, (1,))
        self.table.insert(key, seen)
        return x * ops.minimum(1.0, 0.1 * seen)


@register
class DrawsInRuntime(layers.Layer):
    """Draws from NumPy in a function that TensorFlow calls step by step."""

    def call(self, x: Any) -> Any:
        import tensorflow as tf

        noise = tf.numpy_function(lambda: np.random.normal(size=(4,)).astype("float32"), [],
                                  tf.float32)  # fmt: skip
        return x + 0.1 * ops.reshape(noise, (1, 4))


def _by_image(x: Any) -> Any:
    import tensorflow as tf

    return tf.image.random_brightness(x[None, :, :, None], 0.5)[0, :, :, 0]


def _by_nn(x: Any) -> Any:
    import tensorflow as tf

    return tf.nn.dropout(x, 0.5)


def _by_alias(x: Any) -> Any:
    from tensorflow import random as draws

    return x + 0.1 * draws.normal((4,))


def _stateless(x: Any) -> Any:
    import tensorflow as tf

    return x + 0.1 * tf.random.stateless_normal((4,), seed=(1, 2))


def _by_keras(x: Any) -> Any:
    return x + keras.random.normal((4,), stddev=0.1)


def _by_shuffle(x: Any) -> Any:
    import tensorflow as tf

    return tf.gather(x, tf.random.shuffle(tf.range(4)), axis=1)


class Augmenter:
    """Draws in a method."""

    def shift(self, x: Any) -> Any:
        import numpy.random

        return x + 0.1 * numpy.random.normal()


AUGMENTER = Augmenter()
CHOICES = {"first": _by_shuffle}


def _by_method(x: Any) -> Any:
    return AUGMENTER.shift(x)


def _by_choice(x: Any) -> Any:
    return CHOICES["first"](x)


def _by_tf_function(x: Any) -> Any:
    import tensorflow as tf

    if "traced" not in TRACED:
        TRACED["traced"] = tf.function(_by_shuffle)
    return TRACED["traced"](x)


TRACED: dict[str, Any] = {}
EXACT_WAYS = ("tf.random.stateless_normal", "keras.random without a seed")
WAYS = {
    "NumPy in a method of the script's object": _by_method,
    "a function from a dictionary": _by_choice,
    "a function under tf.function": _by_tf_function,
    "tf.image.random_brightness": _by_image,
    "tf.nn.dropout": _by_nn,
    "tensorflow.random imported in call": _by_alias,
    "tf.random.stateless_normal": _stateless,
    "keras.random without a seed": _by_keras,
    "tf.random.shuffle": _by_shuffle,
}


class Drawing(layers.Layer):
    """Calls a function that draws."""

    def call(self, x: Any) -> Any:
        return x


def _drawing(name: str, draw: Any) -> Any:
    def call(self: Any, x: Any) -> Any:
        return draw(x)

    return register(type(name, (Drawing,), {"call": call}))


def graph(*inside: Any) -> keras.Model:
    return dense(*inside, run_eagerly=False, jit_compile=False)


@register
class Encoder(layers.Layer):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.one = layers.Dense(4)

    def encode(self, x: Any) -> Any:
        return ops.tanh(self.one(x))


@register
class Confusion(keras.metrics.Metric):
    """Keeps a confusion matrix (as in many notebooks), and a threshold."""

    def __init__(self, threshold: float = 0.0, name: str = "confusion", **kw: Any) -> None:
        super().__init__(name=name, **kw)
        self.threshold = threshold
        self.cm = self.add_weight(shape=(2, 2), initializer="zeros", name="cm")

    def update_state(self, y: Any, p: Any, sample_weight: Any = None) -> None:
        y, p = y > self.threshold, p > self.threshold
        cells = [
            ops.sum(ops.cast(ops.logical_and(y == a, p == b), "float32"))
            for a in (False, True) for b in (False, True)
        ]  # fmt: skip
        self.cm.assign(self.cm + ops.reshape(ops.stack(cells), (2, 2)))

    def result(self) -> Any:
        cm = ops.convert_to_tensor(self.cm)
        return {"f1": 2 * cm[1, 1] / (2 * cm[1, 1] + cm[0, 1] + cm[1, 0] + 1e-7),
                "tn": cm[0, 0]}  # fmt: skip

    def reset_state(self) -> None:
        self.cm.assign(ops.zeros((2, 2)))


def many_outputs() -> keras.Model:
    inputs = keras.Input((6,))
    hidden = layers.Dropout(0.2)(layers.Dense(4)(inputs))
    a = layers.Dense(1, name="a")(hidden)
    b = layers.Dense(1, activation="sigmoid", name="b")(hidden)
    c = layers.Dense(1, name="c")(hidden)
    return finished(
        keras.Model(inputs, [a, b, c]), "adam", loss=["mse", "binary_crossentropy", None],
        loss_weights=[1.0, 0.3, None], metrics=[["mae", "mse"], ["AUC", "accuracy"], None],
        weighted_metrics=[[], ["binary_crossentropy"], None],
    )  # fmt: skip


def many_targets() -> dict[str, Any]:
    labels = (Y > 0).astype("float32")
    return {**rows(X, [Y, labels, Y])(), "sample_weight": [np.abs(X[:, 0]), np.abs(X[:, 1]), None]}


DRAWING = {
    way: _drawing(f"Drawing{number}", draw) for number, (way, draw) in enumerate(WAYS.items())
}


def only(build: Any, data: Any = None, **settings: Any) -> Kind:
    settings = {"backends": ONLY, **({"data": data} if data else {}), **settings}
    return Kind(build, **settings)


INSIDE = Raises()
UNLOADED = Expected(text="will not load")
KINDS = {
    "an example's VAE, stopped inside an epoch": only(vae, just_x, stop=INSIDE),
    "an example's VAE, restored": only(vae, just_x, go_on=restores),
    "an example's VAE without get_config": only(
        lambda: vae(BareVae),
        just_x,
        expected=refused("passing non-serializable.*get_config", at_save=False),
    ),
    "an example's diffusion, restored": only(
        diffusion,
        just_x,
        checkpoints={"monitor": "n_loss"},
        go_on=restores,
        expected=UNLOADED,
    ),
    "an example's CycleGAN": only(cyclegan, checkpoints={"monitor": "g_loss"}),
    "an example's CycleGAN, restored": only(
        cyclegan, checkpoints={"monitor": "g_loss"}, go_on=restores
    ),
    "an example's Siamese network, SIGTERM": only(siamese, triplets, stop=Terminated()),
    "an example's OCR with a loss in a layer": only(ocr, ocr_data),
    "an example's Transformer": only(transformer, text, expected=refused("TokenAndPosition")),
    "an example's Transformer, restored": only(
        transformer, text, go_on=restores, expected=UNLOADED
    ),
    "an example's masked language model": only(masked_language, masked_text, stop=INSIDE),
    "an example's sharpness-aware minimization": only(sam),
    "a DQN with a replay buffer": only(lambda: finished(DeepQ()), stop=INSIDE),
    "a mixture of experts": only(lambda: dense(Experts())),
    "gradients accumulated by hand": only(lambda: functional(Accumulating, 2), stop=INSIDE),
    "gradients accumulated by hand, in a graph": only(
        lambda: functional(Accumulating, 2, run_eagerly=False, jit_compile=False), stop=INSIDE
    ),
    "gradients centralized by hand, in mixed precision": only(
        lambda: functional(
            Centralized,
            dtype="mixed_float16",
            metrics=["mae"],
            optimizer=keras.optimizers.LossScaleOptimizer(
                keras.optimizers.SGD(0.05), initial_scale=2.0**14, dynamic_growth_steps=3
            ),
        ),
        stop=INSIDE,
    ),
    "mixup with keras.random, in a graph": only(
        lambda: finished(Mixup(), run_eagerly=False), stop=INSIDE
    ),
    "tools in attributes": only(lambda: finished(Gadgets())),
    "a table of TensorFlow": only(lambda: dense(Tabled()), expected=named("tabled.*table")),
    "numpy_function in a graph": only(lambda: graph(DrawsInRuntime())),
    **{
        f"{way}, in a graph": only(
            lambda way=way: graph(DRAWING[way]()),
            expected=Expected() if way in EXACT_WAYS else named("which draws|random operation"),
        )
        for way in WAYS
    },
    "a confusion matrix": only(lambda: dense(metrics=[Confusion(0.1), "mae"])),
    "a confusion matrix, stopped inside an epoch": only(
        lambda: dense(metrics=[Confusion(0.1), keras.metrics.F1Score(threshold=0.1)]), stop=INSIDE
    ),
    "outputs of which some have no weights": only(many_outputs, many_targets, stop=INSIDE),
}
