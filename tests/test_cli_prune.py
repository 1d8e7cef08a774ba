"""What `mlflow-ckpt prune` does, and its output as text and as JSON."""

from __future__ import annotations

import json

import mlflow
import pytest
from rich.filesize import decimal

import mlflow_ckpt
from devtools.stores import Store, free_port
from tests.support.checkpoints import save_run
from tests.support.cli import run
from tests.support.training import new_run

FIVE = (0.5, 0.1, 0.4, 0.3, 0.2)
NAMES = [f"epoch_{epoch:04d}" for epoch in range(1, 6)]


def names(run_id: str) -> list[str]:
    return [checkpoint.name for checkpoint in mlflow_ckpt.list_checkpoints(run_id)]


def sizes(run_id: str) -> dict[str, int]:
    return {
        checkpoint.name: checkpoint.manifest.size
        for checkpoint in mlflow_ckpt.list_checkpoints(run_id)
    }


def test_a_row_a_checkpoint_and_one_sentence(store: Store, request: pytest.FixtureRequest) -> None:
    run_id = save_run(losses=FIVE)
    model = f"mine {request.node.name}"
    mlflow.register_model(f"runs:/{run_id}/checkpoints/epoch_0003", model)
    size = sizes(run_id)
    rows = [
        f"epoch_0001   {decimal(size['epoch_0001'])}   remove",
        f"epoch_0002   {decimal(size['epoch_0002'])}   keep: best",
        f"epoch_0003   {decimal(size['epoch_0003'])}   keep: registered as {model} version 1",
        f"epoch_0004   {decimal(size['epoch_0004'])}   remove",
        f"epoch_0005   {decimal(size['epoch_0005'])}   keep: policy, latest",
    ]
    freed = decimal(size["epoch_0001"] + size["epoch_0004"])
    tried = run("prune", run_id, "--keep-last", "1", "--dry-run")
    head, line, *table = tried.output.splitlines()
    assert head.split() == ["checkpoint", "size", "decision"]
    assert set(line) == {"─"}
    assert table == [*rows, "", f"Would remove 2 checkpoints of run {run_id} and free {freed}."]
    assert names(run_id) == NAMES
    done = run("prune", run_id, "--keep-last", "1")
    assert done.output.splitlines()[:-1] == tried.output.splitlines()[:-1]
    last = done.output.splitlines()[-1]
    assert last == f"Removed 2 checkpoints of run {run_id}, freed {freed}."
    assert (tried.exit_code, done.exit_code) == (0, 0)
    assert names(run_id) == ["epoch_0002", "epoch_0003", "epoch_0005"]


@pytest.mark.parametrize(
    ("options", "removed"),
    [
        ("--keep-last 3", ["epoch_0001"]),
        ("--keep-best 3", ["epoch_0001", "epoch_0003"]),
        ("--keep-every 2", ["epoch_0001", "epoch_0003"]),
        ("--keep-every 3 --keep-best 2", ["epoch_0001", "epoch_0004"]),
        ("--keep-best 1 --monitor val_loss --mode max", ["epoch_0003", "epoch_0004"]),
        ("--keep-last 9", []),
    ],
)
def test_as_json(local_store: Store, options: str, removed: list[str]) -> None:
    run_id = save_run(losses=FIVE)
    size = sizes(run_id)
    result = run("prune", run_id, *options.split(), "--json")
    report = json.loads(result.output)
    assert result.exit_code == 0
    assert report["run_id"] == run_id
    assert report["dry_run"] is False
    assert report["removed"] == removed
    assert report["freed"] == sum(size[name] for name in removed)
    assert {c["name"]: c["size"] for c in report["checkpoints"]} == size
    assert [c["name"] for c in report["checkpoints"] if not c["kept_because"]] == removed
    assert report["checkpoints"][1]["kept_because"][-1] == "best"
    assert report["damaged"] == []
    assert names(run_id) == [name for name in NAMES if name not in removed]


