"""`mlflow-ckpt resume` and the chain in `list`: what is refused, printed and started."""

from __future__ import annotations

import json
import os
from pathlib import Path

import mlflow
import pytest

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt._tracking.store import RunStore
from tests.support.checkpoints import flip_byte, put_checkpoint, save_run
from tests.support.cli import run, run_process
from tests.support.training import fit, new_run, trained

pytestmark = pytest.mark.usefixtures("local_store")

MLPROJECT = """
name: small
entry_points:
  main:
    parameters:
      epochs: {type: float, default: 2}
      PARAMETER: {type: string, default: ""}
      note: {type: string, default: ""}
    command: "python train.py {epochs} {PARAMETER} {note}"
"""
# Prints its arguments, instead of training.
TRAIN = """
import os, sys, mlflow
print("TRAINS", sys.argv[1:], os.environ["MLFLOW_RUN_ID"], "TF_CPP_MIN_LOG_LEVEL" in os.environ)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "a project"
    directory.mkdir()
    (directory / "MLproject").write_text(MLPROJECT.replace("PARAMETER", "resume_from"))
    (directory / "train.py").write_text(TRAIN)
    return directory


def made_by(project: Path, **tags: str) -> str:
    """A trained run that looks as if `mlflow run` had made it."""
    run_id = trained()
    client = mlflow.MlflowClient()
    tags = {
        "mlflow.source.type": "PROJECT",
        "mlflow.source.name": project.as_uri(),
        "mlflow.project.entryPoint": "main",
    } | {name.replace("__", "."): value for name, value in tags.items()}
    for name, value in tags.items():
        client.set_tag(run_id, name, value)
    client.log_param(run_id, "epochs", "2")
    client.log_param(run_id, "note", "'two words'")
    client.log_param(run_id, "other", "not the project's")
    return run_id


# The project's own test starts a new run.
@pytest.mark.parametrize("in_place", [pytest.param(False, marks=pytest.mark.long), True])
def test_the_project_is_started_again(project: Path, in_place: bool) -> None:
    run_id = made_by(project)
    arguments = ["--yes", *(["--in-place"] if in_place else [])]
    ended = run_process("resume", run_id, "--epochs", "5", *arguments)
    assert ended.returncode == 0, ended.stderr
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("TRAINS")]
    assert line.startswith(f"TRAINS ['5', '{run_id}', 'two words'] ")
    assert (run_id in line.rpartition("]")[2]) == in_place
    where = "in the same run" if in_place else "in a new run"
    assert f"Resuming from epoch_0002 of run {run_id} {where}, up to epoch 5:" in ended.stdout
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        assert line.endswith("False")


@pytest.mark.long
def test_a_checkpoint_other_than_the_latest_is_passed_by_its_name(project: Path) -> None:
    run_id = made_by(project)
    ended = run_process("resume", run_id, "--checkpoint", "1", "--epochs", "2", "--yes")
    assert f"'ckpt:/{run_id}/epoch_0001'" in ended.stdout


@pytest.mark.long
def test_a_project_elsewhere(project: Path, tmp_path: Path) -> None:
    run_id = made_by(project, mlflow__source__name="file:///nowhere/any/more")
    refused = run("resume", run_id, "--epochs", "3")
    assert refused.exit_code == 7
    assert "Pass its current location: --project." in refused.output
    ended = run_process("resume", run_id, "--epochs", "3", "--yes", "--project", project)
    assert "TRAINS" in ended.stdout, ended.stderr


def test_a_project_that_cannot_resume(project: Path) -> None:
    (project / "MLproject").write_text(MLPROJECT.replace("PARAMETER", "other"))
    refused = run("resume", made_by(project), "--epochs", "3")
    assert refused.exit_code == 2
    assert "has no parameter 'resume_from'" in refused.output


def test_a_run_that_no_project_made_gets_the_lines_that_resume_it() -> None:
    run_id = trained()
    shown = run("resume", run_id, "--epochs", "3", "--checkpoint", "best", "--in-place")
    assert shown.exit_code == 0
    lines = [line.strip() for line in shown.output.splitlines()]
    assert (
        f"point = mlflow_ckpt.resume('{run_id}', 'epoch_0002', callbacks=[...], in_place=True)"
        in lines
    )
    assert "epochs=3," in shown.output
    assert "set_tracking_uri" not in shown.output


def test_those_lines_load_the_checkpoint_and_name_the_server_that_were_asked_for(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    best = ("--checkpoint", "best", "--monitor", "val_loss", "--mode", "max")
    shown = run("resume", run_id, "--epochs", "3", *best, "--tracking-uri", local_store.uri)
    assert (
        "  import mlflow, mlflow_ckpt\n"
        f"  mlflow.set_tracking_uri('{local_store.uri}')\n"
        f"  point = mlflow_ckpt.resume('{run_id}', 'epoch_0001', callbacks=[...])\n"
    ) in shown.output


def test_what_waits_in_the_spool_is_sent_first() -> None:
    run_id = new_run()
    put_checkpoint(run_id, RunStore(run_id).tracking_uri)
    shown = run("resume", run_id, "--epochs", "3")
    assert f"To resume epoch_0001 of run {run_id} in a new run" in shown.output


def test_a_damaged_checkpoint_of_the_last_epoch_is_no_reason_to_refuse(local_store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    flip_byte(local_store.checkpoint_directory(run_id, "epoch_0002") / "data" / "model.keras")
    shown = run("resume", run_id, "--epochs", "2")
    assert f"To resume epoch_0001 of run {run_id} in a new run" in shown.output


def test_nothing_left_to_train() -> None:
    refused = run("resume", trained(), "--epochs", "2")
    assert refused.exit_code == 2
    assert "is of epoch 2. Expected --epochs" in refused.output


def test_a_run_without_checkpoints() -> None:
    run_id = new_run()
    refused = run("resume", run_id, "--epochs", "2")
    assert refused.exit_code == 3
    assert "has no checkpoints" in refused.output


def test_list_shows_the_chain() -> None:
    first = trained()
    runs = [first]
    for epochs in (3, 4):
        point = mlflow_ckpt.resume(runs[-1])
        fit(point.model, *point.callbacks, initial_epoch=point.initial_epoch, epochs=epochs)
        run_ = mlflow.last_active_run()
        assert run_ is not None
        runs.append(run_.info.run_id)
    _, second, third = runs
    assert (
        f"Resumed from ckpt:/{second}/epoch_0003 <- ckpt:/{first}/epoch_0002\n"
        in run("list", third).output
    )
    shown = run("list", second).output
    assert f"Resumed from ckpt:/{first}/epoch_0002\n" in shown
    assert f"Resumed by {third}, from epoch_0003\n" in shown
    listing = json.loads(run("list", first, "--json").output)
    assert listing["resumed_by"] == [{"run_id": second, "checkpoint": "epoch_0002"}]
    assert listing["resumed_from"] == []
