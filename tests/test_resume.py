"""What a resumed training takes over, its warnings, and what it refuses."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest

import mlflow_ckpt
from devtools.stores import Store, current
from mlflow_ckpt import EpochDataset, MlflowCheckpoint
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._saving.arguments import CallbackArguments
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking.spool.entries import METRICS
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import (
    CheckpointExistsError,
    CheckpointNotFoundError,
    InvalidArgumentError,
    ModelLoadError,
    WeightsMismatchError,
)
from tests.support.checkpoints import flip_byte
from tests.support.training import BATCHES, X, Y, fit, names, small_model, trained

on_disk = pytest.mark.usefixtures("local_store")
on_both = pytest.mark.usefixtures("store")


def go_on(point: mlflow_ckpt.ResumePoint, epochs: int = 3, **settings: Any) -> str:
    """Train on, and return the run's id."""
    fit(
        point.model,
        *point.callbacks,
        **{"initial_epoch": point.initial_epoch, "epochs": epochs, "shuffle": False, **settings},
    )
    run = mlflow.last_active_run()
    assert run is not None
    return str(run.info.run_id)


def dataset(**settings: Any) -> EpochDataset:
    return EpochDataset(X, Y, **{"batch_size": 8, **settings})


def fit_dataset(model: keras.Model, *callbacks: Any, **settings: Any) -> None:
    model.fit(
        dataset(),
        **{"epochs": 2, "verbose": 0, "validation_data": (X, Y), "callbacks": list(callbacks)}
        | settings,
    )


def unshuffled(**arguments: Any) -> str:
    """A training of two epochs whose data repeat themselves."""
    with mlflow.start_run() as run:
        fit(small_model(), MlflowCheckpoint(**arguments), shuffle=False)
    return str(run.info.run_id)


@pytest.fixture(scope="module")
def finished_on_disk(sqlite_store: Store) -> str:
    """The run of such a training. Read it, or resume it into new runs; never change it."""
    with current(sqlite_store):
        return unshuffled()


@pytest.fixture
def finished(finished_on_disk: str, local_store: Store) -> str:
    """The run, with its store as MLflow's current one."""
    return finished_on_disk


@on_both
def test_a_new_run_is_the_child_of_the_old_one() -> None:
    parent = unshuffled()
    point = mlflow_ckpt.resume(parent)
    assert (point.initial_epoch, point.initial_batch, point.changes) == (2, 0, ())
    child = go_on(point, 4)
    assert child != parent
    tags = mlflow.get_run(child).data.tags
    assert tags["mlflow.parentRunId"] == parent
    assert tags["mlflow_ckpt.resumed_from"] == f"{parent}/epoch_0002"
    assert mlflow.get_run(parent).data.tags["mlflow_ckpt.resumed_by"] == child
    assert names(child) == ["epoch_0003", "epoch_0004"]
    lineage = mlflow_ckpt.get_checkpoint(child).manifest.lineage
    saved = mlflow_ckpt.get_checkpoint(parent).manifest
    assert lineage == {
        "run_id": parent,
        "checkpoint": "epoch_0002",
        "weights_digest": str(saved.weights_digest),
    }
    history = mlflow.MlflowClient().get_metric_history(child, "loss")
    assert [metric.step for metric in history] == [3, 4]
    assert names(parent) == ["epoch_0001", "epoch_0002"]


@on_both
def test_in_place_goes_on_in_the_same_run() -> None:
    with pytest.raises(ZeroDivisionError), mlflow.start_run() as run, MlflowCheckpoint() as ours:
        # The epoch's metrics are logged, and then the process breaks down.
        stop = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: ours._batches.epoch == 2 and 1 / 0
        )
        fit(small_model(), ours, stop, epochs=4, shuffle=False)
    run_id = run.info.run_id
    assert mlflow.get_run(run_id).info.status == "FAILED"
    assert "mlflow_ckpt.interrupted" in mlflow.get_run(run_id).data.tags
    point = mlflow_ckpt.resume(run_id, in_place=True)
    assert go_on(point, 4) == run_id
    resumed = mlflow.get_run(run_id)
    assert resumed.info.status == "FINISHED"
    assert "mlflow_ckpt.interrupted" not in resumed.data.tags
    assert "mlflow.parentRunId" not in resumed.data.tags
    for key in ("loss", "val_loss"):
        history = mlflow.MlflowClient().get_metric_history(run_id, key)
        assert [metric.step for metric in history] == [1, 2, 3, 4]
    assert names(run_id) == [f"epoch_000{epoch}" for epoch in (1, 2, 3, 4)]


