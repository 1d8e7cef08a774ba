"""Trainings with all state that resuming must restore, each in its own process.

Run as a program, for other backends, it reads the arguments of several trainings from standard
input as a JSON list of lists, runs them one after another, and prints the results.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import mlflow
import numpy as np

import mlflow_ckpt
from tests.support.waiting import PATIENCE_SECONDS

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(104, 8, 8, 1)).astype("float32")
Y = _RNG.integers(0, 3, size=104)
# 13 batches per epoch.
BATCH = 8


@dataclass(frozen=True)
class Job:
    """A training.

    Attributes:
        build: Returns the compiled model.
        callbacks: Returns the callbacks other than `MlflowCheckpoint`.
        data: Returns the data for `fit`.
        checkpoints: Arguments of `MlflowCheckpoint`.
        fit: Arguments of `fit`.
    """

    build: Callable[[], keras.Model]
    callbacks: Callable[[], list[keras.callbacks.Callback]] = list
    data: Callable[[], dict[str, Any]] = lambda: {
        "x": mlflow_ckpt.EpochDataset(X, Y, batch_size=BATCH, seed=7)
    }
    checkpoints: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)


def deterministic(seed: int) -> None:
    """Seed everything, and make TensorFlow deterministic regardless of the machine's load."""
    keras.utils.set_random_seed(seed)
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def small(*inside: Callable[[], keras.layers.Layer], **settings: Any) -> keras.Model:
    """Return a small convolutional network that contains other layers."""
    deterministic(5)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *(make() for make in inside),
            layers.Conv2D(3, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(3, activation="softmax", dtype="float32"),
        ]
    )
    model.compile(
        **{
            "optimizer": keras.optimizers.Adam(0.01),
            "loss": "sparse_categorical_crossentropy",
            "metrics": ["accuracy"],
            "jit_compile": False,
            **settings,
        }
    )
    return model


def noisy(**settings: Any) -> keras.Model:
    layers = keras.layers
    return small(
        lambda: layers.RandomFlip("horizontal"),
        lambda: layers.GaussianNoise(0.1),
        layers.BatchNormalization,
        lambda: layers.Dropout(0.2),
        **settings,
    )


def digits() -> keras.Model:
    from projects.cifar10.model import build_model

    deterministic(5)
    return build_model((32, 32, 3), 10, 0.001)


def digits_data() -> dict[str, Any]:
    from projects.cifar10.data import load_digits_32

    data = load_digits_32("asked for")
    x, y = data.x_train[:160], data.y_train[:160]
    return {"x": mlflow_ckpt.EpochDataset(x, y, batch_size=32, seed=1)}


def mixed() -> keras.Model:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return noisy(optimizer=keras.optimizers.Adam(0.01))
    finally:
        keras.config.set_dtype_policy("float32")


def firing() -> list[keras.callbacks.Callback]:
    """Return callbacks that act in the third epoch, and one that ends training in the fourth."""
    return [
        # No epoch improves by this much.
        keras.callbacks.EarlyStopping(
            "val_loss", patience=3, min_delta=100.0, restore_best_weights=True
        ),
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=2, min_delta=100.0, factor=0.5),
    ]


