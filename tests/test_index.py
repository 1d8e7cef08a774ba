"""The index of a run's manifests: a cache that saves requests, and never has the last word."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.runs import READERS, Run, manifest_of, run_of
from devtools.stores import Store
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.manifest import hash_files
from mlflow_ckpt._tracking import index
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import CheckpointNotFoundError, TrackingError
from tests.support.checkpoints import save_run


@pytest.fixture(scope="module")
def ten(server: Store) -> Run:
    return run_of(server, 10)


@pytest.fixture(scope="module")
def thousand(server: Store) -> Run:
    return run_of(server, 1000)


@pytest.fixture
def run(http_store: Store) -> Run:
    """Three checkpoints, the second of them best, all in the index."""
    run = Run(http_store)
    manifests = [manifest_of(run.id, epoch, loss) for epoch, loss in enumerate((0.5, 0.1, 0.3), 1)]
    for manifest in manifests:
        run.put(manifest)
    run.write_index(*manifests)
    return run


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every HTTP request that is sent, as `GET /path body`."""
    requested: list[str] = []
    send = requests.Session.send

    def counting(self: requests.Session, request: Any, **options: Any) -> requests.Response:
        requested.append(f"{request.method} {request.path_url} {request.body}")
        return send(self, request, **options)

    monkeypatch.setattr(requests.Session, "send", counting)
    return requested


def about(run: Run, sent: list[str]) -> list[str]:
    """Only what concerns one run: an earlier test's uploader may still be trying to send."""
    return [request for request in sent if run.id in request]


# The number of requests


@pytest.mark.parametrize("reader", READERS)
def test_a_thousand_checkpoints_take_as_many_requests_as_ten(
    reader: str, ten: Run, thousand: Run, http_store: Store, sent: list[str]
) -> None:
    # Once in its life, a process asks the server what it can do.
    READERS[reader](ten.id)
    counts = []
    for run in (ten, thousand):
        sent.clear()
        READERS[reader](run.id)
        counts.append(len(about(run, sent)))
    # The run, the listing, the index; then the manifest of the newest, or of the one chosen.
    assert counts == [4, 4], sent


def test_what_is_read_of_a_thousand_checkpoints_is_right(thousand: Run, http_store: Store) -> None:
    assert thousand.listed() == [f"epoch_{epoch:04d}" for epoch in range(1, 1001)]
    assert mlflow_ckpt.get_checkpoint(thousand.id).manifest == manifest_of(thousand.id, 1000)
    assert mlflow_ckpt.get_checkpoint(thousand.id, "best").manifest == manifest_of(thousand.id, 500)


def test_publishing_beside_a_thousand_checkpoints_takes_three_requests(
    thousand: Run, http_store: Store, sent: list[str]
) -> None:
    assert thousand.store.run.info.run_id == thousand.id
    sent.clear()
    manifests = index.record(thousand.store, manifest_of(thousand.id, 1000))
    assert [manifest.epoch for manifest in manifests] == list(range(1, 1001))
    methods = [request.partition(" ")[0] for request in about(thousand, sent)]
    assert methods == ["GET", "GET", "PUT"]


def test_manifests_on_this_machine_s_disk_are_read_themselves(local_store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    local_store.checkpoint_directory(run_id, "epoch_0001").joinpath("manifest.json").unlink()
    assert [checkpoint.name for checkpoint in mlflow_ckpt.list_checkpoints(run_id)] == [
        "epoch_0002"
    ]


# What publishing writes


def test_publishing_keeps_every_manifest_as_it_stands_in_its_file(store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4, 0.6))
    directory = store.checkpoint_directory(run_id, "epoch_0001").parent
    content = json.loads((directory / "manifests.json").read_bytes())
    files = sorted(directory.glob("*/manifest.json"))
    assert content["schema_version"] == 1
    assert content["manifests"] == [json.loads(file.read_bytes()) for file in files]