@on_disk
def test_metrics_that_were_logged_are_not_logged_again() -> None:
    run_id = unshuffled()
    # As if the process had died between the metrics of epoch 3 and its checkpoint.
    mlflow.MlflowClient().log_metric(run_id, "loss", 123.0, step=3)
    go_on(mlflow_ckpt.resume(run_id, in_place=True), 4)
    history = mlflow.MlflowClient().get_metric_history(run_id, "loss")
    assert [metric.step for metric in history] == [1, 2, 3, 4]
    others = mlflow.MlflowClient().get_metric_history(run_id, "val_loss")
    assert [metric.step for metric in others] == [1, 2, 3, 4]


# A training that is refused does not wait for what its run has still to send.
@pytest.mark.filterwarnings("ignore:NOT EVERYTHING OF RUN")
@on_disk
def test_in_place_overwrites_nothing() -> None:
    run_id = unshuffled()
    before = [c.manifest.to_json() for c in mlflow_ckpt.list_checkpoints(run_id)]
    with pytest.raises(CheckpointExistsError, match="checkpoints up to epoch 2"):
        go_on(mlflow_ckpt.resume(run_id, "epoch:1", in_place=True))
    assert [c.manifest.to_json() for c in mlflow_ckpt.list_checkpoints(run_id)] == before


# A training that is refused does not wait for what its run has still to send.
@pytest.mark.filterwarnings("ignore:NOT EVERYTHING OF RUN")
@on_disk
def test_in_place_refuses_another_active_run() -> None:
    run_id = unshuffled()
    point = mlflow_ckpt.resume(run_id, in_place=True)
    with mlflow.start_run(), pytest.raises(InvalidArgumentError, match="is active"):
        go_on(point)


def directory_of(store: Store, run_id: str, name: str) -> Path:
    return store.checkpoint_directory(run_id, name)


