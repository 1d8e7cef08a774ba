"""Judging a checkpoint."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pytest
from click.testing import CliRunner, Result

from projects.cifar10.evaluate import main
from tests.projects.conftest import ProjectRun, write_npz


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_checkpoint_scores_what_training_measured(project: ProjectRun, epoch: int) -> None:
    result = evaluate("--run-id", project.run_id, "--checkpoint", str(epoch))
    assert result.exit_code == 0, result.stderr

    history = mlflow.MlflowClient().get_metric_history
    (run,) = mlflow.search_runs(
        filter_string=f"tags.`mlflow_ckpt.source_checkpoint` = 'epoch_{epoch:04}'",
        output_format="list",
    )
    assert run.data.tags["mlflow_ckpt.source_run"] == project.run_id
    assert run.data.params["dataset"] == "same"
    for name in ("loss", "accuracy"):
        (measured,) = history(run.info.run_id, name)
        trained = history(project.run_id, f"val_{name}")[epoch - 1]
        assert measured.step == epoch
        assert measured.value == pytest.approx(trained.value, rel=1e-5)
        assert f"  {name}: {measured.value:.4f}\n" in result.stdout
    assert f"Checkpoint epoch_{epoch:04} of run {project.run_id}:\n" in result.stdout
    (judged,) = run.inputs.dataset_inputs
    assert judged.dataset.name == project.data.name


def test_other_data_and_a_reference(project: ProjectRun, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "other.npz")
    result = evaluate("--run-id", f"ckpt:/{project.run_id}/best", "--dataset", str(path))
    assert result.exit_code == 0, result.stderr
    assert "Data set: other.npz (asked for)" in result.stdout


def test_data_that_does_not_fit_is_one_sentence(project: ProjectRun, tmp_path: Path) -> None:
    large = np.zeros((48, 30, 30), np.uint8)
    path = write_npz(tmp_path / "large.npz", x_train=large, x_test=large[:16])
    result = evaluate("--run-id", project.run_id, "--dataset", str(path))
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: The model does not take the images of large.npz: expected shape (28, 28, 1). "
        "Received: (30, 30, 1)\n",
    )
    path = write_npz(tmp_path / "three.npz", class_names=np.array(["a", "b", "c"]))
    result = evaluate("--run-id", project.run_id, "--dataset", str(path))
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: The model does not know the classes of three.npz: expected 2 classes. "
        "Received: 3\n",
    )


def test_an_unknown_run_or_checkpoint_is_one_sentence(project: ProjectRun) -> None:
    for arguments in (("--run-id", "nosuch"), ("--run-id", project.run_id, "--checkpoint", "9")):
        result = evaluate(*arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
