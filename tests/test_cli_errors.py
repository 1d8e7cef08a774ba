"""Bad input at the command line: one clear sentence, an exit code of its kind, no traceback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import keras
import pytest

from devtools.stores import Store, free_port
from mlflow_ckpt._cli import main
from tests.support.checkpoints import save_run
from tests.support.cli import run, run_process
from tests.support.training import new_run
from tests.support.waiting import PATIENCE_SECONDS

READERS = [
    ["list", "{run}"],
    ["show", "{run}"],
    ["verify", "{run}"],
    ["restore", "{run}", "--output", "{tmp}/out"],
]


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_an_unknown_run(http_store: Store, command: list[str], tmp_path: Path) -> None:
    result = run(*(part.format(run="0" * 32, tmp=tmp_path) for part in command))
    assert (result.exit_code, result.output) == (
        3,
        f"Error: There is no run '{'0' * 32}' at {http_store.uri}. Expected a run id as the MLflow "
        "UI shows it. Is it the right server (--tracking-uri, MLFLOW_TRACKING_URI)?\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_a_run_without_checkpoints(store: Store, command: list[str], tmp_path: Path) -> None:
    run_id = new_run()
    result = run(*(part.format(run=run_id, tmp=tmp_path) for part in command))
    assert (result.exit_code, result.output) == (
        3,
        f"Error: The run {run_id} has no checkpoints. "
        "Train with mlflow_ckpt.MlflowCheckpoint() among the callbacks.\n",
    )


def test_an_unknown_epoch(store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    result = run("show", run_id, "7")
    assert (result.exit_code, result.output) == (
        3,
        f"Error: The run {run_id} has no checkpoint epoch_0007. It has: epoch_0001, epoch_0002.\n",
    )


@pytest.mark.parametrize("selector", ["newest", "epoch:", "step:x", "epoch:-1", "1.5", ""])
def test_a_selector_that_does_not_parse(local_store: Store, selector: str) -> None:
    run_id = save_run()
    result = run("restore", run_id, "--checkpoint", selector)
    assert (result.exit_code, result.output) == (
        2,
        f"Error: The checkpoint selector {selector!r} was not understood. Expected 'latest', "
        "'best', an epoch such as '3' or 'epoch:3', or a step: 'step:1500'.\n",
    )


def test_best_by_a_metric_that_was_never_logged(local_store: Store) -> None:
    run_id = save_run()
    result = run("verify", run_id, "--checkpoint", "best", "--monitor", "val_auc")
    assert (result.exit_code, result.output) == (
        3,
        "Error: No checkpoint of the run recorded the metric 'val_auc'. Recorded: val_loss.\n",
    )


def test_a_manifest_of_a_newer_schema(local_store: Store) -> None:
    run_id = save_run()
    path = local_store.checkpoint_directory(run_id, "epoch_0001") / "manifest.json"
    content = json.loads(path.read_text())
    content["schema_version"] = 99
    path.write_text(json.dumps(content))
    result = run("show", run_id, "1")
    assert (result.exit_code, result.output) == (
        4,
        f"Error: The checkpoint epoch_0001 of run {run_id}: The manifest has schema version 99; "
        "this mlflow_ckpt reads up to 1. Install a newer mlflow-ckpt.\n",
    )


def test_a_class_that_is_not_known_here(
    local_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_layers.py").write_text(
        "import keras\n\n\nclass Doubling(keras.layers.Layer):\n"
        "    def call(self, x):\n        return 2 * x\n"
    )

    class Doubling(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    run_id = save_run(keras.Sequential([keras.Input((2,)), Doubling(), keras.layers.Dense(1)]))
    arguments = ["restore", run_id, "--form", "split", "--output", tmp_path / "out"]
    result = run(*arguments)
    assert result.exit_code == 5
    assert "Error: The architecture names 'Doubling', which is not known here." in result.stderr
    assert "custom_objects={'Doubling': Doubling}" in result.stderr
    assert "--custom-objects MODULE" in result.stderr
    assert not (tmp_path / "out").exists()
    result = run(*arguments, "--custom-objects", "my_layers")
    assert result.exit_code == 0, result.stderr


def test_custom_objects_of_a_module_that_is_not_there(local_store: Store, tmp_path: Path) -> None:
    run_id = save_run()
    result = run("restore", run_id, "--custom-objects", "nowhere", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert result.output.startswith(
        "Error: The module 'nowhere' for --custom-objects cannot be imported: "
        "ModuleNotFoundError: No module named 'nowhere'."
    )


@pytest.mark.parametrize("run_id", ['x"y; drop', "ünïcödé", "a\nb", "-"])
def test_a_run_id_with_characters_that_none_has(store: Store, run_id: str) -> None:
    result = run("list", "--", run_id)
    assert result.exit_code == 3
    assert result.output.startswith("Error: There is no run ")


def test_output_to_a_full_disk(local_store: Store) -> None:
    run_id = save_run()
    with Path("/dev/full").open("w") as full:
        result = run_process("list", run_id, stdout=full)
    assert result.returncode == 6
    assert result.stderr.startswith("Error: The output cannot be written: ")
    assert "Traceback" not in result.stderr


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_a_server_that_does_not_answer(
    kind: str, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://127.0.0.1:{silent_port if kind == 'silent' else free_port()}"
    result = run_process("list", "0" * 32, "--tracking-uri", uri)
    assert result.returncode == 7
    assert result.stderr == (
        f"Error: The tracking server at {uri} does not answer (tried to find the run). "
        "Check that it runs, and the URI (--tracking-uri, MLFLOW_TRACKING_URI).\n"
    )


def test_no_database_is_made_where_none_was(tmp_path: Path) -> None:
    result = run_process(
        "list", "0" * 32, "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db", cwd=tmp_path
    )
    assert result.returncode == 7
    assert result.stderr.startswith(f"Error: There is no tracking database {tmp_path}/mlflow.db.")
    assert list(tmp_path.iterdir()) == []


def test_a_tracking_uri_of_an_unknown_kind(tmp_path: Path) -> None:
    result = run_process("list", "0" * 32, "--tracking-uri", "ftp://somewhere", cwd=tmp_path)
    assert result.returncode == 7
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1


def test_every_command_has_help_and_a_place_in_the_documentation() -> None:
    documentation = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    assert isinstance(main, click.Group)
    for name, command in main.commands.items():
        assert command.help, name
        assert f"## {name}" in documentation
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help or parameter.name == "batch_size", (name, parameter.name)
                assert parameter.opts[0] in documentation, (name, parameter.opts)


def test_the_console_script_is_installed() -> None:
    script = Path(sys.executable).with_name("mlflow-ckpt")
    result = subprocess.run(
        [script, "--version"], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    assert result.stdout.startswith("mlflow-ckpt, version ")
