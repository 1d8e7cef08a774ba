"""An exception leaves `fit`, its caller catches it, and the same process goes on training."""

from __future__ import annotations

import threading
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from mlflow_ckpt import EpochDataset, MlflowCheckpoint
from tests.support.training import BATCH, BATCHES, X, Y, fit, names, new_run, small_model
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = [
    pytest.mark.usefixtures("local_store"),
    # From the end of an epoch's batches, a resumed training says what it skips.
    pytest.mark.filterwarnings("ignore:A resumed training cannot be the same"),
]
EPOCHS = 2


class BoomError(Exception):
    """What a user's callback raises."""


class Raising(keras.callbacks.Callback):
    """Raises at the first event of one kind after a number of steps."""

    def __init__(self, event: str, steps: int) -> None:
        super().__init__()
        self._steps = steps
        setattr(self, event, self._act)

    def _act(self, *_: Any, **logs: Any) -> None:
        if int(self.model.optimizer.iterations.numpy()) == self._steps:
            raise BoomError


@keras.saving.register_keras_serializable("tests.resuming_in_one_process")
class Counting(keras.layers.Layer):
    """Counts its calls in training, as a variable of the model."""

    def build(self, shape: Any) -> None:
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if training:
            self.count.assign_add(1)
        return inputs


def counting_model(**settings: Any) -> keras.Model:
    keras.utils.set_random_seed(11)
    model = keras.Sequential([keras.Input((4,)), Counting(), keras.layers.Dense(1)])
    model.compile("adam", "mse", **{"run_eagerly": True, **settings})
    return model


def data() -> EpochDataset:
    return EpochDataset(X, Y, batch_size=BATCH, seed=3)


def train(model: keras.Model, *callbacks: keras.callbacks.Callback, **settings: Any) -> None:
    model.fit(
        data(),
        **{
            "epochs": EPOCHS,
            "verbose": 0,
            "validation_data": (X, Y),
            "callbacks": list(callbacks),
            **settings,
        },
    )


def state_of(model: keras.Model) -> list[np.ndarray[Any, Any]]:
    return [np.array(v.numpy()) for v in [*model.weights, *model.optimizer.variables]]


def break_off(
    run_id: str, *callbacks: keras.callbacks.Callback, **settings: Any
) -> tuple[MlflowCheckpoint, keras.Model]:
    """Train until a callback raises, without a context manager; return ours and the model."""
    model, ours = small_model(), MlflowCheckpoint("loss", run_id=run_id)
    with pytest.raises(BoomError):
        fit(model, ours, *callbacks, **settings)
    return ours, model


def interrupted(run_id: str) -> str | None:
    return MlflowClient().get_run(run_id).data.tags.get("mlflow_ckpt.interrupted")


# An event, the steps done by then, and the steps that the checkpoint resumes from.
EVENTS = [
    ("on_epoch_begin", BATCHES, BATCHES),
    ("on_train_batch_begin", BATCHES + 1, BATCHES + 1),
    ("on_train_batch_end", BATCHES + 2, BATCHES + 2),
    ("on_test_begin", 2 * BATCHES, 2 * BATCHES),
    ("on_test_batch_end", 2 * BATCHES, 2 * BATCHES),
    ("on_epoch_end", 2 * BATCHES, 2 * BATCHES),
]


IN_VALIDATION = ("on_test_begin", "on_test_batch_end")
# Tracing a graph takes a second.
IN_GRAPHS = [EVENTS[2]]


@pytest.mark.parametrize(
    ("eagerly", "events"), [(True, EVENTS), (False, IN_GRAPHS)], ids=["eager", "graph"]
)
def test_position_and_state_belong_together_whatever_raises(
    eagerly: bool, events: list[tuple[str, int, int]]
) -> None:
    whole = counting_model(run_eagerly=eagerly)
    train(whole, MlflowCheckpoint("loss", run_id=new_run()))
    for event, steps, saved in events:
        run_id = new_run()
        with pytest.raises(BoomError):
            model = counting_model(run_eagerly=eagerly)
            train(model, MlflowCheckpoint("loss", run_id=run_id), Raising(event, steps))
        keras.utils.set_random_seed(99)
        point = mlflow_ckpt.resume(run_id, in_place=True)
        assert point.checkpoint.manifest.step == saved, event
        position = divmod(saved, BATCHES)
        if event in IN_VALIDATION:
            position = (position[0] - 1, BATCHES)  # the rest of the epoch is still to come
        assert (point.initial_epoch, point.initial_batch) == position, event
        if point.initial_epoch < EPOCHS:
            train(point.model, *point.callbacks, initial_epoch=point.initial_epoch)
        for ours, expected in zip(state_of(point.model), state_of(whole), strict=True):
            assert np.array_equal(ours, expected), event


