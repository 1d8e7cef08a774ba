"""The output of `mlflow-ckpt list`, `show` and `verify`, as text and as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from devtools.stores import Store
from tests.conftest import CLASS_NAMES, TrainedRun
from tests.support.checkpoints import flip_byte, save_run
from tests.support.cli import run


def test_list_shows_a_row_a_checkpoint_and_marks_best_and_latest(http_store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.25, 0.75))
    result = run("list", run_id)
    head, _, *rows = result.output.splitlines()
    assert result.exit_code == 0
    assert head.split() == [
        *("checkpoint", "epoch", "step", "val_loss", "forms", "size", "age"),
    ]
    assert [row.split()[:4] for row in rows] == [
        ["epoch_0001", "1", "0", "0.5"],
        ["epoch_0002", "2", "0", "0.25"],
        ["epoch_0003", "3", "0", "0.75"],
    ]
    assert [row.split()[-1] for row in rows if row.endswith(("best", "latest"))] == [
        "best",
        "latest",
    ]
    assert "best" in rows[1] and "latest" in rows[2]


def test_list_as_json_holds_every_fact(trained_run: TrainedRun) -> None:
    result = run("list", trained_run.run_id, "--json", "--tracking-uri", trained_run.store.uri)
    listing = json.loads(result.output)
    assert listing["run_id"] == trained_run.run_id
    assert listing["latest"] == "epoch_0002"
    assert listing["best"] in ("epoch_0001", "epoch_0002")
    assert [c["epoch"] for c in listing["checkpoints"]] == [1, 2]
    assert set(listing["checkpoints"][0]["metrics"]) == {
        *("accuracy", "loss", "val_accuracy", "val_loss"),
    }
    assert listing["checkpoints"][0]["metadata"] == {"class_names": CLASS_NAMES}
    assert listing["damaged"] == {}


def test_list_names_a_checkpoint_whose_manifest_is_damaged(local_store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    manifest = local_store.checkpoint_directory(run_id, "epoch_0001") / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"epoch": 1', '"epoch": 7'))
    result = run("list", run_id)
    assert result.exit_code == 0
    assert "epoch_0002" in result.output
    assert "epoch_0001: damaged. manifest.json was altered after it was written" in result.output


def test_show_prints_manifest_files_and_fingerprint(trained_run: TrainedRun) -> None:
    uri = trained_run.store.uri
    text = run("show", trained_run.run_id, "--tracking-uri", uri).output
    for expected in (
        f"epoch_0002 of run {trained_run.run_id}",
        f"runs:/{trained_run.run_id}/checkpoints/epoch_0002",
        "val_loss (min)",
        "data/model.keras",
        "layers/dense/vars/0",
        f"{trained_run.model.layers[0].name}/kernel",
        "8x16",
    ):
        assert expected in text
    assert "…" not in text, "nothing is cut off where output goes to a pipe"


@pytest.mark.parametrize("spoil", [Path.unlink, flip_byte])
def test_show_names_a_fingerprint_that_is_not_the_saved_one(
    spoil: Callable[[Path], None], local_store: Store
) -> None:
    run_id = save_run()
    spoil(local_store.checkpoint_directory(run_id, "epoch_0001") / "fingerprint.json")
    result = run("show", run_id)
    assert result.exit_code == 4
    assert result.output == (
        "Error: fingerprint.json of epoch_0001 is missing or was altered. See what else is: "
        f"mlflow-ckpt verify ckpt:/{run_id}/epoch_0001\n"
    )


def test_show_as_json_gives_digests_that_hashlib_confirms(trained_run: TrainedRun) -> None:
    uri = trained_run.store.uri
    result = run("show", trained_run.run_id, "epoch:2", "--json", "--tracking-uri", uri)
    shown = json.loads(result.output)
    directory = trained_run.store.checkpoint_directory(trained_run.run_id, "epoch_0002")
    weights = directory / "model.weights.h5"
    files = shown["manifest"]["files"]
    assert files["model.weights.h5"] == {
        "size": weights.stat().st_size,
        "digest": "sha256:" + hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    tensors = [t for t in shown["fingerprint"]["tensors"] if t["role"] == "weights"]
    with h5py.File(weights) as file:
        assert len(tensors) == 8
        for tensor in tensors:
            digest = hashlib.sha256(file[tensor["name"]][()].tobytes()).hexdigest()
            assert tensor["digest"] == f"sha256:{digest}"


def test_verify_tells_a_sound_checkpoint(trained_run: TrainedRun) -> None:
    uri = trained_run.store.uri
    result = run("verify", trained_run.run_id, "--all", "--tracking-uri", uri)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch_0001: ok", "epoch_0002: ok"]


def test_verify_names_the_damaged_file_and_exits_4(store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4), forms=("split",))
    directory = store.checkpoint_directory(run_id, "epoch_0001")
    flip_byte(directory / "architecture.yaml")
    (directory / "architecture.json").unlink()
    (directory / "notes.txt").write_text("mine")
    result = run("verify", run_id, "--all")
    first, second = result.output.splitlines()
    assert result.exit_code == 4
    assert first.startswith(
        "epoch_0001: missing architecture.json; not in the manifest notes.txt; "
        "architecture.yaml has sha256:"
    )
    assert second.startswith("epoch_0002: ok")
    (damaged, sound) = json.loads(run("verify", run_id, "--all", "--json").output)
    assert (damaged["ok"], sound["ok"]) == (False, True)
    assert damaged["missing"] == ["architecture.json"]
    assert damaged["extra"] == ["notes.txt"]
    assert [m["path"] for m in damaged["mismatched"]] == ["architecture.yaml"]


def test_verify_all_counts_an_unreadable_manifest_as_damage(local_store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    (local_store.checkpoint_directory(run_id, "epoch_0002") / "manifest.json").write_text("{")
    result = run("verify", run_id, "--all")
    assert result.exit_code == 4
    assert "epoch_0002: manifest.json is not a manifest" in result.output
