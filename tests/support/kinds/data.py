"""The data that people pass to `fit`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

import mlflow_ckpt
from tests.support.kinds.kind import (
    BATCH,
    JAX,
    TORCH,
    Kind,
    Raises,
    Terminated,
    X,
    Y,
    epoch_data,
    named,
)  # fmt: skip
from tests.support.kinds.models import dense, finished

INSIDE = Raises()
GENERATORS = np.random.default_rng(5)


def noisy() -> keras.Model:
    return dense(layers.Dropout(0.3))


def shuffled() -> dict[str, Any]:
    return {"x": X, "y": Y, "batch_size": BATCH}


def lists() -> dict[str, Any]:
    return {"x": [X, X[:, ::-1].copy()], "y": Y, "batch_size": BATCH}


def two_inputs() -> keras.Model:
    first, second = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    both = layers.Dropout(0.3)(layers.Concatenate()([first, second]))
    return finished(keras.Model([first, second], layers.Dense(1)(both)))


def frames() -> dict[str, Any]:
    import pandas as pd

    return {"x": pd.DataFrame(X), "y": pd.Series(Y[:, 0]), "batch_size": BATCH, "shuffle": False}


def pipeline(*, x: Any = X, y: Any = Y, **how: Any) -> dict[str, Any]:
    """A `tf.data.Dataset`, as asked for."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    if "cache" in how:
        dataset = dataset.cache()
    if "shuffle" in how:
        dataset = dataset.shuffle(len(x), **how["shuffle"])
    if "map" in how:
        dataset = dataset.map(lambda x, y: (x + tf.random.normal((6,), stddev=0.1), y))
    dataset = dataset.batch(BATCH, drop_remainder=how.get("drop", False))
    if "repeat" in how:
        dataset = dataset.repeat()
    return {"x": dataset.prefetch(1), **how.get("fit", {})}


def from_generator() -> dict[str, Any]:
    import tensorflow as tf

    def batches() -> Iterator[Any]:
        for i in range(0, len(X), BATCH):
            yield X[i : i + BATCH], Y[i : i + BATCH]

    signature = (
        tf.TensorSpec((None, 6), tf.float32), tf.TensorSpec((None, 1), tf.float32),
    )  # fmt: skip
    return {"x": tf.data.Dataset.from_generator(batches, output_signature=signature)}


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches in their order."""

    def __len__(self) -> int:
        return len(X) // BATCH

    def __getitem__(self, index: int) -> Any:
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return X[rows], Y[rows]


class Reordering(Batches):
    """Another order in every epoch, from a generator of its own."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.random = np.random.default_rng(3)
        self.order = self.random.permutation(len(X))

    def on_epoch_end(self) -> None:
        self.order = self.random.permutation(len(X))

    def __getitem__(self, index: int) -> Any:
        rows = self.order[index * BATCH : (index + 1) * BATCH]
        return X[rows], Y[rows]


class Augmenting(Batches):
    """Draws from NumPy's global generator for each batch."""

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return x + np.random.normal(scale=0.1, size=x.shape).astype("float32"), y


def python_dataset(of: Any, **settings: Any) -> Any:
    return lambda: {"x": of(**settings), "shuffle": False}


def generator() -> dict[str, Any]:
    def batches() -> Iterator[Any]:
        random = np.random.default_rng(3)
        while True:
            rows = random.permutation(len(X))[:BATCH]
            yield X[rows], Y[rows]

    return {"x": batches(), "steps_per_epoch": 3}


def generator_of_globals() -> dict[str, Any]:
    global GENERATORS
    GENERATORS = np.random.default_rng(5)

    def batches() -> Iterator[Any]:
        while True:
            rows = GENERATORS.permutation(len(X))[:BATCH]
            yield X[rows], Y[rows]

    return {"x": batches(), "steps_per_epoch": 3}