def test_a_training_that_fails_before_its_first_epoch_saves_nothing() -> None:
    first, second = new_run(), new_run()
    fit(small_model(), MlflowCheckpoint("loss", run_id=first))
    point = mlflow_ckpt.resume(first)

    class Refusing(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            raise BoomError

    with pytest.raises(BoomError), MlflowCheckpoint("loss", run_id=second) as ours:
        fit(point.model, ours, Refusing(), epochs=4, initial_epoch=2)
    assert names(second) == []


def test_resuming_at_once_finds_what_is_still_being_written() -> None:
    run_id = new_run()
    with pytest.raises(BoomError):
        fit(
            small_model(),
            MlflowCheckpoint("loss", run_id=run_id, save_freq=1),
            Raising("on_train_batch_end", 2),
        )
    point = mlflow_ckpt.resume(run_id)
    # Step 2 was done when the callback raised, before it was saved.
    assert point.checkpoint.name == "step_00000002"
    assert names(run_id) == ["step_00000001", "step_00000002"]


def test_an_abandoned_training_never_writes_again() -> None:
    run_id = new_run()
    ours, abandoned = break_off(run_id, Raising("on_train_batch_end", BATCHES + 1), epochs=3)
    point = mlflow_ckpt.resume(run_id, in_place=True)
    assert str(interrupted(run_id)).endswith(f"at step {BATCHES + 1}")
    fit(point.model, *point.callbacks, epochs=3, initial_epoch=point.initial_epoch)
    expected = ["epoch_0001", f"step_{BATCHES + 1:08d}", "epoch_0002", "epoch_0003"]
    assert names(run_id) == expected
    assert interrupted(run_id) is None
    # Its model may be trained further; that is another training.
    fit(abandoned)
    ours.participant.training._at_exit()  # what the end of the process does
    assert names(run_id) == expected
    assert interrupted(run_id) is None
    assert mlflow_ckpt.get_checkpoint(run_id).name == "epoch_0003"


def test_a_run_of_its_own_ends_and_the_resumed_training_is_its_child() -> None:
    ours = MlflowCheckpoint("loss")
    with pytest.raises(BoomError):
        fit(small_model(), ours, Raising("on_epoch_end", 2 * BATCHES))
    active = mlflow.active_run()
    assert active is not None
    point = mlflow_ckpt.resume(active.info.run_id)
    assert mlflow.active_run() is None
    assert MlflowClient().get_run(active.info.run_id).info.status == "FAILED"
    fit(point.model, *point.callbacks, epochs=3, initial_epoch=point.initial_epoch)
    child = mlflow.last_active_run()
    assert child is not None
    assert child.data.tags["mlflow.parentRunId"] == active.info.run_id


def test_a_new_callback_goes_on_with_the_same_model() -> None:
    run_id = new_run()
    _, model = break_off(run_id, Raising("on_train_batch_end", BATCHES + 1), epochs=2)
    fit(model, MlflowCheckpoint("loss", run_id=run_id), epochs=2, initial_epoch=1)
    assert names(run_id) == ["epoch_0001", "epoch_0002"]
    assert interrupted(run_id) is None


def test_a_training_that_still_runs_in_another_thread_is_left_alone() -> None:
    run_id = new_run()
    saved, go_on = threading.Event(), threading.Event()

    class Waiting(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                saved.set()
                assert go_on.wait(PATIENCE_SECONDS)

    def work() -> None:
        fit(small_model(), MlflowCheckpoint("loss", run_id=run_id), Waiting(), epochs=2)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert saved.wait(PATIENCE_SECONDS)
    point = mlflow_ckpt.resume(run_id, callbacks=[MlflowCheckpoint("loss", run_id=new_run())])
    assert point.checkpoint.name == "epoch_0001"
    go_on.set()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert names(run_id) == ["epoch_0001", "epoch_0002"]
