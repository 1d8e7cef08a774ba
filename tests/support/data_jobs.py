"""Trainings on all kinds of data that people pass to `fit`, each in its own process.

Run as a program, for other backends, it reads the arguments of several trainings from standard
input as a JSON list of lists, runs them one after another, and prints the results.
"""

from __future__ import annotations

import json
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import mlflow
import numpy as np

import mlflow_ckpt
from tests.support.jobs import Done
from tests.support.waiting import PATIENCE_SECONDS

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(52, 6)).astype("float32")
Y = _RNG.integers(0, 3, size=52)
WEIGHTS = _RNG.random(52).astype("float32")
# 13 batches, the last of them as large as the others.
BATCH = 4
FIT = {"batch_size": BATCH}


@dataclass(frozen=True)
class Job:
    """A training.

    Attributes:
        data: Returns arguments of `fit`: the data, and how to read them.
        seeded: Whether the script sets a global seed.
        replay: Whether to resume with `replay_data`.
        checkpoints: Arguments of `MlflowCheckpoint`.
        settings: Arguments of `compile`.
        length: Last batch of an epoch.
        second: Last batch of the second epoch, if that is shorter.
    """

    data: Callable[[], dict[str, Any]]
    seeded: bool = False
    replay: bool = False
    checkpoints: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    length: int = 13
    second: int | None = None


def arrays(**arguments: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"x": X, "y": Y, **FIT, **arguments}


def _dataset() -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y))


def pipeline(make: Callable[[Any], Any], **arguments: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"x": make(_dataset()), **arguments}


def _mapped(dataset: Any) -> Any:
    import tensorflow as tf

    mapped = dataset.shuffle(20).map(lambda x, y: (x * 2.0, y), num_parallel_calls=2)
    return mapped.batch(BATCH).prefetch(tf.data.AUTOTUNE)


def _mixed(dataset: Any) -> Any:
    import tensorflow as tf

    parts = [dataset.shuffle(30).repeat(), dataset.shuffle(50).map(lambda x, y: (-x, y)).repeat()]
    return tf.data.Dataset.sample_from_datasets(parts, [0.5, 0.5]).batch(BATCH)


class Batches(keras.utils.PyDataset):
    """A plain `PyDataset`."""

    def __len__(self) -> int:
        return len(X) // BATCH

    def __getitem__(self, index: int) -> Any:
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return X[rows], Y[rows]


class Shuffled(Batches):
    """Shuffles its rows at the end of each epoch, as most examples do."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.rows = np.arange(len(X))
        np.random.shuffle(self.rows)

    def __getitem__(self, index: int) -> Any:
        rows = self.rows[index * BATCH : (index + 1) * BATCH]
        return X[rows], Y[rows]

    def on_epoch_end(self) -> None:
        np.random.shuffle(self.rows)


class Noisy(Batches):
    """Draws from NumPy's global generator and from one of its own, batch by batch."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.rng = np.random.default_rng(0)

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return x + np.random.normal(size=x.shape) + self.rng.normal(size=x.shape), y