class Resumable(Batches):
    """Draws each batch, and says how to keep the position."""

    def __init__(self) -> None:
        super().__init__()
        self.position = 0

    def __getitem__(self, index: int) -> Any:
        rows = np.random.default_rng(self.position).permutation(len(X))[:BATCH]
        return X[rows] * (1 + index), Y[rows]

    def on_epoch_end(self) -> None:
        self.position += 1

    def get_state(self) -> dict[str, Any]:
        return {"position": self.position}

    def set_state(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def loader(**settings: Any) -> Any:
    def data() -> dict[str, Any]:
        import torch
        from torch.utils.data import DataLoader, TensorDataset

        dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
        return {"x": DataLoader(dataset, batch_size=BATCH, **settings)}

    return data


def seeded_loader() -> dict[str, Any]:
    import torch

    return dict(loader(shuffle=True, generator=torch.Generator().manual_seed(3))())


def by_function() -> dict[str, Any]:
    def batches(epoch: int) -> list[Any]:
        order = np.random.default_rng(epoch).permutation(len(X))
        return [(X[order[i : i + BATCH]], Y[order[i : i + BATCH]]) for i in range(0, 12, BATCH)]

    return {"x": mlflow_ckpt.EpochDataset.from_function(batches)}


def ragged() -> dict[str, Any]:
    return {"x": mlflow_ckpt.EpochDataset(X[:11], Y[:11], batch_size=BATCH, seed=3)}


def kind(data: Any, **settings: Any) -> Kind:
    return Kind(noisy, data=data, **settings)


def drawn(data: Any, **settings: Any) -> Kind:
    """Data that come in another order with the package, which can repeat it.

    TensorFlow shuffles them, or Keras: with workers on JAX and PyTorch, its first epoch begins with
    the second batch, because it has read the first to build the metrics.
    """
    return Kind(noisy, data=data, saves_whole=True, **settings)


def tf_data(*, settings: Mapping[str, Any] | None = None, **how: Any) -> Kind:
    shuffled = "shuffle" in how
    return Kind(noisy, data=lambda: pipeline(**how), saves_whole=shuffled, **(settings or {}))


REPEATED = {"repeat": True, "fit": {"steps_per_epoch": 2}}

KINDS = {
    "an EpochDataset": kind(epoch_data),
    "an EpochDataset, stopped inside an epoch": kind(epoch_data, stop=INSIDE),
    "an EpochDataset with a smaller last batch": kind(ragged, stop=INSIDE),
    "an EpochDataset from a function": kind(by_function, stop=INSIDE),
    "arrays, shuffled": drawn(shuffled),
    "arrays, shuffled, stopped inside an epoch": drawn(shuffled, stop=INSIDE),
    "arrays in order, stopped inside an epoch": kind(
        lambda: {**shuffled(), "shuffle": False}, stop=INSIDE
    ),
    "arrays shuffled within batches": drawn(lambda: {**shuffled(), "shuffle": "batch"}),
    "arrays with steps_per_epoch": drawn(lambda: {**shuffled(), "steps_per_epoch": 2}),
    "arrays in a list, shuffled": Kind(two_inputs, data=lists, saves_whole=True),
    "arrays with a smaller last batch": drawn(
        lambda: {"x": X[:11], "y": Y[:11], "batch_size": BATCH}
    ),
    "tensors of the backend": drawn(
        lambda: {
            "x": keras.ops.convert_to_tensor(X),
            "y": keras.ops.convert_to_tensor(Y),
            "batch_size": BATCH,
        }
    ),
    "pandas": kind(frames),
    "tf.data in order": tf_data(),
    "tf.data in order, stopped inside an epoch": tf_data(settings={"stop": INSIDE}),
    "tf.data shuffled": tf_data(shuffle={"seed": 3}),
    "tf.data shuffled, stopped inside an epoch": tf_data(
        shuffle={"seed": 3}, settings={"stop": INSIDE}
    ),
    "tf.data shuffled once": tf_data(shuffle={"seed": 3, "reshuffle_each_iteration": False}),
    "tf.data shuffled without a seed": tf_data(shuffle={}),
    "tf.data shuffled without a seed, SIGTERM": tf_data(
        shuffle={}, settings={"stop": Terminated()}
    ),
    "tf.data repeated, with steps_per_epoch": tf_data(shuffle={"seed": 3}, **REPEATED),
    "tf.data repeated, stopped inside an epoch": tf_data(
        shuffle={"seed": 3}, settings={"stop": INSIDE}, **REPEATED
    ),
    "tf.data cached and shuffled": tf_data(cache=True, shuffle={"seed": 3}),
    "tf.data with random operations": tf_data(
        map=True, settings={"expected": named("operations with a state")}
    ),
    "tf.data from a generator": kind(from_generator, expected=named("from_generator")),
    "tf.data from a generator, stopped inside an epoch": kind(
        from_generator, stop=INSIDE, expected=named("from_generator")
    ),
    "a PyDataset": kind(python_dataset(Batches)),
    "a PyDataset, stopped inside an epoch": kind(python_dataset(Batches), stop=INSIDE),
    "a PyDataset shuffled by fit": kind(lambda: {"x": Batches()}),
    "a PyDataset with workers": drawn(python_dataset(Batches, workers=2)),
    "a PyDataset with workers, stopped inside an epoch": drawn(
        python_dataset(Batches, workers=2), stop=INSIDE
    ),
    "a PyDataset that reorders itself": kind(python_dataset(Reordering)),
    "a PyDataset that reorders itself, stopped inside an epoch": kind(
        python_dataset(Reordering), stop=INSIDE
    ),
    "a PyDataset that draws from NumPy": kind(python_dataset(Augmenting)),
    "a generator": kind(generator, expected=named("[Gg]enerator|batches of epoch")),
    "a generator, stopped inside an epoch": kind(
        generator, expected=named("[Gg]enerator|batches of epoch"), stop=INSIDE
    ),
    "a generator with global state": kind(
        generator_of_globals, expected=named("[Gg]enerator|batches of epoch")
    ),
    "a PyDataset with get_state": kind(python_dataset(Resumable)),
    "a PyDataset with get_state, stopped inside an epoch": kind(
        python_dataset(Resumable), stop=INSIDE
    ),
    "a DataLoader": kind(loader(), backends=(JAX, TORCH)),
    "a DataLoader, shuffled": kind(loader(shuffle=True), backends=(JAX, TORCH)),
    "a DataLoader, shuffled, stopped inside an epoch": kind(
        loader(shuffle=True), backends=(JAX, TORCH), stop=INSIDE
    ),
    "a DataLoader with a generator": kind(seeded_loader, backends=(JAX, TORCH)),
}
