"""Claims of uploads: those of live processes hold, and those of dead ones are taken over."""

from __future__ import annotations

import json
import math
import random
import time
from typing import Any

import mlflow
import numpy as np
import pytest

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt._tracking import claims, publishing
from mlflow_ckpt._tracking.claims import Claim, ClaimUndecidedError
from mlflow_ckpt._tracking.spool import sending
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import CheckpointBusyError
from tests.support.checkpoints import put_checkpoint
from tests.support.training import fit, names, new_run, small_model
from tests.support.uploads import at_upload
from tests.support.waiting import wait_for

DAY = 24 * 3600.0
OTHERS = "checkpoints/epoch_0001/upload-00000000000000000001-0badcafe.json"


@pytest.fixture
def entry(http_store: Store) -> Entry:
    """A checkpoint that waits in the spool."""
    return put_checkpoint(new_run(), http_store.uri)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that was read twice and did not change in between is dead."""
    monkeypatch.setattr(claims, "DEAD_SECONDS", 0.0)


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "DEAD_SECONDS", math.inf)


def claim(run_id: str, beat: int, *, age: float = 0.0, path: str = OTHERS, **more: Any) -> None:
    """Write the claim of a process on another machine."""
    content = {"host": "elsewhere", "pid": 7, "time": time.time() - age, "beat": beat, **more}
    mlflow.MlflowClient().log_text(run_id, json.dumps(content), path)


def send(entry: Entry) -> None:
    sending.send(Spool.default(), entry, RunStore(entry.run_id))


def claims_of(run_id: str, store: Store) -> list[str]:
    return [path.name for path in store.artifacts_of(run_id).rglob("upload-*.json")]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("age", [0.0, DAY, -DAY])
def test_a_claim_without_heartbeat_is_taken_over_whatever_its_clock_says(
    age: float, entry: Entry, http_store: Store
) -> None:
    claim(entry.run_id, 3, age=age)
    with pytest.raises(ClaimUndecidedError, match="The process 7 on elsewhere is also saving"):
        send(entry)
    send(entry)
    assert mlflow_ckpt.verify(entry.run_id, 1).ok
    assert claims_of(entry.run_id, http_store) == []


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("age", [0.0, DAY, -DAY])
def test_a_claim_with_a_heartbeat_holds_whatever_its_clock_says(
    age: float, entry: Entry, http_store: Store
) -> None:
    for beat in (1, 2, 3):
        claim(entry.run_id, beat, age=age)
        with pytest.raises(CheckpointBusyError) as caught:
            send(entry)
    assert not isinstance(caught.value, ClaimUndecidedError)
    assert names(entry.run_id) == []


@pytest.mark.usefixtures("at_once")
def test_a_pod_that_was_restarted_has_the_name_and_process_ids_of_the_dead_one(
    entry: Entry, http_store: Store
) -> None:
    own = {**claims._process(), "namespace": "another boot/1"}
    claim(entry.run_id, 3, **own)
    with pytest.raises(ClaimUndecidedError):
        send(entry)
    send(entry)
    assert mlflow_ckpt.verify(entry.run_id, 1).ok


def test_a_claim_is_renewed_within_a_long_file(
    entry: Entry, http_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    beats: list[int] = []

    def beats_on(store: RunStore) -> bool:
        text = store.read(f"checkpoints/epoch_0001/upload-{entry.token}.json") or b"{}"
        beats.append(json.loads(text)["beat"])
        return beats[-1] >= beats[0] + 2

    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist()
    with at_upload(
        "model.weights.h5",
        lambda store: wait_for(lambda: beats_on(store), "two heartbeats"),
        before=True,
    ):
        send(entry)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert mlflow_ckpt.verify(entry.run_id, 1).ok
    assert claims_of(entry.run_id, http_store) == []


def test_a_process_that_comes_back_to_life_does_not_complete_what_another_took_over(
    entry: Entry, http_store: Store
) -> None:
    """Its late heartbeat may write the claim again that the other one has deleted."""
    with (
        at_upload("model.weights.h5", lambda _: claim(entry.run_id, 1)),
        pytest.raises(CheckpointBusyError),
    ):
        send(entry)
    directory = http_store.checkpoint_directory(entry.run_id, "epoch_0001")
    assert not {"MLmodel", "manifest.json"} & {path.name for path in directory.iterdir()}


def test_a_process_that_comes_back_to_life_leaves_the_files_of_another_alone(
    entry: Entry, http_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_PARALLEL", 1)

    def take_over(store: RunStore) -> None:
        store.delete(f"checkpoints/epoch_0001/upload-{entry.token}.json")
        send(put_checkpoint(entry.run_id, http_store.uri))

    with (
        at_upload("architecture.json", take_over),
        pytest.raises(CheckpointBusyError, match="that took over"),
    ):
        send(entry)
    assert mlflow_ckpt.verify(entry.run_id, 1).ok


@pytest.mark.usefixtures("never")
def test_a_training_resumed_in_place_does_not_wait_for_the_one_that_is_over(
    http_store: Store,
) -> None:
    run_id = new_run()
    fit(small_model(), mlflow_ckpt.MlflowCheckpoint("loss", run_id=run_id), epochs=1)
    # It died on another machine while it was uploading the next epoch.
    claim(run_id, 9, path=OTHERS.replace("0001", "0002", 1))
    mlflow.MlflowClient().log_text(run_id, "half", "checkpoints/epoch_0002/model.keras")
    with pytest.warns(UserWarning, match="epoch_0002: its upload is incomplete"):
        point = mlflow_ckpt.resume(run_id, in_place=True)
    fit(point.model, *point.callbacks, initial_epoch=1, epochs=2)
    assert names(run_id) == ["epoch_0001", "epoch_0002"]
    assert claims_of(run_id, http_store) == []


@pytest.mark.usefixtures("never")
def test_what_another_process_of_this_machine_uploads_is_not_ended(
    entry: Entry, http_store: Store
) -> None:
    Claim(RunStore(entry.run_id), "epoch_0001", entry.token).take()
    claim(entry.run_id, 3)
    claims.end_all(RunStore(entry.run_id))
    assert claims_of(entry.run_id, http_store) == [f"upload-{entry.token}.json"]
