"""The project goes on from a checkpoint as if it had never stopped."""

from __future__ import annotations

from pathlib import Path

import keras
import mlflow
import pytest
from click.testing import CliRunner

import mlflow_ckpt
from projects.cifar10.settings import Settings
from projects.cifar10.train import main
from tests.projects.conftest import ProjectRun, run_module


def test_mlflow_run_goes_on_with_the_parameters_of_the_run(
    project: ProjectRun, tmp_path: Path
) -> None:
    keras.utils.clear_session()  # layers are named as in a new process
    whole = CliRunner().invoke(
        main, ["--dataset", str(project.data), "--batch-size", "16", "--epochs", "3"]
    )
    assert whole.exit_code == 0, whole.output
    straight = mlflow.last_active_run()
    ended = run_module(
        *("mlflow_ckpt._cli", "resume", project.run_id, "--epochs", "3", "--yes"), cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    assert straight is not None
    (child,) = mlflow.search_runs(
        filter_string=f"tags.`mlflow_ckpt.resumed_from` = '{project.run_id}/epoch_0002'",
        output_format="list",
        search_all_experiments=True,
    )
    assert mlflow_ckpt.diff(straight.info.run_id, child.info.run_id).identical
    # `mlflow run` logged its own default; what counts is what the first run had.
    assert child.data.params["resume_from"] == project.run_id
    assert child.data.params["batch_size"] == "16"
    assert child.data.tags["mlflow.parentRunId"] == project.run_id


@pytest.mark.usefixtures("project")
def test_epochs_must_be_more(project: ProjectRun) -> None:
    refused = CliRunner().invoke(main, ["--resume-from", project.run_id, "--epochs", "2"])
    assert refused.exit_code == 1
    assert "is of epoch 2: expected epochs, the number in all, to be greater" in refused.output


def test_what_is_left_at_its_default_is_taken_from_the_run() -> None:
    recorded = {"batch_size": "128", "seed": "7", "dataset": "auto", "forms": "full,split"}
    settings = Settings(epochs=9, seed=3)
    continued = settings.continued({**recorded, "save_freq": "'50'"}, "digits")
    assert continued == Settings(
        epochs=9,
        batch_size=128,
        seed=3,
        dataset="digits",
        forms=("full", "split"),
        save_freq=50,
    )