class Drawing(keras.callbacks.Callback):
    """Draws from the global generators, and has `get_state` and `set_state`."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.drawn += random.random() + float(np.random.random())
        self.drawn += float(keras.ops.convert_to_numpy(keras.random.uniform(())))
        self.model.optimizer.learning_rate = 0.001 * (1 + self.drawn)

    def get_state(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def set_state(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]


def pipeline() -> dict[str, Any]:
    import tensorflow as tf

    def batches(epoch: int) -> Any:
        dataset = tf.data.Dataset.from_tensor_slices((X, Y))
        return dataset.shuffle(len(X), seed=epoch).batch(BATCH).prefetch(1)

    return {"x": mlflow_ckpt.EpochDataset.from_function(batches)}


def arrays() -> dict[str, Any]:
    return {"x": X, "y": Y, "batch_size": BATCH}


def scheduled() -> keras.Model:
    schedule = keras.optimizers.schedules.CosineDecay(0.02, 60, warmup_steps=10, warmup_target=0.1)
    return noisy(optimizer=keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True))


JOBS = {
    "the CNN on digits": Job(digits, data=digits_data),
    "noise and augmentation": Job(noisy),
    "callbacks that fire": Job(noisy, callbacks=firing),
    "a learning rate schedule": Job(scheduled),
    "mixed precision": Job(mixed),
    "an exponential moving average": Job(
        lambda: noisy(optimizer=keras.optimizers.Adam(0.01, use_ema=True)),
        callbacks=lambda: [keras.callbacks.SwapEMAWeights()],
    ),
    "a moving average that is swapped": Job(
        lambda: noisy(optimizer=keras.optimizers.Adam(0.01, use_ema=True)),
        callbacks=lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
    ),
    "gradient accumulation": Job(
        lambda: noisy(optimizer=keras.optimizers.Adam(0.01, gradient_accumulation_steps=3))
    ),
    "several steps at once": Job(lambda: noisy(steps_per_execution=4)),
    "draws from global generators": Job(noisy, callbacks=lambda: [Drawing()]),
    "a tf.data pipeline": Job(noisy, data=pipeline),
    "shuffled arrays": Job(noisy, data=arrays),
    "saved inside epochs": Job(
        noisy, callbacks=firing, checkpoints={"save_freq": 5, "monitor": "loss"}
    ),
    "saved inside epochs, several steps at once": Job(
        lambda: noisy(steps_per_execution=2), checkpoints={"save_freq": 4, "monitor": "loss"}
    ),
}


@dataclass(frozen=True)
class Done:
    """The result of a training.

    Attributes:
        run_id: Its run.
        weights: Digest of the model's final weights.
        warned: Its warnings.
    """

    run_id: str
    weights: str
    warned: list[str]


class Waiting(keras.callbacks.Callback):
    """Slows each step down, and waits in the last epoch to be killed."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        time.sleep(self._seconds)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch + 1 == self.params["epochs"]:
            time.sleep(2 * PATIENCE_SECONDS)  # longer than any test waits for it


class Preemption(keras.callbacks.Callback):
    """Sends this process a SIGTERM after the eighth step."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)) == 8:
            os.kill(os.getpid(), signal.SIGTERM)


def train(
    name: str,
    epochs: int,
    resume_from: str | None = None,
    checkpoint: str = "latest",
    *,
    in_place: bool = False,
    slow: float = 0.0,
    preempted: bool = False,
) -> Done:
    """Run a job from the beginning or from a checkpoint.

    Args:
        name: The job.
        epochs: Total number of epochs.
        resume_from: The run to resume; None for a new training.
        checkpoint: Selector of the checkpoint to resume from.
        in_place: Whether to resume in the same run.
        slow: Minimum duration of each step in seconds; the caller kills such a training.
        preempted: Whether the process gets a SIGTERM after the eighth step.
    """
    job = JOBS[name]

    waiting = []
    if slow:
        waiting.append(Waiting(slow))
    if preempted:
        waiting.append(Preemption())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        keras.utils.clear_session()  # name layers as in a new process
        # A resumed training must take its random state from the checkpoint only.
        deterministic(99)
        if resume_from is None:
            model, initial, others = job.build(), 0, job.callbacks()
            # First in the list: the effects of the others in an epoch must be saved nevertheless.
            callbacks = [mlflow_ckpt.MlflowCheckpoint(**job.checkpoints), *others, *waiting]
        else:
            own_callbacks = [*job.callbacks(), *waiting]
            point = mlflow_ckpt.resume(
                resume_from, checkpoint, callbacks=own_callbacks, in_place=in_place
            )
            model, initial, callbacks = point.model, point.initial_epoch, point.callbacks
        model.fit(
            **job.data(),
            validation_data=(X, Y) if "digits" not in name else None,
            epochs=epochs,
            initial_epoch=initial,
            verbose=0,
            callbacks=callbacks,
            **job.fit,
        )
    ours = [
        warning
        for warning in caught
        if "mlflow_ckpt" in warning.filename or "resum" in str(warning)
    ]
    run = mlflow.last_active_run()
    assert run is not None
    return Done(
        run.info.run_id,
        str(mlflow_ckpt.fingerprint(model).weights_digest),
        [str(warning.message) for warning in ours if issubclass(warning.category, UserWarning)],
    )


def train_in_child(talk: Any, *arguments: Any, **keywords: Any) -> None:
    """Run `train` in a `Child`, which first sends the run's id."""
    with mlflow.start_run(run_id=keywords.pop("run_id", None)) as run:
        talk("run", run.info.run_id)
        talk("trained", train(*arguments, **keywords))


if __name__ == "__main__":
    _done = [vars(train(*arguments)) for arguments in json.load(sys.stdin)]
    sys.stdout.write(json.dumps(_done) + "\n")