def damage(store: Store, run_id: str, name: str) -> Path:
    """Change one byte of a checkpoint's data, and return its directory."""
    directory = directory_of(store, run_id, name)
    file = directory / "data" / "model.keras"
    flip_byte(file, file.stat().st_size // 2)
    return directory


def test_a_damaged_checkpoint_is_passed_over_and_in_place_written_again(store: Store) -> None:
    run_id = unshuffled()
    damage(store, run_id, "epoch_0002")
    with pytest.warns(UserWarning, match="epoch_0001, the newest valid.*epoch_0002: "):
        point = mlflow_ckpt.resume(run_id, in_place=True)
    assert point.initial_epoch == 1
    go_on(point, 2)
    assert names(run_id) == ["epoch_0001", "epoch_0002"]
    assert mlflow_ckpt.verify(run_id, "epoch:2").ok


def test_in_the_active_run_a_damaged_checkpoint_is_written_again(local_store: Store) -> None:
    run_id = unshuffled()
    damage(local_store, run_id, "epoch_0002")
    with mlflow.start_run(run_id=run_id):
        with pytest.warns(UserWarning, match="epoch_0001, the newest valid"):
            point = mlflow_ckpt.resume(run_id)
        assert go_on(point, 2) == run_id
    assert mlflow_ckpt.verify(run_id, "epoch:2").ok


def test_the_active_run_of_another_server_is_another_run(local_store: Store, server: Store) -> None:
    run_id = unshuffled()
    directory = damage(local_store, run_id, "epoch_0002")
    with mlflow.start_run(run_id=run_id), pytest.warns(UserWarning, match="the newest valid"):
        mlflow.set_tracking_uri(server.uri)
        try:
            mlflow_ckpt.resume(run_id, tracking_uri=local_store.uri)
        finally:
            mlflow.set_tracking_uri(local_store.uri)
    assert directory.exists()


def test_a_damaged_manifest_is_passed_over_and_kept_for_a_new_run(store: Store) -> None:
    run_id = unshuffled()
    file = directory_of(store, run_id, "epoch_0002") / "manifest.json"
    file.write_text(file.read_text("utf-8").replace('"epoch": 2', '"epoch": 3'), "utf-8")
    (directory_of(store, run_id, "epoch_0002").parent / "manifests.json").unlink(missing_ok=True)
    with pytest.warns(UserWarning, match="was altered after it was written"):
        point = mlflow_ckpt.resume(run_id)
    assert point.checkpoint.name == "epoch_0001"
    assert file.exists()


def test_a_half_uploaded_checkpoint_is_passed_over(store: Store) -> None:
    run_id = unshuffled()
    (directory_of(store, run_id, "epoch_0002") / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="epoch_0002: its upload is incomplete"):
        point = mlflow_ckpt.resume(run_id, in_place=True)
    go_on(point, 2)
    assert names(run_id) == ["epoch_0001", "epoch_0002"]
    assert mlflow_ckpt.verify(run_id, "epoch:2").ok


def test_no_valid_checkpoint_at_all(local_store: Store) -> None:
    run_id = unshuffled()
    for name in ("epoch_0001", "epoch_0002"):
        (directory_of(local_store, run_id, name) / "architecture.json").unlink()
    with pytest.raises(CheckpointNotFoundError, match="no valid checkpoint to resume from"):
        mlflow_ckpt.resume(run_id)
    with mlflow.start_run() as empty, pytest.raises(CheckpointNotFoundError, match="no valid"):
        mlflow_ckpt.resume(empty.info.run_id)


class Counting(keras.callbacks.Callback):
    """Keeps a state that it has no method to return."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs += 1


class Offering(Counting):
    def get_state(self) -> int:
        return self.epochs

    def set_state(self, state: int) -> None:
        self.epochs = state


class Registered(Counting):
    pass


class Unpackable(Counting):
    def get_state(self) -> Any:
        return {"handle": object()}

    def set_state(self, state: Any) -> None:
        raise AssertionError


@on_disk
def test_callbacks_get_their_states_back() -> None:
    mlflow_ckpt.register_callback_state(
        Registered,
        lambda callback: callback.epochs,
        lambda callback, n: setattr(callback, "epochs", n),
    )
    with mlflow.start_run() as run:
        early = keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)
        fit(small_model(), MlflowCheckpoint(), Offering(), Registered(), early, shuffle=False)
    again: list[Any] = [
        Offering(),
        Registered(),
        keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True),
    ]
    point = mlflow_ckpt.resume(run.info.run_id, callbacks=again)
    go_on(point, 3)
    assert [callback.epochs for callback in again[:2]] == [3, 3]
    assert again[2].best_epoch == 2


@on_disk
def test_model_checkpoint_knows_its_best_value(tmp_path: Path) -> None:
    def make() -> keras.callbacks.Callback:
        return keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", monitor="loss", save_best_only=True
        )

    with mlflow.start_run() as run:
        fit(small_model(), MlflowCheckpoint("loss"), make(), shuffle=False)
    (tmp_path / "best.keras").unlink()
    again = make()
    point = mlflow_ckpt.resume(run.info.run_id, callbacks=[again])
    worse = np.full_like(Y, 1000.0)
    with pytest.warns(UserWarning, match="data.digest was"):
        point.model.fit(
            X,
            worse,
            initial_epoch=2,
            epochs=3,
            verbose=0,
            callbacks=point.callbacks,
            shuffle=False,
        )
    assert again.best < 100
    assert not (tmp_path / "best.keras").exists()


@on_disk
def test_what_waits_in_the_spool_is_sent_first() -> None:
    run_id = unshuffled()
    spool = Spool.default()
    spool.put(
        run_id,
        kind=METRICS,
        tracking_uri=RunStore(run_id).tracking_uri,
        metrics={"loss": 1.0},
        step=3,
        timestamp=2**42,
    )
    go_on(mlflow_ckpt.resume(run_id, in_place=True), 3)
    history = mlflow.MlflowClient().get_metric_history(run_id, "loss")
    assert [(metric.step, metric.value) for metric in history][2:] == [(3, 1.0)]
    assert spool.entries(run_id) == []


def test_what_waits_for_another_server_is_named_once(
    http_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_CKPT_SPOOL", str(tmp_path))
    run_id, elsewhere = unshuffled(), "http://127.0.0.1:9"
    for step in (3, 4):
        Spool.default().put(
            run_id,
            kind=METRICS,
            tracking_uri=elsewhere,
            metrics={"loss": 1.0},
            step=step,
            timestamp=2**42,
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        go_on(mlflow_ckpt.resume(run_id, in_place=True), 3)
    (warned,) = [str(w.message) for w in caught if elsewhere in str(w.message)]
    assert f"Entries of the run {run_id} wait" in warned
    assert f"mlflow-ckpt flush {run_id} --tracking-uri {http_store.uri}" in warned
    assert len(Spool.default().entries(run_id)) == 2


@on_disk
def test_states_that_nobody_keeps_are_named_in_one_warning() -> None:
    with mlflow.start_run() as run:
        plateau = keras.callbacks.ReduceLROnPlateau("loss")
        fit(small_model(), MlflowCheckpoint(), Counting(), Unpackable(), plateau, shuffle=False)
    with pytest.warns(UserWarning) as caught:
        point = mlflow_ckpt.resume(
            run.info.run_id, callbacks=[keras.callbacks.EarlyStopping("loss"), Counting()]
        )
    assert len(caught) == 1
    for phrase in (
        "Counting has state (epochs)",
        "the state of Unpackable cannot be saved",
        "ReduceLROnPlateau was among the callbacks before",
        "EarlyStopping has no saved state",
    ):
        assert phrase in str(caught[0].message)
        assert any(phrase in change for change in point.changes)
    assert caught[0].filename == __file__


@on_disk
def test_our_own_settings_and_best_value_go_on() -> None:
    run_id = unshuffled(monitor="loss", save_best_only=True, forms=("full", "split"), max_to_keep=1)
    point = mlflow_ckpt.resume(run_id)
    ours = point.callbacks[-1]
    assert isinstance(ours, MlflowCheckpoint)
    child = go_on(point, 4)
    assert ours.best is not None
    assert ours.best <= min(mlflow_ckpt.get_checkpoint(run_id).manifest.metrics.values())
    (saved,) = mlflow_ckpt.list_checkpoints(child)
    assert saved.manifest.forms == ("full", "split")
    assert saved.manifest.monitor is not None
    assert saved.manifest.monitor.name == "loss"


@on_disk
@pytest.mark.parametrize(
    ("recorded", "named"),
    [
        ({"compression": "zstd"}, "compression='zstd'"),
        ({"retention": {"Oldest": {"n": 2}}}, "retention={'Oldest': {'n': 2}}"),
        ({"retention": {"LatestN": {"n": 2, "per": "day"}}}, "'per': 'day'"),
    ],
)
def test_settings_that_a_newer_version_recorded_are_named(
    recorded: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = CallbackArguments.recorded
    monkeypatch.setattr(CallbackArguments, "recorded", lambda self: write(self) | recorded)
    run_id = unshuffled(monitor="loss")
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="does not know") as caught:
        point = mlflow_ckpt.resume(run_id)
    assert named in str(caught[0].message)
    assert point.callbacks[-1].monitor == "loss"


@on_disk
def test_what_is_worse_than_before_is_no_best_of_the_new_run() -> None:
    run_id = unshuffled(monitor="loss", save_best_only=True)
    point = mlflow_ckpt.resume(run_id)
    point.model.optimizer.learning_rate = 0.0
    worse = np.full_like(Y, 1000.0)
    with pytest.warns(UserWarning, match=r"learning_rate was .* and is now 0\.0"):
        point.model.fit(
            X, worse, initial_epoch=2, epochs=3, verbose=0, callbacks=point.callbacks, shuffle=False
        )
    run = mlflow.last_active_run()
    assert run is not None
    assert names(run.info.run_id) == []


@pytest.fixture(scope="module")
def finished_with_dataset(sqlite_store: Store) -> str:
    """The run of a training on an EpochDataset. Resume it into new runs; never change it."""
    with current(sqlite_store), mlflow.start_run() as run:
        fit_dataset(small_model(), MlflowCheckpoint())
    return str(run.info.run_id)


@on_disk
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": lambda: EpochDataset(X + 1, Y, batch_size=8)}, "data.digest was 'sha256:"),
        ({"x": lambda: dataset(batch_size=16)}, "data.batch_size was 8 and is now 16"),
        ({"x": lambda: dataset(seed=5)}, "data.seed was 0 and is now 5"),
        ({"x": lambda: X, "y": Y, "shuffle": False}, "fit received other data"),
        ({"x": lambda: X, "y": Y}, "unknown (shuffled arrays)"),
    ],
)
def test_other_data_are_named(
    finished_with_dataset: str, change: dict[str, Any], named: str
) -> None:
    point = mlflow_ckpt.resume(finished_with_dataset)
    settings = {**change, "x": change["x"]()}
    with pytest.warns(UserWarning) as caught:
        point.model.fit(**settings, initial_epoch=2, epochs=3, verbose=0, callbacks=point.callbacks)
    warned = [
        str(warning.message) for warning in caught if "cannot be the same" in str(warning.message)
    ]
    assert len(warned) == 1
    assert named in warned[0]


@on_disk
def test_another_optimizer_is_named_by_value(finished: str) -> None:
    model = small_model(optimizer=keras.optimizers.SGD(0.25, momentum=0.5))
    with pytest.warns(
        UserWarning, match=r"compile\.optimizer\.learning_rate was 0\.05\d* and is now 0\.25"
    ):
        point = mlflow_ckpt.restore(model, finished)
    assert point.model is model
    # What was saved counts.
    assert float(model.optimizer.learning_rate.numpy()) == pytest.approx(0.05)


def reseal(directory: Path, **changes: Any) -> None:
    """Rewrite a manifest with other values, as another machine would have written it."""
    file = directory / "manifest.json"
    manifest = replace(Manifest.from_json(file.read_bytes()), **changes)
    file.write_text(manifest.to_json(), "utf-8")


def test_other_versions_are_named(local_store: Store) -> None:
    run_id = unshuffled()
    directory = directory_of(local_store, run_id, "epoch_0002")
    versions = {**mlflow_ckpt.get_checkpoint(run_id).manifest.versions, "keras": "3.0.0"}
    reseal(directory, versions=versions)
    with pytest.warns(UserWarning, match=f"keras was 3.0.0 and is now {keras.__version__}"):
        mlflow_ckpt.resume(run_id)


@keras.saving.register_keras_serializable(package="test_resume")
class Doubling(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        return inputs * 2


@on_disk
def test_other_code_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = keras.Sequential([keras.Input((4,)), Doubling(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    with mlflow.start_run() as run:
        fit(model, MlflowCheckpoint("loss"), shuffle=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mlflow_ckpt.resume(run.info.run_id).changes == ()
    monkeypatch.setattr(
        "inspect.getsource", lambda item: "another" if item is Doubling else "the same"
    )
    with pytest.warns(UserWarning, match=r"the source of tests\.test_resume\.Doubling was sha256:"):
        mlflow_ckpt.resume(run.info.run_id)


@on_disk
def test_a_training_that_a_callback_stopped_goes_on_and_says_so() -> None:
    with mlflow.start_run() as run:
        stop = keras.callbacks.EarlyStopping("loss", min_delta=100.0, patience=1)
        fit(small_model(), MlflowCheckpoint(), stop, epochs=9, shuffle=False)
    with pytest.warns(UserWarning, match="a callback had ended the training"):
        mlflow_ckpt.resume(run.info.run_id, callbacks=[keras.callbacks.EarlyStopping("loss")])


@on_disk
def test_the_wrong_place_is_refused_before_anything_is_trained(finished: str) -> None:
    point = mlflow_ckpt.resume(finished)
    with pytest.raises(InvalidArgumentError, match=r"Expected fit\(initial_epoch=2\)"):
        fit(point.model, *point.callbacks, epochs=3)
    point = mlflow_ckpt.resume(finished)
    with pytest.raises(InvalidArgumentError, match="Call fit on the restored model"):
        fit(small_model(), *point.callbacks, initial_epoch=2, epochs=3)


@on_disk
def test_inside_an_epoch_arrays_continue() -> None:
    run_id = unshuffled(save_freq=2, monitor="loss")
    assert names(run_id)[0] == "step_00000002"
    point = mlflow_ckpt.resume(run_id, "step:2")
    assert (point.initial_epoch, point.initial_batch) == (0, 2)
    go_on(point)
    assert int(point.model.optimizer.iterations) == 3 * BATCHES


@on_disk
def test_a_save_on_the_last_batch_of_an_epoch_is_made_at_its_end() -> None:
    run_id = unshuffled(save_freq=BATCHES, monitor="val_loss")
    saved = mlflow_ckpt.get_checkpoint(run_id, f"step:{BATCHES}").manifest
    assert (saved.epoch, saved.step) == (1, BATCHES)
    assert "val_loss" in saved.metrics
    assert mlflow_ckpt.resume(run_id, f"step:{BATCHES}").initial_epoch == 1


@on_disk
def test_an_interruption_after_the_last_batch_is_named() -> None:
    def stop(logs: Any = None) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), mlflow.start_run() as run, MlflowCheckpoint() as ours:
        fit(
            small_model(),
            ours,
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: stop()),
            shuffle=False,
        )
    with pytest.warns(UserWarning, match="after the last batch of epoch 1: its validation"):
        assert mlflow_ckpt.resume(run.info.run_id).initial_epoch == 1


@on_disk
def test_an_older_checkpoint_says_what_it_does_not_hold() -> None:
    with mlflow.start_run() as run, CheckpointSaver(RunStore(run.info.run_id)) as saver:
        saver.save(small_model(), "epoch_0001", epoch=1, metrics={})
    with pytest.warns(UserWarning, match="holds no states of callbacks and random generators"):
        mlflow_ckpt.resume(run.info.run_id)


@on_disk
@pytest.mark.parametrize("full_format", ["keras", "h5"])
def test_a_model_of_ones_own_is_filled_whole(full_format: str) -> None:
    with mlflow.start_run() as run:
        model = small_model(optimizer="adam")
        fit(model, MlflowCheckpoint(full_format=full_format), shuffle=False)
    mine = small_model(optimizer="adam")
    mine.set_weights([weight + 1 for weight in mine.get_weights()])
    point = mlflow_ckpt.restore(mine, run.info.run_id)
    assert not mlflow_ckpt.fingerprint(mine).differing(
        mlflow_ckpt.fingerprint(model), ("weights", "optimizer")
    )
    go_on(point, 3)


@on_disk
@pytest.mark.parametrize("change", [{"units": 5}, {"optimizer": "adam"}])
def test_a_model_that_does_not_fit_is_left_alone(finished: str, change: dict[str, Any]) -> None:
    mine = small_model(**change)
    before = mlflow_ckpt.fingerprint(mine).weights_digest
    with (
        pytest.raises(WeightsMismatchError, match="Nothing was loaded"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        mlflow_ckpt.restore(mine, finished)
    assert mlflow_ckpt.fingerprint(mine).weights_digest == before


@on_disk
@pytest.mark.parametrize("full_format", ["keras", "h5"])
def test_a_model_with_other_seed_generators_is_left_alone(full_format: str) -> None:
    run_id = trained(epochs=1, full_format=full_format)
    mine = keras.Sequential([*small_model().layers, keras.layers.Dropout(0.5)])
    mine.build((None, 4))
    mine.compile(keras.optimizers.SGD(0.05, momentum=0.5), "mse")
    mine.set_weights([weight + 1 for weight in mine.get_weights()])
    before = mlflow_ckpt.fingerprint(mine).weights_digest
    with pytest.raises(ModelLoadError, match="seed generators differ from the saved ones"):
        mlflow_ckpt.restore(mine, run_id)
    assert mlflow_ckpt.fingerprint(mine).weights_digest == before


def test_the_training_state_is_plain_json(finished: str, local_store: Store) -> None:
    directory = directory_of(local_store, finished, "epoch_0002")
    state = json.loads((directory / "training_state.json").read_text("utf-8"))
    assert {"python", "numpy", "tensorflow"} <= state["random"].keys()
    assert (state["epoch"], state["batch"], state["steps"]) == (2, 0, BATCHES)
    with np.load(directory / "training_state.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == state["arrays"]


@on_disk
def test_only_callbacks_can_be_registered() -> None:
    with pytest.raises(InvalidArgumentError, match="subclass of keras"):
        mlflow_ckpt.register_callback_state(dict, len, print)
