"""Models of Keras's own layers: random ones, with states, with adapters, with statistics."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

import mlflow_ckpt
from tests.support.kinds.kind import (
    EXACT,
    JAX,
    TENSORFLOW,
    Expected,
    Kind,
    Raises,
    epoch_data,
    refused,
    restores,
)  # fmt: skip
from tests.support.kinds.models import (
    IMAGES,
    STEPS,
    TOTALS,
    dense,
    finished,
    image_rows,
    images,
    recurrent,
    rows,
    step_rows,
    token_rows,
    tokens,
)  # fmt: skip

WORDS = np.array([["red dog"], ["blue cat"], ["the red cat"], ["dog"]] * 2, dtype=object)
VALUES = np.linspace(0, 1, 8, dtype="float32")[:, None]


def _inside(*makes: Any, **settings: Any) -> Kind:
    return Kind(lambda: dense(*(make() for make in makes)), **settings)


def _images(*makes: Any, **settings: Any) -> Kind:
    return Kind(lambda: images(*(make() for make in makes)), data=image_rows, **settings)


def _recurrent(make: Any, **settings: Any) -> Kind:
    return Kind(lambda: recurrent(make()), data=step_rows, **settings)


# On PyTorch, Keras cannot train them: their state is changed in place before the gradients need it.
STATEFUL = (TENSORFLOW, JAX)


def _stateful(*makes: Any, **settings: Any) -> Kind:
    return Kind(
        lambda: recurrent(*(make() for make in makes), batch_size=4), data=step_rows, **settings
    )


def _tokens(*makes: Any, **settings: Any) -> Kind:
    return Kind(lambda: tokens(*(make() for make in makes)), data=token_rows, **settings)


def _augmented(make: Any, **settings: Any) -> Kind:
    # What a layer does to two images depends on the numbers that it draws.
    return _images(make, lambda: layers.Conv2D(2, 3), **settings)


def _mixed(make: Any) -> Kind:
    """A layer that mixes images and labels of a batch."""

    def build() -> keras.Model:
        pictures = keras.Input((8, 8, 3))
        labels = keras.Input((3,))
        mixed = make()({"images": pictures, "labels": labels})
        flat = layers.Flatten()(mixed["images"])
        return finished(
            keras.Model([pictures, labels], layers.Dense(3)(flat) - mixed["labels"]), loss="mse"
        )

    labels = np.eye(3, dtype="float32")[np.arange(8) % 3]
    return Kind(build, data=rows([IMAGES, labels], np.zeros((8, 3), "float32")))


def _adapted(layer: Any, data: Any) -> Any:
    layer.adapt(data)
    return layer


def _of_words(*makes: Any, dtype: str = "string") -> Kind:
    def build() -> keras.Model:
        return finished(
            keras.Sequential(
                [keras.Input((1,), dtype=dtype), *(make() for make in makes), layers.Dense(1)]
            )
        )

    def data() -> dict[str, Any]:
        import tensorflow as tf

        x = tf.constant(WORDS.tolist())
        return {"x": tf.data.Dataset.from_tensor_slices((x, VALUES)).batch(4)}

    def ordered() -> dict[str, Any]:
        import tensorflow as tf

        return rows(tf.constant(WORDS.tolist()), VALUES)()

    return Kind(build, data=ordered if dtype == "string" else data, backends=(TENSORFLOW,))


def _lora(prepare: Any, model: Any) -> keras.Model:
    built = model()
    prepare(built)
    built.compile(keras.optimizers.SGD(0.05, 0.5), built.loss, run_eagerly=True)
    return built


def _enable(*numbers: int, quantize: str | None = None) -> Any:
    def prepare(model: keras.Model) -> None:
        for number in numbers:
            if quantize:
                model.layers[number].quantize(quantize)
            model.layers[number].enable_lora(2)

    return prepare


def _einsum() -> keras.Model:
    return recurrent(layers.EinsumDense("abc,cd->abd", (4, 5), bias_axes="d"), layers.Flatten())


def _attention(x_dropout: float = 0.2) -> keras.Model:
    steps = keras.Input((4, 3))
    attended = layers.MultiHeadAttention(2, 3, dropout=x_dropout)(steps, steps)
    weighted = layers.Attention(use_scale=True, dropout=x_dropout)([attended, steps])
    added = layers.AdditiveAttention(dropout=x_dropout)([weighted, steps])
    grouped = layers.GroupQueryAttention(3, 2, 1, dropout=x_dropout)(added, steps)
    return finished(keras.Model(steps, layers.Dense(1)(layers.Flatten()(grouped))))


def _steps_by_epoch() -> dict[str, Any]:
    return {"x": mlflow_ckpt.EpochDataset(STEPS, TOTALS, batch_size=4, seed=7)}


def _float8() -> keras.Model:
    model = dense(layers.Dense(16), run_eagerly=False)
    model.layers[1].quantize("float8")
    return finished(model, run_eagerly=False)


KINDS = {
    "Dropout": _inside(lambda: layers.Dropout(0.4)),
    "Dropout, stopped inside an epoch": _inside(
        lambda: layers.Dropout(0.4), data=epoch_data, stop=Raises()
    ),
    "Dropout with a seed": _inside(lambda: layers.Dropout(0.4, seed=3)),
    "AlphaDropout and GaussianDropout": _inside(
        lambda: layers.AlphaDropout(0.3), lambda: layers.GaussianDropout(0.3)
    ),
    "SpatialDropout2D": _images(lambda: layers.Conv2D(8, 3), lambda: layers.SpatialDropout2D(0.4)),
    "GaussianNoise": _inside(lambda: layers.GaussianNoise(0.3)),
    "BatchNormalization": _inside(lambda: layers.BatchNormalization(momentum=0.7)),
    "BatchNormalization with renorm": _inside(
        lambda: layers.BatchNormalization(momentum=0.7, renorm=True)
    ),
    "SpectralNormalization": _inside(
        lambda: layers.SpectralNormalization(layers.Dense(3), power_iterations=2)
    ),
    "LayerNormalization, GroupNormalization, RMSNormalization": _inside(
        layers.LayerNormalization, lambda: layers.GroupNormalization(2), layers.RMSNormalization
    ),
    "Conv2D and SeparableConv2D": _images(
        lambda: layers.Conv2D(4, 3), lambda: layers.SeparableConv2D(2, 3)
    ),
    "LSTM with dropout": _recurrent(lambda: layers.LSTM(3, dropout=0.3, recurrent_dropout=0.3)),
    "GRU with dropout": _recurrent(lambda: layers.GRU(3, dropout=0.3, recurrent_dropout=0.3)),
    "a Bidirectional LSTM": _recurrent(lambda: layers.Bidirectional(layers.LSTM(3, dropout=0.3))),
    "stacked cells": _recurrent(
        lambda: layers.RNN([layers.LSTMCell(3, dropout=0.3), layers.GRUCell(2)])
    ),
    "a stateful LSTM": _stateful(lambda: layers.LSTM(3, stateful=True), backends=STATEFUL),
    "a stateful GRU": _stateful(lambda: layers.GRU(3, stateful=True), backends=STATEFUL),
    "a stateful SimpleRNN": _stateful(lambda: layers.SimpleRNN(3, stateful=True)),
    "a stateful Bidirectional LSTM": _stateful(
        lambda: layers.Bidirectional(layers.LSTM(3, stateful=True)), backends=STATEFUL
    ),
    "a stateful LSTM, stopped inside an epoch": Kind(
        lambda: recurrent(layers.LSTM(3, stateful=True), batch_size=4),
        data=_steps_by_epoch,
        stop=Raises(batch=1),
        backends=STATEFUL,
    ),
    "a stateful ConvLSTM1D": _stateful(
        lambda: layers.Reshape((4, 3, 1)),
        lambda: layers.ConvLSTM1D(2, 2, stateful=True),
        layers.Flatten,
    ),
    "attention with dropout": Kind(_attention, data=step_rows),
    "an Embedding with a mask": _tokens(
        lambda: layers.Embedding(20, 3, mask_zero=True), lambda: layers.LSTM(3)
    ),
    "TimeDistributed Dropout": _recurrent(lambda: layers.TimeDistributed(layers.Dropout(0.4))),
    "Dense quantized to float8": Kind(_float8, backends=(TENSORFLOW, JAX)),
    "LoRA on Dense": Kind(lambda: _lora(_enable(0), dense)),
    "LoRA on EinsumDense": Kind(lambda: _lora(_enable(0), _einsum), data=step_rows),
    "LoRA on Embedding": Kind(
        lambda: _lora(_enable(0), lambda: tokens(layers.Embedding(20, 3), layers.Flatten())),
        data=token_rows,
    ),
    "LoRA on Conv2D": Kind(
        lambda: _lora(_enable(0), lambda: images(layers.Conv2D(2, 3))), data=image_rows
    ),
    "LoRA, stopped inside an epoch": Kind(
        lambda: _lora(_enable(0), dense), data=epoch_data, stop=Raises()
    ),
    "QLoRA: int8, then LoRA": Kind(lambda: _lora(_enable(0, quantize="int8"), dense)),
    "QLoRA on Embedding": Kind(
        lambda: _lora(
            _enable(0, quantize="int8"), lambda: tokens(layers.Embedding(20, 3), layers.Flatten())
        ),
        data=token_rows,
    ),
    "RandomFlip, RandomRotation, RandomZoom": _augmented(
        lambda: keras.Sequential(
            [layers.RandomFlip(), layers.RandomRotation(0.2), layers.RandomZoom(0.2)]
        )
    ),
    "RandomTranslation, RandomPerspective": _augmented(
        lambda: keras.Sequential(
            [layers.RandomTranslation(0.2, 0.2), layers.RandomPerspective(0.3)]
        )
    ),
    # Its config holds negative factors, which it does not take.
    "RandomShear": _augmented(
        lambda: layers.RandomShear(0.2, 0.2), expected=refused("factor|RandomShear")
    ),
    "RandomShear, restored": _augmented(
        lambda: layers.RandomShear(0.2, 0.2), go_on=restores, expected=Expected(EXACT, "factor")
    ),
    "RandomBrightness, RandomContrast": _augmented(
        lambda: keras.Sequential(
            [layers.RandomBrightness(0.3, (0, 1)), layers.RandomContrast(0.3, (0, 1))]
        )
    ),
    "RandomHue, RandomSaturation, RandomSharpness": _augmented(
        lambda: keras.Sequential(
            [
                layers.RandomHue(0.3, (0, 1)),
                layers.RandomSaturation(0.3, (0, 1)),
                layers.RandomSharpness(0.3, (0, 1)),
            ]
        )
    ),
    "RandomGrayscale, RandomInvert, RandomPosterization": _augmented(
        lambda: keras.Sequential(
            [
                layers.RandomGrayscale(0.5),
                layers.RandomInvert(0.5, (0, 1)),
                layers.RandomPosterization(4, (0, 1)),
            ]
        )
    ),
    "RandomColorJitter": _augmented(
        lambda: layers.RandomColorJitter((0, 1), 0.3, 0.3, (0.3, 0.7), 0.2)
    ),
    "RandomColorDegeneration, RandomGaussianBlur": _augmented(
        lambda: keras.Sequential(
            [
                layers.RandomColorDegeneration(0.5, (0, 1)),
                layers.RandomGaussianBlur(0.5, 3, 1.0, (0, 1)),
            ]
        )
    ),
    "RandomElasticTransform, RandomErasing": _augmented(
        lambda: keras.Sequential(
            [
                layers.RandomElasticTransform(0.5, value_range=(0, 1)),
                layers.RandomErasing(0.5, value_range=(0, 1)),
            ]
        )
    ),
    # On other backends, Keras's fit fails: it calls the layer before training, without a crop.
    "RandomCrop": _augmented(lambda: layers.RandomCrop(7, 7), backends=(TENSORFLOW,)),
    "AugMix": _augmented(lambda: layers.AugMix((0, 1)), backends=(TENSORFLOW,)),
    "RandAugment": _augmented(lambda: layers.RandAugment((0, 1))),
    "a Pipeline of augmentations": _augmented(
        lambda: layers.Pipeline([layers.RandomFlip(), layers.RandomContrast(0.3, (0, 1))])
    ),
    "MixUp": _mixed(layers.MixUp),
    "CutMix": _mixed(layers.CutMix),
    "an adapted Normalization": Kind(
        lambda: recurrent(_adapted(layers.Normalization(), 3 * STEPS + 1), layers.Flatten()),
        data=step_rows,
    ),
    "an adapted Discretization": _tokens(
        lambda: _adapted(layers.Discretization(num_bins=4), np.arange(20.0)),
        lambda: layers.Embedding(5, 2),
        layers.Flatten,
    ),
    "an adapted TextVectorization": _of_words(
        lambda: _adapted(layers.TextVectorization(output_sequence_length=3), WORDS[:, 0].tolist()),
        lambda: layers.Embedding(10, 2),
        layers.Flatten,
    ),
    "an adapted StringLookup": _of_words(
        lambda: _adapted(layers.StringLookup(output_mode="multi_hot"), WORDS[:, 0].tolist())
    ),
    "Hashing": _of_words(
        lambda: layers.Hashing(5, salt=3), lambda: layers.Embedding(5, 2), layers.Flatten
    ),
}
