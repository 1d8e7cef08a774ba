"""Data as people prepare them: generators of images, augmentation in pipelines, validation."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
from keras import layers

from tests.support.kinds.kind import (
    BATCH,
    TENSORFLOW,
    Kind,
    Raises,
    Terminated,
    X,
    Y,
    named,
    sorted_data,
)  # fmt: skip
from tests.support.kinds.trainings import noisy

ONLY = (TENSORFLOW,)


def base(n: int = 12) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X[:n], Y[:n]))


def validated_by(make: Any, **more: Any) -> Any:
    return lambda: {**sorted_data(), "validation_data": make(), **more}


def repeated_validation() -> Any:
    return base().batch(4).repeat()


def shuffled_validation() -> Any:
    return base().shuffle(12).batch(4)


class Drifting(keras.utils.PyDataset):  # type: ignore[misc]
    """Changes from epoch to epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.level = 0

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return X[rows] * (1 + 0.1 * self.level), Y[rows]

    def on_epoch_end(self) -> None:
        self.level += 1


class Shuffling(Drifting):
    """The Sequence of a hundred tutorials: NumPy's global generator shuffles indexes."""

    def __init__(self) -> None:
        super().__init__()
        self.indexes = np.arange(len(X))
        self.on_epoch_end()

    def __getitem__(self, index: int) -> Any:
        rows = self.indexes[index * BATCH : (index + 1) * BATCH]
        x = np.stack([X[i] * random.uniform(0.9, 1.1) for i in rows])
        return x.astype("float32"), Y[rows]

    def on_epoch_end(self) -> None:
        self.indexes = np.arange(len(X))
        np.random.shuffle(self.indexes)


def layer_in_map(**how: Any) -> dict[str, Any]:
    augment = keras.Sequential([layers.GaussianNoise(0.3, seed=3)])
    return {"x": base().batch(4).map(lambda x, y: (augment(x, training=True), y), **how)}


def stateless_in_map() -> dict[str, Any]:
    import tensorflow as tf

    counter = tf.data.Dataset.counter()
    zipped = tf.data.Dataset.zip((base().repeat(), counter)).batch(4)
    return {
        "x": zipped.map(
            lambda xy, n: (xy[0] + tf.random.stateless_normal((6,), seed=(n[0], 0)), xy[1])
        ),
        "steps_per_epoch": 3,
    }


def split_by_take() -> dict[str, Any]:
    shuffled = base().shuffle(12, reshuffle_each_iteration=False)
    return {"x": shuffled.skip(4).batch(4), "validation_data": shuffled.take(4).batch(4)}


def time_series() -> dict[str, Any]:
    made = keras.utils.timeseries_dataset_from_array(
        np.arange(20, dtype="float32"), np.arange(20, dtype="float32"), 6, shuffle=True,
        batch_size=4, seed=3,
    )  # fmt: skip
    return {"x": made.map(lambda x, y: (x / 20.0, y[:, None] / 20.0))}


def drawn(data: Any, build: Any = noisy, **settings: Any) -> Kind:
    return Kind(build, data=data, backends=ONLY, saves_whole=True, **settings)


INSIDE = Raises()
SHUFFLED, CHANGED = named("validation data are shuffled anew"), named("validation data.*changed")
KINDS = {
    "validation in a shuffled tf.data": drawn(
        validated_by(shuffled_validation, validation_steps=2), expected=SHUFFLED
    ),
    "validation in a PyDataset that changes": Kind(
        noisy, data=validated_by(Drifting), backends=ONLY, expected=CHANGED
    ),
    "validation repeated, SIGTERM": Kind(
        noisy,
        data=validated_by(repeated_validation, validation_steps=2),
        backends=ONLY,
        stop=Terminated("on_test_batch_end", batch=0),
    ),
    "a split of a shuffled tf.data": drawn(split_by_take, expected=named("validation_data.seeds")),
    "a PyDataset that shuffles indexes": Kind(
        noisy, data=lambda: {"x": Shuffling()}, backends=ONLY, stop=INSIDE
    ),
    "tf.data with stateless random numbers": drawn(stateless_in_map, stop=INSIDE),
    "tf.data with a layer in map": drawn(layer_in_map, expected=named("state of their own")),
    "tf.data of axes of unknown size": drawn(time_series, stop=INSIDE),
}
