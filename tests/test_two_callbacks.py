"""Two MlflowCheckpoint callbacks in one training: one run, no checkpoint and no metric twice."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt import BestN, LatestN, MlflowCheckpoint
from mlflow_ckpt.errors import InvalidArgumentError
from tests.support.training import (
    BATCHES,
    Metrics,
    Stop,
    StopError,
    X,
    Y,
    fit,
    names,
    new_run,
    small_model,
)

pytestmark = pytest.mark.usefixtures("local_store")
Settings = dict[str, Any]


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Two callbacks that get along have nothing to warn of, at the line that calls `fit`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning, module=r"tests\.")
        yield


def train(*callbacks: keras.callbacks.Callback, **settings: Any) -> str:
    """Train without validation in a new run, and return its id."""
    with mlflow.start_run() as run:
        fit(small_model(), *callbacks, **{"validation_data": None, **settings})
    return str(run.info.run_id)


def forms(run_id: str) -> dict[str, tuple[str, ...]]:
    return {c.name: c.manifest.forms for c in mlflow_ckpt.list_checkpoints(run_id)}


def points(run_id: str, metric: str = "loss") -> list[int]:
    return [point.step for point in MlflowClient().get_metric_history(run_id, metric)]


def best(run_id: str) -> str:
    return mlflow_ckpt.get_checkpoint(run_id, "best").name


def require_verified(run_id: str) -> None:
    assert all(mlflow_ckpt.verify(run_id, name.replace("_", ":", 1)).ok for name in names(run_id))


BOTH = {"epoch_0001": ("full", "split"), "epoch_0002": ("full", "split")}


def test_two_forms_of_one_state_are_one_checkpoint(store: Store) -> None:
    with mlflow.start_run() as run:
        fit(
            small_model(),
            MlflowCheckpoint("loss", forms="full", metadata={"a": 1}),
            MlflowCheckpoint("loss", forms="split", metadata={"b": 2}),
        )
    run_id = run.info.run_id
    assert forms(run_id) == BOTH
    assert points(run_id) == [1, 2]
    assert mlflow_ckpt.get_checkpoint(run_id).manifest.metadata == {"a": 1, "b": 2}
    full, split = (mlflow_ckpt.load_model(run_id, form=form) for form in ("full", "split"))
    assert mlflow_ckpt.fingerprint(full).weights_digest == (
        mlflow_ckpt.fingerprint(split).weights_digest
    )
    require_verified(run_id)


def test_the_best_by_a_metric_and_every_few_steps() -> None:
    run_id = train(
        Metrics("score", [1.0, 2.0, 1.5]),
        MlflowCheckpoint("score", mode="max", save_best_only=True),
        MlflowCheckpoint("loss", save_freq=2),
        epochs=3,
    )
    assert set(names(run_id)) == {
        "epoch_0001", "epoch_0002", "step_00000002", "step_00000004", "step_00000006",
        "step_00000008",
    }  # fmt: skip
    assert points(run_id) == points(run_id, "score") == [1, 2, 3]
    assert best(run_id) == "epoch_0002"
    assert mlflow.get_run(run_id).data.tags["mlflow_ckpt.best"] == "epoch_0002"


def test_each_form_is_saved_when_its_callback_asks_for_it() -> None:
    run_id = train(
        Metrics("score", [2.0, 1.0, 3.0]),
        MlflowCheckpoint("loss", forms="split"),
        MlflowCheckpoint("score", mode="max", save_best_only=True),
        epochs=3,
    )
    assert forms(run_id) == BOTH | {"epoch_0002": ("split",), "epoch_0003": ("full", "split")}
    assert best(run_id) == "epoch_0003", "by the metric of the one that saves the best only"


def test_each_keeps_the_checkpoints_of_its_own() -> None:
    run_id = train(
        Metrics("score", [4.0, 3.0, 2.0, 1.0]),
        MlflowCheckpoint("score", mode="max", retention=BestN(1), test_load=False),
        MlflowCheckpoint("loss", save_freq=2, max_to_keep=2, test_load=False),
        epochs=4,
    )
    assert set(names(run_id)) == {"epoch_0001", "step_00000010", "step_00000012"}


def test_one_that_keeps_all_loses_nothing_to_one_that_keeps_few() -> None:
    run_id = train(
        MlflowCheckpoint("loss", max_to_keep=1, test_load=False),
        MlflowCheckpoint("loss", forms="split", test_load=False),
        epochs=3,
    )
    assert names(run_id) == ["epoch_0001", "epoch_0002", "epoch_0003"]


def test_the_run_that_was_started_is_ended_once_all_is_saved() -> None:
    fit(small_model(), MlflowCheckpoint(), MlflowCheckpoint("loss", save_freq=2))
    assert mlflow.active_run() is None
    (run,) = mlflow.search_runs(output_format="list", max_results=1)
    assert run.info.status == "FINISHED"
    assert len(names(run.info.run_id)) == 2 + 3
    assert points(run.info.run_id) == [1, 2]


def test_both_checkpoints_of_one_moment_hold_the_whole_state(local_store: Store) -> None:
    model = small_model(optimizer=keras.optimizers.SGD(0.05, use_ema=True))
    with mlflow.start_run() as run:
        fit(
            *(model, keras.callbacks.SwapEMAWeights(swap_on_epoch=True)),
            *(MlflowCheckpoint("loss"), MlflowCheckpoint("loss", save_freq=BATCHES)),
            epochs=1,
            validation_data=None,
        )
    kept = []
    for name in ("epoch_0001", f"step_{BATCHES:08d}"):
        directory = local_store.checkpoint_directory(run.info.run_id, name)
        with np.load(directory / "training_state.npz") as arrays:
            kept.append({key: arrays[key].tobytes() for key in arrays})
    assert kept[0]
    assert kept[0] == kept[1]


def test_a_policy_waits_for_a_checkpoint_of_its_own() -> None:
    run_id = new_run()
    ours = [
        MlflowCheckpoint(run_id=run_id, retention=BestN(1), on_error="raise"),
        MlflowCheckpoint("loss", save_freq=2, run_id=run_id),
    ]
    with pytest.raises(KeyboardInterrupt):
        fit(small_model(), *ours, Interrupt(epoch=0))
    point = mlflow_ckpt.resume(run_id, in_place=True)
    fit(point.model, *point.callbacks, initial_epoch=point.initial_epoch)
    assert "epoch_0002" in names(run_id)


def test_callbacks_that_a_failed_fit_left_do_not_end_the_run_of_the_next() -> None:
    class Boom(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise RuntimeError("boom")

    one, other = MlflowCheckpoint("loss"), MlflowCheckpoint("loss", forms="split")
    before = runs_of_all()
    model = small_model()
    with pytest.raises(RuntimeError, match="boom"):
        fit(model, one, other, Boom(), validation_data=None)
    fit(model, other, one, validation_data=None)
    runs = [
        run for run in mlflow.search_runs(output_format="list") if run.info.run_id not in before
    ]
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]
    (finished,) = (run.info.run_id for run in runs if run.info.status == "FINISHED")
    assert forms(finished) == BOTH


class Interrupt(keras.callbacks.Callback):
    """Sends SIGINT within an epoch, the second if not told otherwise."""

    def __init__(self, epoch: int = 1) -> None:
        super().__init__()
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if int(self.model.optimizer.iterations.numpy()) == self.epoch * BATCHES + 1:
            signal.raise_signal(signal.SIGINT)


def test_a_signal_saves_the_state_once_and_whole(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    callbacks = MlflowCheckpoint(), MlflowCheckpoint(forms="split")
    with mlflow.start_run() as run, pytest.raises(KeyboardInterrupt):
        fit(small_model(), Interrupt(), *callbacks)
    run_id = run.info.run_id
    assert forms(run_id) == {"epoch_0001": ("full", "split"), "step_00000004": ("full", "split")}
    assert mlflow_ckpt.get_checkpoint(run_id).manifest.interrupted == "SIGINT"
    assert signal.getsignal(signal.SIGINT) is before
    assert capfd.readouterr().err.count("SIGINT: training stops") == 1


def test_a_signal_saves_the_state_in_each_run(capfd: pytest.CaptureFixture[str]) -> None:
    runs = [new_run() for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        fit(small_model(), Interrupt(), *(MlflowCheckpoint(run_id=run_id) for run_id in runs))
    for run_id in runs:
        assert names(run_id) == ["epoch_0001", "step_00000004"]
        assert points(run_id) == [1]
    assert capfd.readouterr().err.count("SIGINT: training stops") == 1


@pytest.mark.parametrize("outer", [0, 1])
def test_either_saves_for_both_as_a_context_manager(outer: int) -> None:
    callbacks = (
        MlflowCheckpoint(save_best_only=True, initial_value_threshold=-1.0),
        MlflowCheckpoint("loss", save_freq=BATCHES - 1, forms="split"),
    )
    with mlflow.start_run() as run, pytest.raises(StopError), callbacks[outer]:
        fit(small_model(), *callbacks, Stop())
    assert forms(run.info.run_id) == {
        "step_00000002": ("split",),
        "step_00000003": ("full", "split"),
    }


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_a_training_with_both_is_resumed_with_both(given: bool, in_place: bool) -> None:
    def callbacks() -> list[MlflowCheckpoint]:
        return [
            MlflowCheckpoint("score", mode="max", save_best_only=True),
            MlflowCheckpoint("loss", save_freq=2, forms=("full", "split"), max_to_keep=1),
        ]

    scores = Metrics("score", [2.0, 3.0, 2.5, 3.5])
    run_id = train(scores, *callbacks(), epochs=2)
    assert names(run_id) == ["epoch_0001", "epoch_0002", "step_00000006"]
    point = mlflow_ckpt.resume(run_id, callbacks=callbacks() if given else (), in_place=in_place)
    ours = [callback for callback in point.callbacks if isinstance(callback, MlflowCheckpoint)]
    assert [callback.monitor for callback in ours] == ["score", "loss"]
    fit(
        *(point.model, scores, *point.callbacks),
        epochs=4, initial_epoch=point.initial_epoch, validation_data=None,
    )  # fmt: skip
    assert ours[0].best == 3.5
    (resumed,) = mlflow.search_runs(output_format="list", max_results=1)
    resumed_id = run_id if in_place else resumed.info.run_id
    expected = {"epoch_0004", "step_00000012"}
    kept = {"epoch_0001", "epoch_0002"} if in_place else set()
    assert set(names(resumed_id)) == expected | kept
    assert points(resumed_id) == ([1, 2, 3, 4] if in_place else [3, 4])


def test_one_whole_file_cannot_have_two_formats() -> None:
    model = small_model()
    with mlflow.start_run(), pytest.raises(InvalidArgumentError, match=r"'keras'.*'h5'"):
        fit(model, MlflowCheckpoint(), MlflowCheckpoint(full_format="h5"))
    assert int(model.optimizer.iterations.numpy()) == 0
    # Names of steps and of epochs are never the same.
    run_id = train(
        MlflowCheckpoint("loss"), MlflowCheckpoint("loss", save_freq=2, full_format="h5")
    )
    formats = {c.name: c.manifest.full_format for c in mlflow_ckpt.list_checkpoints(run_id)}
    assert formats["epoch_0001"] == "keras"
    assert formats["step_00000002"] == "h5"


def runs_of_all() -> set[str]:
    return {run.info.run_id for run in mlflow.search_runs(output_format="list")}


@pytest.mark.parametrize("first", [True, False])
def test_the_same_callback_twice_is_refused_before_anything_is_created(first: bool) -> None:
    before, model, twice = runs_of_all(), small_model(), MlflowCheckpoint("loss")
    others = [MlflowCheckpoint("loss", save_freq=2)]
    callbacks = [twice, *others, twice] if first else [*others, twice, twice]
    with pytest.raises(InvalidArgumentError, match="Received: the same one 2 times"):
        fit(model, *callbacks)
    assert int(model.optimizer.iterations.numpy()) == 0
    assert runs_of_all() == before
    assert mlflow.active_run() is None
    assert set(names(train(*others, twice))) >= {"step_00000002", "epoch_0002"}


def test_a_callback_that_resume_returned_is_not_passed_to_fit_again() -> None:
    ours = MlflowCheckpoint("loss")
    run_id = train(ours, epochs=1)
    point = mlflow_ckpt.resume(run_id, callbacks=[ours], in_place=True)
    with pytest.raises(InvalidArgumentError, match="the callbacks of a ResumePoint already"):
        fit(point.model, *point.callbacks, ours, initial_epoch=1)
    assert names(run_id) == ["epoch_0001"]


def test_a_callback_goes_on_alone() -> None:
    first, second = MlflowCheckpoint("loss"), MlflowCheckpoint("loss", forms="split")
    assert forms(train(first, second)) == BOTH
    assert forms(train(second)) == dict.fromkeys(BOTH, ("split",))
    assert forms(train(second, first)) == BOTH


def test_all_three_and_retention_in_a_second_training_of_the_run() -> None:
    model = small_model()
    callbacks = [
        MlflowCheckpoint("loss", max_to_keep=1, test_load=False),
        MlflowCheckpoint("loss", forms="split", retention=LatestN(2), test_load=False),
        MlflowCheckpoint("loss", save_freq=BATCHES, max_to_keep=1, test_load=False),
    ]
    with mlflow.start_run() as run:
        for epochs in (2, 4):
            model.fit(X, Y, batch_size=8, verbose=0, callbacks=list(callbacks),
                      initial_epoch=epochs - 2, epochs=epochs)  # fmt: skip
    kept = names(run.info.run_id)
    assert set(kept) >= {"epoch_0003", "epoch_0004", "step_00000012"}
    assert len(kept) <= 4, "the best always stays"
    assert np.unique(points(run.info.run_id)).tolist() == points(run.info.run_id) == [1, 2, 3, 4]
