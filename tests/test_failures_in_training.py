"""What fails while a model trains: one sentence of warning, training goes on, no damage."""

from __future__ import annotations

import random
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from queue import LifoQueue
from typing import Any

import keras
import mlflow
import numpy as np
import pytest

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt import MlflowCheckpoint
from mlflow_ckpt._model.keras_private import keras_version, saving_code
from mlflow_ckpt._saving import saver as saver_module
from mlflow_ckpt._saving.compose import Composer, Job
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking.spool.outcome import SavedCheckpoint
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import (
    CheckpointExistsError,
    OutputError,
    RunNotFoundError,
    TrackingError,
    TrackingUnavailableError,
)
from tests.support.faults import send_the_rest
from tests.support.proxy import Proxy, proxied
from tests.support.training import X, fit, names, new_run, small_model
from tests.support.waiting import PATIENCE_SECONDS, wait_for

# For a training whose batches and validation no test looks at. Every checkpoint costs requests.
SHORT: dict[str, Any] = {"batch_size": len(X), "validation_data": None}


@pytest.fixture
def proxy(server: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The current store, behind a proxy."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with proxied(server) as made:
        yield made


class Spoil(keras.callbacks.Callback):
    """Spoils the server before the second epoch, once it has all of the first.

    The third epoch waits until a request failed: what a training saves until then is sent later,
    and each checkpoint costs requests.
    """

    def __init__(self, proxy: Proxy, mode: str, run_id: str) -> None:
        super().__init__()
        self.proxy, self.mode, self.run_id = proxy, mode, run_id

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            client = mlflow.MlflowClient()
            wait_for(
                lambda: (
                    not Spool.default().entries(self.run_id)
                    and "mlflow_ckpt.latest" in client.get_run(self.run_id).data.tags
                ),
                "the first epoch is on the server",
            )
            if self.mode == "refuse artifacts":
                self.proxy.only = "uploads"
            self.proxy.mode = "fail" if self.mode == "refuse artifacts" else self.mode
        if epoch == 2 and self.mode != "hang":
            wait_for(self.proxy.failed.is_set, "a request failed")


def messages(caught: Any) -> list[str]:
    return [str(w.message) for w in caught if w.category is UserWarning]


def expected_message(mode: str, uri: str) -> str:
    """The warning about a server that is spoilt, as a pattern."""
    if mode == "refuse artifacts":
        return (
            rf"MLflow could not upload \S+ at {re.escape(uri)}: the server answers with error 500\."
        )
    return rf"The tracking server at {re.escape(uri)} does not answer\."


@pytest.mark.parametrize(
    "mode", ["fail", pytest.param("hang", marks=pytest.mark.long), "refuse artifacts"]
)
def test_training_goes_on_and_what_it_saved_is_sent_later(
    mode: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode == "hang":
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    run_id = new_run()
    model = small_model()
    ours = MlflowCheckpoint("loss", run_id=run_id, drain_timeout=1.0)
    with pytest.warns(UserWarning) as caught:
        fit(model, Spoil(proxy, mode, run_id), ours, epochs=3, **SHORT)
    assert len(model.history.epoch) == 3
    *during, after = messages(caught)
    because = expected_message(mode, proxy.uri)
    if mode == "hang":
        # The training is over before MLflow gives up its first request.
        because = r"They were not sent in time\."
    else:
        (line,) = during
        assert re.fullmatch(
            f"{because} Training continues; unsent data stays on this machine and is sent later.",
            line,
        ), line
    root = re.escape(str(Spool.default().root))
    # An artifact store that refuses does not keep the metrics from being sent.
    records = r" and 2 records of metrics and tags"
    if mode == "refuse artifacts":
        records = r"( and [12] records? of metrics and tags)?"
    assert re.fullmatch(
        rf"NOT EVERYTHING OF RUN {run_id} IS ON THE SERVER: 2 checkpoints "
        rf"\(epoch_0002, epoch_0003; 0\.\d MB\){records} wait in {root}\. {because} "
        rf"Nothing is lost\. Send it: MLFLOW_CKPT_SPOOL={root} mlflow-ckpt flush {run_id}",
        after,
    ), after
    proxy.release()
    assert names(run_id) == ["epoch_0001"]
    assert mlflow_ckpt.verify(run_id).ok
    send_the_rest(run_id)
    assert names(run_id) == ["epoch_0001", "epoch_0002", "epoch_0003"]
    assert all(mlflow_ckpt.verify(run_id, epoch).ok for epoch in (1, 2, 3))


@pytest.mark.parametrize("only", ["", "uploads"])
def test_tries_to_reach_the_server_do_not_touch_the_training_s_random_numbers(
    only: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # MLflow's own retries too, which are random unless it is told otherwise.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    run_id, model = new_run(), small_model()
    proxy.only, proxy.mode = only, "fail"
    saver = CheckpointSaver(RunStore(run_id))
    state, state_of_numpy = random.getstate(), repr(np.random.get_state())
    saver.save(model, "epoch_0001", epoch=1, metrics={"loss": 1.0})
    saver.log_metrics({"loss": 1.0}, 1)
    left = saver.finish(patience=2.0)
    assert [entry.label for entry in left] == ["epoch_0001", "metrics of step 1"][: 1 + (not only)]
    wait_for(proxy.failed.is_set, "a request failed")
    proxy.release()
    assert saver.finish(patience=PATIENCE_SECONDS) == []
    assert (random.getstate(), repr(np.random.get_state())) == (state, state_of_numpy)


@pytest.mark.parametrize("mode", ["fail", "refuse artifacts"])
def test_training_ends_where_that_is_asked_for(mode: str, proxy: Proxy) -> None:
    run_id = new_run()
    ours = MlflowCheckpoint("loss", run_id=run_id, on_error="raise", drain_timeout=1.0)
    with pytest.raises(TrackingError) as caught, pytest.warns(UserWarning), ours:
        fit(small_model(), Spoil(proxy, mode, run_id), ours, epochs=100, **SHORT)
    assert re.fullmatch(expected_message(mode, proxy.uri), str(caught.value)), str(caught.value)
    proxy.release()
    assert mlflow_ckpt.verify(run_id, 1).ok
    send_the_rest(run_id)
    assert names(run_id)[:2] == ["epoch_0001", "epoch_0002"]


def test_training_begins_without_its_server(proxy: Proxy) -> None:
    run_id = new_run()
    proxy.mode = "fail"
    with pytest.warns(UserWarning) as caught:
        fit(small_model(), MlflowCheckpoint("loss", run_id=run_id, drain_timeout=0.0), **SHORT)
    before, after = messages(caught)
    root = Spool.default().root
    assert before == (
        f"The tracking server at {proxy.uri} does not answer. Training continues; unsent data "
        "stays on this machine and is sent later."
    )
    assert after.startswith(f"NOT EVERYTHING OF RUN {run_id} IS ON THE SERVER: 2 checkpoints ")
    assert str(root) in after
    proxy.release()
    send_the_rest(run_id)
    assert names(run_id) == ["epoch_0001", "epoch_0002"]


def test_training_does_not_begin_without_its_server_where_that_is_asked_for(proxy: Proxy) -> None:
    run_id = new_run()
    proxy.mode = "fail"
    model = small_model()
    with pytest.raises(TrackingUnavailableError) as caught:
        fit(model, MlflowCheckpoint(run_id=run_id, on_error="raise"))
    assert str(caught.value) == f"The tracking server at {proxy.uri} does not answer."
    assert int(model.optimizer.iterations.numpy()) == 0


def test_an_own_run_ends_later_if_the_server_is_away_when_training_ends(proxy: Proxy) -> None:
    class Fail(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            proxy.mode = "fail"

    before = {run.info.run_id for run in mlflow.search_runs(output_format="list")}
    with pytest.warns(UserWarning) as caught:
        fit(small_model(), Fail(), MlflowCheckpoint("loss", drain_timeout=0.0), epochs=1, **SHORT)
    assert messages(caught)[-1].startswith("NOT EVERYTHING OF RUN ")
    assert mlflow.active_run() is None
    proxy.release()
    (run_id,) = {run.info.run_id for run in mlflow.search_runs(output_format="list")} - before
    client = mlflow.MlflowClient()
    assert client.get_run(run_id).info.status == "RUNNING"
    send_the_rest(run_id)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert names(run_id) == ["epoch_0001"]


def test_another_training_took_the_name(http_store: Store) -> None:
    run_id = new_run()

    class TakeTheName(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                with CheckpointSaver(RunStore(run_id)) as saver:
                    saver.save(small_model(units=5), "epoch_0002", epoch=2, metrics={})

    taken = (
        f"The run {run_id} already has a checkpoint epoch_0002, which is never overwritten. "
        "Train in another run, or continue from the run's last epoch (fit's initial_epoch)."
    )
    with pytest.warns(UserWarning) as caught:
        ours = MlflowCheckpoint("loss", run_id=run_id)
        fit(small_model(), ours, TakeTheName(), epochs=3, **SHORT)
    warned = messages(caught)
    assert len(warned) == 1, warned
    (left,) = Spool.default().entries(run_id)
    assert warned == [f"{taken} What was saved stays in {left.path}."]
    assert names(run_id) == ["epoch_0001", "epoch_0002", "epoch_0003"]
    assert mlflow_ckpt.load_model(run_id, 2).layers[0].units == 5
    assert issubclass(CheckpointExistsError, FileExistsError)


def test_a_spool_that_cannot_be_written_ends_training_where_that_is_asked_for(
    http_store: Store, spool_below_a_file: Path
) -> None:
    run_id = new_run()
    with pytest.raises(OutputError, match="The spool cannot be written: "):
        fit(small_model(), MlflowCheckpoint(run_id=run_id, on_error="raise"), epochs=100)
    assert len(names(run_id)) <= 1


class Brake:
    """Holds the writer, and counts snapshots that are not written yet.

    Attributes:
        released: Lets the writer go on.
        blocks: A save waits until one of two snapshots is written.
        alive: Snapshots that are not written yet.
        most: The most there were at once.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.released = threading.Event()
        self.blocks = threading.Event()
        self.alive = self.most = 0
        self._lock = threading.Lock()
        brake = self

        class Braked(Composer):
            def take(self, model: keras.Model, *arguments: Any) -> Any:
                if int(model.optimizer.iterations.numpy()) > 0:  # not the trial before training
                    brake.count(1)
                return super().take(model, *arguments)

            def compose(self, job: Job, directory: Path) -> SavedCheckpoint:
                brake.released.wait(PATIENCE_SECONDS)
                try:
                    return super().compose(job, directory)
                finally:
                    brake.count(-1)

        class Buffers(LifoQueue[Any]):
            def get(self, block: bool = True, timeout: float | None = None) -> Any:
                if brake.alive == 2 and block and timeout is None and self.empty():
                    brake.blocks.set()
                return super().get(block, timeout)

        monkeypatch.setattr(saver_module, "Composer", Braked)
        monkeypatch.setattr(saver_module, "LifoQueue", Buffers)

    def count(self, change: int) -> None:
        with self._lock:
            self.alive += change
            self.most = max(self.most, self.alive)


def test_a_third_save_waits_for_the_first(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = new_run()
    brake = Brake(monkeypatch)
    training = threading.Thread(
        target=lambda: fit(
            small_model(), MlflowCheckpoint("loss", run_id=run_id), epochs=3, **SHORT
        ),
        daemon=True,
    )
    training.start()
    try:
        wait_for(lambda: brake.blocks.is_set() or brake.most > 2, "the third save begins")
        assert (brake.alive, brake.most) == (2, 2)
    finally:
        brake.released.set()
        training.join(PATIENCE_SECONDS)
    assert not training.is_alive()
    assert brake.most == 2
    assert names(run_id) == ["epoch_0001", "epoch_0002", "epoch_0003"]
    assert all(mlflow_ckpt.verify(run_id, epoch).ok for epoch in (1, 2, 3))


def test_a_changed_keras_is_warned_of_once(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed() -> None:
        raise keras_version.PrivateApiError("saving_lib has no _save_state")

    monkeypatch.setattr(saving_code, "require", changed)
    run_id = new_run()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        fit(small_model(), MlflowCheckpoint("loss", run_id=run_id), **SHORT)
    (message,) = messages(caught)
    assert message.startswith(f"Keras {keras.__version__} saves models differently from Keras ")
    assert names(run_id) == ["epoch_0001", "epoch_0002"]


def test_a_training_that_has_ended_does_not_try_again(proxy: Proxy, spool: Path) -> None:
    """It would go on in the background of a notebook for hours, with a line for each attempt."""
    run_id = new_run()
    before = uploaders()
    with pytest.warns(UserWarning) as warned:
        fit(
            small_model(),
            MlflowCheckpoint("loss", run_id=run_id, drain_timeout=0.5),
            Spoil(proxy, "refuse artifacts", run_id),
            epochs=3,
            **SHORT,
        )
    assert str(warned[-1].message).startswith("NOT EVERYTHING OF RUN")
    wait_for(lambda: uploaders() <= before, "the uploader ends")
    proxy.mode = "pass"
    left = Spool(spool).entries(run_id)
    assert left != []
    # The next training of the run sends them.
    fit(
        small_model(),
        MlflowCheckpoint("loss", run_id=run_id),
        initial_epoch=3,
        epochs=4,
        **SHORT,
    )
    assert names(run_id) == [f"epoch_{epoch:04d}" for epoch in range(1, 5)]
    assert Spool(spool).entries(run_id) == []


def uploaders() -> set[threading.Thread]:
    """Uploaders of this process, other tests' included."""
    return {t for t in threading.enumerate() if t.name == "mlflow_ckpt uploader"}


def test_the_same_callback_sends_what_its_last_training_left(proxy: Proxy, spool: Path) -> None:
    run_id = new_run()
    callback = MlflowCheckpoint("loss", run_id=run_id, drain_timeout=0.5)
    spoil = Spoil(proxy, "refuse artifacts", run_id)
    with pytest.warns(UserWarning) as warned:
        fit(small_model(), callback, spoil, epochs=3, **SHORT)
    assert str(warned[-1].message).startswith("NOT EVERYTHING OF RUN")
    proxy.mode = "pass"
    callback.drain_timeout = PATIENCE_SECONDS
    fit(small_model(), callback, initial_epoch=3, epochs=4, **SHORT)
    assert names(run_id) == [f"epoch_{epoch:04d}" for epoch in range(1, 5)]


class DeleteRun(keras.callbacks.Callback):
    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            mlflow.MlflowClient().delete_run(self.run_id)


def test_training_ends_where_its_run_is_deleted_and_that_is_asked_for(http_store: Store) -> None:
    run_id = new_run()
    callback = MlflowCheckpoint("loss", run_id=run_id, on_error="raise")
    with pytest.raises(RunNotFoundError, match="was deleted"):
        fit(small_model(), callback, DeleteRun(run_id), epochs=4, **SHORT)