def test_keys_that_a_later_version_added_to_a_manifest_are_kept(run: Run) -> None:
    file = run.checkpoints / "epoch_0001" / "manifest.json"
    content = json.loads(file.read_bytes()) | {"colour": "blue"}
    del content["manifest_digest"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    content["manifest_digest"] = str(Digest.of_bytes(canonical.encode()))
    file.write_text(json.dumps(content), encoding="utf-8")
    run.index.unlink()
    for _ in range(2):
        index.record(run.store, manifest_of(run.id, 3, 0.3))
        first = json.loads(run.index.read_bytes())["manifests"][0]
        assert first == content


def test_the_last_one_recorded_is_the_newest_not_the_last_one_saved(run: Run) -> None:
    manifests = index.record(run.store, manifest_of(run.id, 2, 0.1))
    assert [manifest.name for manifest in manifests] == ["epoch_0001", "epoch_0002", "epoch_0003"]


def test_a_checkpoint_is_published_though_the_index_cannot_be_written(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    upload = RunStore.upload

    def refuse(self: RunStore, file: Path, directory: str) -> None:
        if file.name == "manifests.json":
            raise TrackingError("The disk of the server is full.")
        upload(self, file, directory)

    monkeypatch.setattr(RunStore, "upload", refuse)
    run_id = save_run()
    assert "epoch_0001 is complete, but" in caplog.text
    assert "The disk of the server is full." in caplog.text
    assert mlflow_ckpt.verify(run_id).ok
    assert MlflowClient().get_run(run_id).data.tags["mlflow_ckpt.latest"] == "epoch_0001"


# An index that is not what it should be


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "null", "[]", "7", "{}", '{"schema_version": 1}', "\x80\xff"),
        *('{"schema_version": "1", "manifests": []}', '{"schema_version": 1, "manifests": 7}'),
        *('{"schema_version": 1, "manifests": [7, null, {}]}', "[" * 100_000),
    ],
)
def test_a_damaged_index_costs_requests_and_hides_nothing(content: str, run: Run) -> None:
    run.index.write_bytes(content.encode("latin-1"))
    assert index.read(run.store) == {}
    assert run.listed() == ["epoch_0001", "epoch_0002", "epoch_0003"]
    assert mlflow_ckpt.get_checkpoint(run.id, "best").name == "epoch_0002"


def test_an_index_of_a_newer_schema_is_ignored(run: Run) -> None:
    run.write_index(manifest_of(run.id, 1, loss=0.0), schema_version=2)
    assert index.read(run.store) == {}
    assert mlflow_ckpt.get_checkpoint(run.id, "best").name == "epoch_0002"


def test_a_run_without_an_index_is_read_from_its_manifests(run: Run) -> None:
    run.index.unlink()
    assert index.read(run.store) == {}
    assert run.listed() == ["epoch_0001", "epoch_0002", "epoch_0003"]
    assert mlflow_ckpt.get_checkpoint(run.id).name == "epoch_0003"


def test_an_entry_that_was_altered_is_read_from_its_manifest(run: Run) -> None:
    text = run.index.read_text(encoding="utf-8")
    run.index.write_text(text.replace('"val_loss": 0.5', '"val_loss": 0.0'), encoding="utf-8")
    assert set(index.read(run.store)) == {"epoch_0002", "epoch_0003"}
    assert run.listed() == ["epoch_0001", "epoch_0002", "epoch_0003"]
    assert mlflow_ckpt.get_checkpoint(run.id, "best").name == "epoch_0002"


def test_a_checkpoint_that_the_index_does_not_know_is_found(run: Run) -> None:
    run.put(manifest_of(run.id, 4, loss=0.05))
    assert run.listed()[-1] == "epoch_0004"
    assert mlflow_ckpt.get_checkpoint(run.id).name == "epoch_0004"
    assert mlflow_ckpt.get_checkpoint(run.id, "best").name == "epoch_0004"


def test_a_checkpoint_that_is_gone_is_left_out_though_the_index_knows_it(run: Run) -> None:
    for name in ("epoch_0002", "epoch_0003"):
        shutil.rmtree(run.checkpoints / name)
    assert run.listed() == ["epoch_0001"]
    assert mlflow_ckpt.get_checkpoint(run.id).name == "epoch_0001"
    assert mlflow_ckpt.get_checkpoint(run.id, "best").name == "epoch_0001"


def test_a_checkpoint_whose_manifest_is_gone_is_neither_latest_nor_best(run: Run) -> None:
    (run.checkpoints / "epoch_0003" / "manifest.json").unlink()
    assert run.listed() == ["epoch_0001", "epoch_0002"]
    assert mlflow_ckpt.get_checkpoint(run.id).name == "epoch_0002"
    (run.checkpoints / "epoch_0002" / "manifest.json").unlink()
    assert mlflow_ckpt.get_checkpoint(run.id, "best").name == "epoch_0001"


def test_a_run_whose_manifests_are_all_gone_has_no_checkpoints(run: Run) -> None:
    for file in run.checkpoints.glob("*/manifest.json"):
        file.unlink()
    assert run.listed() == []
    for selector in ("latest", "best"):
        with pytest.raises(CheckpointNotFoundError, match="has no checkpoints"):
            mlflow_ckpt.get_checkpoint(run.id, selector)


def test_a_manifest_that_was_replaced_counts_more_than_the_index(run: Run) -> None:
    run.put(manifest_of(run.id, 2, loss=0.4))
    best = mlflow_ckpt.get_checkpoint(run.id, "best")
    assert best.manifest == manifest_of(run.id, 3, loss=0.3)
    run.put(manifest_of(run.id, 3, loss=0.05))
    assert mlflow_ckpt.get_checkpoint(run.id).manifest == manifest_of(run.id, 3, loss=0.05)