class WithState(Batches):
    """Has `get_state` and `set_state`."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [np.random.default_rng(4)]

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return x * float(len(self.hidden)), y

    def on_epoch_end(self) -> None:
        self.hidden.append(self.hidden[0])

    def get_state(self) -> dict[str, Any]:
        return {"length": len(self.hidden)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.hidden = self.hidden[:1] * state["length"]


def generated() -> Iterator[Any]:
    rng = np.random.default_rng(1)
    while True:
        rows = rng.integers(0, len(X), size=BATCH)
        yield X[rows], Y[rows]


def _from_generator() -> dict[str, Any]:
    import tensorflow as tf

    def rows() -> Iterator[Any]:
        yield from zip(X, Y, strict=True)

    spec = (tf.TensorSpec((6,), tf.float32), tf.TensorSpec((), tf.int64))
    dataset = tf.data.Dataset.from_generator(rows, output_signature=spec)
    return {"x": dataset.shuffle(20).batch(BATCH)}


def loader(stateful: bool = False, own: bool = False, **arguments: Any) -> dict[str, Any]:
    import torch

    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    if own:
        arguments["generator"] = torch.Generator().manual_seed(random.randrange(1000))
    if stateful:
        from torchdata.stateful_dataloader import StatefulDataLoader

        return {"x": StatefulDataLoader(data, batch_size=BATCH, shuffle=True, **arguments)}
    return {"x": torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True, **arguments)}


class _Rows:
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]

    def __repr__(self) -> str:
        return "rows"  # by which Grain tells a state's data


def grains(repeat: bool = False, loaded: bool = False) -> dict[str, Any]:
    import grain

    if loaded:
        sampler = grain.samplers.IndexSampler(len(X), shuffle=True, seed=3, num_epochs=None)
        operations = [grain.transforms.Batch(BATCH)]
        data = grain.DataLoader(data_source=_Rows(), sampler=sampler, operations=operations)
        return {"x": data, "steps_per_epoch": 13}
    data = grain.MapDataset.source(_Rows()).shuffle(seed=3)
    if repeat:
        return {"x": data.repeat(None).batch(BATCH), "steps_per_epoch": 13}
    return {"x": data.batch(BATCH)}


JOBS = {
    "shuffled arrays": Job(arrays()),
    "shuffled arrays, a global seed": Job(arrays(), seeded=True),
    "arrays in order": Job(arrays(shuffle=False)),
    "arrays, shuffled within batches": Job(arrays(shuffle="batch")),
    "arrays, sample weights": Job(arrays(sample_weight=WEIGHTS)),
    "arrays, class weights": Job(arrays(class_weight={0: 1.0, 1: 2.0, 2: 0.5})),
    "arrays, a split": Job(arrays(validation_split=0.2), length=11),
    "arrays, a smaller last batch": Job(arrays(batch_size=5), length=11),
    # Keras ends an epoch with a pass through the data: 8 batches, 5, 8.
    "arrays, more epochs than passes": Job(arrays(steps_per_epoch=8), length=8, second=5),
    "arrays, several steps at once": Job(
        arrays(), settings={"steps_per_execution": 2, "run_eagerly": False}, length=14
    ),
    "a dictionary of arrays": Job(lambda: {"x": {"inputs": X}, "y": Y, **FIT}),
    "tf.data, shuffled": Job(pipeline(lambda d: d.shuffle(20).batch(BATCH))),
    "tf.data, batches shuffled": Job(pipeline(lambda d: d.batch(BATCH).shuffle(5).prefetch(2))),
    "tf.data, a seed": Job(pipeline(lambda d: d.shuffle(20, seed=3).batch(BATCH))),
    "tf.data, a global seed": Job(pipeline(lambda d: d.shuffle(20).batch(BATCH)), seeded=True),
    "tf.data, one order": Job(
        pipeline(lambda d: d.shuffle(52, reshuffle_each_iteration=False).batch(BATCH))
    ),
    "tf.data, repeated": Job(
        pipeline(lambda d: d.shuffle(20).repeat().batch(BATCH).prefetch(2), steps_per_epoch=13)
    ),
    "tf.data, repeated, replayed": Job(
        pipeline(lambda d: d.shuffle(20).repeat().batch(BATCH).prefetch(2), steps_per_epoch=13),
        checkpoints={"data_state_limit": 0},
    ),
    "tf.data, replayed": Job(
        pipeline(lambda d: d.shuffle(20).batch(BATCH)), checkpoints={"data_state_limit": 0}
    ),
    "tf.data, mapped in parallel": Job(pipeline(_mapped)),
    "tf.data, mixed": Job(pipeline(_mixed, steps_per_epoch=13)),
    "tf.data, cached": Job(pipeline(lambda d: d.cache().shuffle(20).batch(BATCH))),
    "tf.data, of unknown length": Job(
        pipeline(lambda d: d.filter(lambda x, y: y >= 0).shuffle(20).batch(BATCH))
    ),
    "tf.data, class weights": Job(
        pipeline(lambda d: d.shuffle(20).batch(BATCH), class_weight={0: 1.0, 1: 2.0, 2: 0.5})
    ),
    "tf.data, from a generator, replayed": Job(_from_generator, replay=True),
    "a PyDataset": Job(lambda: {"x": Batches()}),
    "a PyDataset, in order": Job(lambda: {"x": Batches(), "shuffle": False}),
    "a PyDataset, threads": Job(lambda: {"x": Batches(workers=2)}),
    "a PyDataset that shuffles itself": Job(lambda: {"x": Shuffled()}),
    "a PyDataset that draws": Job(lambda: {"x": Noisy()}),
    "a PyDataset with a state": Job(lambda: {"x": WithState()}),
    "a PyDataset, steps per epoch": Job(
        lambda: {"x": Batches(), "steps_per_epoch": 8}, length=8, second=5
    ),
    "a generator, replayed": Job(lambda: {"x": generated(), "steps_per_epoch": 13}, replay=True),
    "a DataLoader": Job(loader),
    "a DataLoader, its own generator": Job(lambda: loader(own=True)),
    "a DataLoader, workers": Job(lambda: loader(num_workers=1)),
    "a StatefulDataLoader": Job(lambda: loader(stateful=True)),
    "Grain": Job(grains),
    "Grain, repeated": Job(lambda: grains(repeat=True)),
    "Grain, a DataLoader": Job(lambda: grains(loaded=True)),
}
RARELY = 1_000_000


class Saves(keras.callbacks.Callback):
    """Has an `MlflowCheckpoint` save after given batches of given epochs only."""

    def __init__(self, checkpoints: mlflow_ckpt.MlflowCheckpoint, at: set[tuple[int, int]]) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.at = at
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        state = self.checkpoints.get_state()
        due = (self.epoch, batch + 1) in self.at
        self.checkpoints.set_state({**state, "batches_since_save": RARELY if due else 0})

    def get_state(self) -> None:
        return None

    def set_state(self, state: None) -> None:
        pass


def build(**settings: Any) -> keras.Model:
    """Return a small compiled model."""
    layers = keras.layers
    inputs = keras.Input((6,), name="inputs")
    hidden = layers.Dropout(0.2)(layers.Dense(5, activation="tanh")(inputs))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(hidden))
    model.compile(
        **{
            "optimizer": keras.optimizers.Adam(0.01),
            "loss": "sparse_categorical_crossentropy",
            "metrics": ["accuracy"],
            "weighted_metrics": [],
            # Tracing a graph takes longer than these few steps.
            "run_eagerly": True,
            **settings,
        }
    )
    return model


def train(
    name: str,
    epochs: int,
    resume_from: str | None = None,
    checkpoint: str = "latest",
    others: Sequence[keras.callbacks.Callback] = (),
) -> Done:
    """Run a job from the beginning or from a checkpoint.

    Args:
        name: The job.
        epochs: Total number of epochs.
        resume_from: The run to resume; None for a new training.
        checkpoint: Selector of the checkpoint to resume from.
        others: More callbacks.
    """
    job = JOBS[name]
    keras.utils.clear_session()
    if job.seeded:
        keras.utils.set_random_seed(3)
    else:
        random.seed()
        np.random.seed()
    with warnings.catch_warnings(record=True) as caught, mlflow.start_run() as run:
        warnings.simplefilter("always")
        checkpoints = mlflow_ckpt.MlflowCheckpoint("loss", save_freq=RARELY, **job.checkpoints)
        # Inside the second epoch, at its end, and at the end of the third one.
        last = job.length
        saves = Saves(checkpoints, {(1, 4), (1, job.second or last), (2, last)})
        if resume_from is None:
            model, initial, callbacks = build(**job.settings), 0, [checkpoints, saves, *others]
            data = job.data()
        else:
            data = job.data()
            point = mlflow_ckpt.resume(
                resume_from, checkpoint, callbacks=[checkpoints, saves], replay_data=job.replay
            )
            model, initial, callbacks = point.model, point.initial_epoch, point.callbacks
        arguments = {"validation_data": (X, Y), **data, "epochs": epochs}
        if "validation_split" in arguments:
            del arguments["validation_data"]
        model.fit(**arguments, initial_epoch=initial, verbose=0, callbacks=callbacks)
    warned = [
        str(warning.message) for warning in caught if "resumed training" in str(warning.message)
    ]
    return Done(run.info.run_id, str(mlflow_ckpt.fingerprint(model).weights_digest), warned)


def train_and_wait(talk: Any, name: str, epochs: int) -> None:
    """Run a job in a `Child` until its first checkpoint, and wait to be killed."""

    class Wait(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)) == 18:
                run = mlflow.active_run()
                assert run is not None
                talk("run", run.info.run_id)
                time.sleep(2 * PATIENCE_SECONDS)  # longer than any test waits for it

    train(name, epochs, others=[Wait()])


def train_in_child(talk: Any, trainings: list[list[Any]]) -> None:
    """Run trainings in a `Child`."""
    talk("trained", [train(*arguments) for arguments in trainings])


if __name__ == "__main__":
    _done = [vars(train(*arguments)) for arguments in json.load(sys.stdin)]
    sys.stdout.write(json.dumps(_done) + "\n")