def test_one_and_none_are_counted_in_words(local_store: Store) -> None:
    run_id = save_run(losses=(0.1, 0.5, 0.3))
    size = decimal(sizes(run_id)["epoch_0002"])
    lines = [run("prune", run_id, "--keep-last", "1").output.splitlines()[-1] for _ in range(2)]
    assert lines == [
        f"Removed 1 checkpoint of run {run_id}, freed {size}.",
        f"Removed 0 checkpoints of run {run_id}, freed 0 bytes.",
    ]


def test_a_damaged_checkpoint_is_named(local_store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    (local_store.checkpoint_directory(run_id, "epoch_0001") / "manifest.json").write_text("{")
    result = run("prune", run_id, "--keep-last", "1")
    assert "\nepoch_0001: damaged, and left alone.\nRemoved 0 checkpoints" in result.output
    (local_store.checkpoint_directory(run_id, "epoch_0002") / "manifest.json").write_text("{")
    result = run("prune", run_id, "--keep-last", "1")
    assert (result.exit_code, result.output) == (
        0,
        "epoch_0001: damaged, and left alone.\nepoch_0002: damaged, and left alone.\n"
        f"Removed 0 checkpoints of run {run_id}, freed 0 bytes.\n",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "Specify what to keep: --keep-last N, --keep-best N, --keep-every N."),
        ("--dry-run", "Specify what to keep: --keep-last N, --keep-best N, --keep-every N."),
        (
            "--keep-last 1 --monitor val_loss",
            "--monitor and --mode require --keep-best N.",
        ),
        ("--mode min", "--monitor and --mode require --keep-best N."),
        ("--keep-last 0", "Invalid value for '--keep-last': 0 is not in the range x>=1."),
        ("--keep-best x", "Invalid value for '--keep-best': 'x' is not a valid integer range."),
    ],
)
def test_options_that_make_no_sense(local_store: Store, options: str, message: str) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    result = run("prune", run_id, *options.split())
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == f"Error: {message}"
    assert len(names(run_id)) == 2


def test_one_checkpoint_is_no_run(local_store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4, 0.3))
    result = run("prune", f"ckpt:/{run_id}/epoch:1", "--keep-last", "1")
    assert (result.exit_code, result.output) == (
        2,
        "Error: Expected a run, because pruning considers all its checkpoints. Received one "
        f"checkpoint: 'ckpt:/{run_id}/epoch:1'. Pass only the run id: {run_id}\n",
    )
    assert len(names(run_id)) == 3
    assert run("prune", f"ckpt:/{run_id}", "--keep-last", "1").exit_code == 0


def test_a_metric_that_was_never_logged(local_store: Store) -> None:
    run_id = save_run(losses=FIVE)
    result = run("prune", run_id, "--keep-best", "1", "--monitor", "val_auc")
    assert (result.exit_code, result.output) == (
        3,
        "Error: No checkpoint of the run recorded the metric 'val_auc', so the best checkpoints "
        "cannot be determined. Choose another metric: monitor=… (--monitor); recorded: val_loss.\n",
    )
    assert names(run_id) == NAMES


def test_an_unknown_run_and_one_without_checkpoints(http_store: Store) -> None:
    result = run("prune", "0" * 32, "--keep-last", "1")
    assert result.exit_code == 3
    assert result.output.startswith(f"Error: There is no run '{'0' * 32}' at {http_store.uri}.")
    run_id = new_run()
    result = run("prune", run_id, "--keep-last", "1")
    assert (result.exit_code, result.output) == (
        3,
        f"Error: The run {run_id} has no checkpoints. "
        "Train with mlflow_ckpt.MlflowCheckpoint() among the callbacks.\n",
    )


def test_a_registry_that_does_not_answer(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = save_run(losses=FIVE)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"http://127.0.0.1:{free_port()}")
    result = run("prune", run_id, "--keep-last", "1")
    assert result.exit_code == 7
    assert result.output.startswith(
        "Error: Nothing was removed: it is unknown which checkpoints registered models use. "
    )
    assert result.output.count("\n") == 1
    monkeypatch.delenv("MLFLOW_REGISTRY_URI")
    assert names(run_id) == NAMES
