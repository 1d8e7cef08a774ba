"""What a kind of training is, how it is stopped, and what is expected of its resumption."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

import mlflow_ckpt

TENSORFLOW, JAX, TORCH = "tensorflow", "jax", "torch"
EVERYWHERE = (TENSORFLOW, JAX, TORCH)
# Outcomes, and what an outcome may be expected to be.
EXACT, NAMED, REFUSED, SILENT, CRASH = "EXACT", "NAMED", "REFUSED", "SILENT", "CRASH"
EPOCHS = 3
BATCH = 4

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(12, 6)).astype("float32")
Y = (X[:, :1] - 2 * X[:, 1:2] + 0.5).astype("float32")

Callbacks = list[keras.callbacks.Callback]


@dataclass(frozen=True)
class Expected:
    """What must come of a resumption.

    Attributes:
        outcome: `EXACT`, `NAMED` or `REFUSED`.
        text: A regular expression that a message matches. For `EXACT`, of messages that
            may be shown, such as that the file cannot be loaded without one's own model.
        at_save: Whether a message that matches must come in the first training already.
    """

    outcome: str = EXACT
    text: str = ""
    at_save: bool = False


def named(text: str, *, at_save: bool = False) -> Expected:
    """A training that may differ, and says so."""
    return Expected(NAMED, text, at_save)


def refused(text: str, *, at_save: bool = True) -> Expected:
    """A training that cannot be resumed, and says so: at the first save, unless told otherwise."""
    return Expected(REFUSED, text, at_save)


class Stopped(Exception):  # noqa: N818 - no error
    """Ends a training."""


@dataclass(frozen=True)
class Ends:
    """The training ends by itself after some epochs, and is resumed to last longer."""

    epochs: int = 1

    def callbacks(self) -> Callbacks:
        return []


@dataclass(frozen=True)
class Raises:
    """Another callback raises an exception in one of its hooks.

    Attributes:
        hook: Name of the hook.
        epoch: The epoch, counted from 0.
        batch: For hooks of batches, the batch.
    """

    hook: str = "on_train_batch_begin"
    epoch: int = 1
    batch: int = 1
    epochs: int = EPOCHS

    def callbacks(self) -> Callbacks:
        return [_at(self, _raise)]


@dataclass(frozen=True)
class Terminated(Raises):
    """The process gets a SIGTERM, which ends the training between two batches."""

    hook: str = "on_train_batch_end"

    def callbacks(self) -> Callbacks:
        return [_at(self, lambda: os.kill(os.getpid(), signal.SIGTERM))]


@dataclass(frozen=True)
class Killed:
    """Nothing follows the checkpoint that the selector names, as after SIGKILL."""

    epochs: int = EPOCHS

    def callbacks(self) -> Callbacks:
        return []


def _raise() -> None:
    raise Stopped


def _at(stop: Raises, act: Callable[[], None]) -> keras.callbacks.Callback:
    """Return a callback that acts in a hook of a certain epoch and batch, and has no state."""

    class At(keras.callbacks.Callback):
        epoch = 0

        def get_state(self) -> None:
            """Have no state that a resumed training would miss."""

        def set_state(self, state: None) -> None: ...

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            At.epoch = epoch

    method = getattr(At, stop.hook)

    def hooked(self: Any, *arguments: Any, **keywords: Any) -> None:
        method(self, *arguments, **keywords)
        of_batch = "batch" in stop.hook
        if At.epoch == stop.epoch and (not of_batch or arguments[0] == stop.batch):
            act()

    setattr(At, stop.hook, hooked)
    return At()


def sorted_data() -> dict[str, Any]:
    """Arrays in their own order, which is the same in every epoch."""
    return {"x": X, "y": Y, "batch_size": BATCH, "shuffle": False}


def epoch_data() -> dict[str, Any]:
    """The package's own data set, which goes on inside an epoch too."""
    return {"x": mlflow_ckpt.EpochDataset(X, Y, batch_size=BATCH, seed=7)}


def resumes(run_id: str, kind: Kind, callbacks: Callbacks) -> Any:
    """Build the model from the file."""
    return mlflow_ckpt.resume(
        run_id, kind.checkpoint, callbacks=callbacks, custom_objects=kind.custom_objects
    )


def restores(run_id: str, kind: Kind, callbacks: Callbacks) -> Any:
    """Build the model anew, and fill it."""
    return mlflow_ckpt.restore(kind.build(), run_id, kind.checkpoint, callbacks=callbacks)


@dataclass(frozen=True)
class Kind:
    """A kind of training.

    Attributes:
        build: Returns the compiled model.
        data: Returns what is passed to `fit`: data and arguments.
        callbacks: Returns the callbacks other than `MlflowCheckpoint`.
        expected: What must come of it.
        checkpoints: Arguments of `MlflowCheckpoint`.
        stop: How the training is stopped.
        checkpoint: Selector of the checkpoint to go on from.
        go_on: Returns the point to go on from, given run, kind and callbacks.
        custom_objects: Passed to `resume`.
        before: Called with the new model before its first `fit`.
        after: Returns further state at the end of a training, given the model and its callbacks.
        saves_whole: Whether `MlflowCheckpoint` takes part in the whole training too: with it,
            TensorFlow shuffles in another order, which it can repeat.
        later: Arguments of `fit` that differ when the training goes on.
        backends: The backends that have the feature.
        whole_epochs: Number of epochs of the whole training; None for as few as show a difference.
        expected_on: What must come of it on a backend where that differs.
    """

    build: Callable[[], keras.Model]
    data: Callable[[], dict[str, Any]] = sorted_data
    callbacks: Callable[[], Callbacks] = list
    expected: Expected = Expected()
    checkpoints: Mapping[str, Any] = field(default_factory=dict)
    stop: Ends | Raises | Killed = Ends()
    checkpoint: str | int = "latest"
    go_on: Callable[[str, Kind, Callbacks], Any] = resumes
    custom_objects: Mapping[str, Any] | None = None
    before: Callable[[keras.Model], None] = lambda _: None
    after: Callable[[keras.Model, Callbacks], dict[str, Any]] = lambda *_: {}
    saves_whole: bool = False
    later: Mapping[str, Any] = field(default_factory=dict)
    backends: tuple[str, ...] = EVERYWHERE
    whole_epochs: int | None = None
    expected_on: Mapping[str, Expected] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Number of epochs of the whole training."""
        if self.whole_epochs is not None:
            return self.whole_epochs
        return self.stop.epochs + 1 if isinstance(self.stop, Ends) else EPOCHS

    def outcome_on(self, backend: str) -> Expected:
        """Return what must come of it on a backend."""
        return self.expected_on.get(backend, self.expected)
