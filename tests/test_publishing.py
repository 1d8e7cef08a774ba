"""What of an upload is seen, and when."""

from __future__ import annotations

import keras
import mlflow
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt._tracking.publishing import upload_order
from mlflow_ckpt.errors import ManifestError
from tests.support.checkpoints import save_run

X = np.ones((8, 4), "float32")


def small_model(optimizer: str = "sgd") -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    # Tracing a graph takes longer than these few steps.
    model.compile(optimizer, "mse", run_eagerly=True)
    return model


@given(st.lists(st.sampled_from(["MLmodel", "a", "b/c", "fingerprint.json", "z"]), unique=True))
def test_the_manifest_is_uploaded_last_and_mlmodel_before_it(paths: list[str]) -> None:
    order = upload_order(paths)
    assert sorted(order) == sorted([*paths, "manifest.json"])
    assert order[-1] == "manifest.json"
    if "MLmodel" in paths:
        assert order[-2] == "MLmodel"


def test_what_a_dead_upload_left_does_not_spoil_the_next_save(store: Store) -> None:
    model = small_model()
    with mlflow.start_run() as run:
        mlflow.log_text("half", "checkpoints/epoch_0001/model.weights.h5")
        mlflow.log_text("half", "checkpoints/epoch_0001/data/model.h5")
        assert mlflow_ckpt.list_checkpoints(run.info.run_id) == []
        callback = mlflow_ckpt.MlflowCheckpoint(monitor="loss")
        model.fit(X, X[:, :1], verbose=0, callbacks=[callback])
    assert mlflow_ckpt.verify(run.info.run_id).ok
    mlflow_ckpt.load_model(run.info.run_id)


def test_latest_is_the_last_epoch_though_compiling_again_reset_the_step(local_store: Store) -> None:
    model = small_model("adam")
    with mlflow.start_run() as run:
        for epoch, batch_size in ((0, 2), (1, 8)):
            callback = mlflow_ckpt.MlflowCheckpoint(monitor="loss")
            model.fit(
                *(X, X[:, :1]),
                initial_epoch=epoch,
                epochs=epoch + 1,
                batch_size=batch_size,
                verbose=0,
                callbacks=[callback],
            )
            model.compile("adam", "mse", run_eagerly=True)
    steps = [c.manifest.step for c in mlflow_ckpt.list_checkpoints(run.info.run_id)]
    assert steps == [4, 1]
    assert mlflow_ckpt.get_checkpoint(run.info.run_id).name == "epoch_0002"


def test_a_manifest_of_another_checkpoint_is_refused(local_store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    first = local_store.checkpoint_directory(run_id, "epoch_0001") / "manifest.json"
    second = local_store.checkpoint_directory(run_id, "epoch_0002") / "manifest.json"
    second.write_text(first.read_text())
    with pytest.raises(ManifestError, match="belongs to another checkpoint, epoch_0001"):
        mlflow_ckpt.load_model(run_id, 2)


# A training that is refused does not wait for what its run has still to send.
@pytest.mark.filterwarnings("ignore:NOT EVERYTHING OF RUN")
def test_training_does_not_go_over_a_damaged_checkpoint(local_store: Store) -> None:
    model = small_model()
    with mlflow.start_run() as run:
        callback = mlflow_ckpt.MlflowCheckpoint(monitor="loss")
        model.fit(X, X[:, :1], epochs=2, verbose=0, callbacks=[callback])
        directory = local_store.checkpoint_directory(run.info.run_id, "epoch_0002")
        (directory / "manifest.json").write_text("{}")
        with pytest.raises(mlflow_ckpt.errors.CheckpointExistsError, match="up to epoch 2"):
            model.fit(X, X[:, :1], initial_epoch=1, epochs=2, verbose=0, callbacks=[callback])


def test_an_interrupted_training_s_own_run_is_ended_as_failed(local_store: Store) -> None:
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    model = small_model()
    callback = mlflow_ckpt.MlflowCheckpoint(monitor="loss")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, X[:, :1], verbose=0, callbacks=[callback, Interrupt()])
    interrupted = mlflow.active_run()
    assert interrupted is not None
    model.fit(X, X[:, :1], verbose=0, callbacks=[callback])
    assert mlflow.get_run(interrupted.info.run_id).info.status == "FAILED"
    assert mlflow.active_run() is None


def test_a_callback_used_for_another_run_forgets_the_best_of_the_first(local_store: Store) -> None:
    callback = mlflow_ckpt.MlflowCheckpoint(monitor="loss", save_best_only=True)
    for target in (0.0, 100.0):
        model = small_model()
        with mlflow.start_run() as run:
            model.fit(X, X[:, :1] * target, verbose=0, callbacks=[callback])
        assert len(mlflow_ckpt.list_checkpoints(run.info.run_id)) == 1


def test_progress_tells_bytes_within_a_large_file(http_store: Store) -> None:
    model = keras.Sequential([keras.Input((2000,)), keras.layers.Dense(2500)])
    run_id = save_run(model)
    progress: list[tuple[int, int]] = []
    mlflow_ckpt.verify(run_id, progress=lambda done, total: progress.append((done, total)))
    size = mlflow_ckpt.get_checkpoint(run_id).manifest.size
    assert all(done <= total for done, total in progress)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert progress[-1][0] == progress[-1][1] >= size