@pytest.mark.parametrize("other", ["{", manifest_of("0" * 32, 3).to_json()])
def test_verifying_reads_the_manifest_itself(other: str, run: Run) -> None:
    (run.checkpoints / "epoch_0002" / "manifest.json").write_text(other, encoding="utf-8")
    catalog = Catalog(run.store)
    second = catalog.scan()[0][1]
    assert "manifest.json" in str(catalog.verify(second).error)


def test_a_fingerprint_is_compared_with_the_manifest_itself(http_store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    directory = http_store.checkpoint_directory(run_id, "epoch_0001")
    catalog = Catalog(RunStore(run_id))
    first = catalog.scan()[0][0]
    file = directory / "fingerprint.json"
    file.write_text(file.read_text("utf-8") + "\n", encoding="utf-8")
    files = hash_files(directory, [entry.path for entry in first.manifest.files])
    manifest = replace(first.manifest, files=files)
    (directory / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    assert catalog.scan()[0][0].manifest == first.manifest, "from the index"
    assert catalog.fingerprint(first).weights_digest == manifest.weights_digest


# Healing and writers that meet


def test_publishing_mends_the_index(run: Run) -> None:
    run.index.write_text("{", encoding="utf-8")
    shutil.rmtree(run.checkpoints / "epoch_0001")
    (run.checkpoints / "epoch_0009").mkdir()
    run.put(manifest_of(run.id, 4))
    manifests = index.record(run.store, manifest_of(run.id, 4))
    assert [manifest.name for manifest in manifests] == ["epoch_0002", "epoch_0003", "epoch_0004"]
    assert run.indexed() == ["epoch_0002", "epoch_0003", "epoch_0004"]


def test_an_index_is_mended_while_python_shuts_down(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    run.index.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        index.record(run.store, manifest_of(run.id, 3, 0.3))
    assert run.indexed() == ["epoch_0001", "epoch_0002", "epoch_0003"]


def test_a_checkpoint_saved_anew_replaces_its_old_entry(run: Run) -> None:
    again = replace(manifest_of(run.id, 3), created="2026-02-02T03:04:05+00:00")
    run.put(again)
    index.record(run.store, again)
    assert index.read(run.store)["epoch_0003"] == again


def test_an_index_of_damaged_manifests_is_written_without_them(run: Run) -> None:
    run.index.unlink()
    (run.checkpoints / "epoch_0001" / "manifest.json").write_text("{", encoding="utf-8")
    index.record(run.store, manifest_of(run.id, 3, 0.3))
    assert run.indexed() == ["epoch_0002", "epoch_0003"]


def test_discarding_takes_names_out_of_the_index_only(run: Run) -> None:
    index.discard(run.store, ["epoch_0001", "epoch_0007"])
    assert run.indexed() == ["epoch_0002", "epoch_0003"]
    assert run.listed() == ["epoch_0001", "epoch_0002", "epoch_0003"]


def test_discarding_what_the_index_does_not_know_writes_nothing(run: Run) -> None:
    before = run.index.read_bytes()
    index.discard(run.store, ["epoch_0007"])
    assert run.index.read_bytes() == before
    run.index.unlink()
    index.discard(run.store, ["epoch_0001"])
    assert not run.index.exists()


def test_a_publisher_that_loses_another_s_entry_hides_no_checkpoint(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, upload = run.store, run.store.upload

    def late(file: Path, directory: str) -> None:
        # Another publisher comes and goes between this one's reading and its writing.
        run.put(manifest_of(run.id, 5))
        index.record(RunStore(run.id, slow.tracking_uri), manifest_of(run.id, 5))
        assert run.indexed()[-1] == "epoch_0005"
        upload(file, directory)

    run.put(manifest_of(run.id, 4))
    monkeypatch.setattr(slow, "upload", late)
    index.record(slow, manifest_of(run.id, 4))
    assert run.indexed() == [f"epoch_000{epoch}" for epoch in (1, 2, 3, 4)]
    assert run.listed() == [f"epoch_000{epoch}" for epoch in (1, 2, 3, 4, 5)]
    assert mlflow_ckpt.get_checkpoint(run.id).name == "epoch_0005"


def test_publishers_at_the_same_time_hide_no_checkpoint(run: Run) -> None:
    def publish(epochs: range) -> None:
        store = RunStore(run.id, run.store.tracking_uri)
        for epoch in epochs:
            run.put(manifest_of(run.id, epoch))
            index.record(store, manifest_of(run.id, epoch))

    with ThreadPoolExecutor() as pool:
        list(pool.map(publish, (range(4, 24, 2), range(5, 24, 2))))
    names = [f"epoch_{epoch:04d}" for epoch in range(1, 24)]
    assert run.listed() == names
    index.record(run.store, manifest_of(run.id, 23))
    assert run.indexed() == names
