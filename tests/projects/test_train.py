"""Training through `mlflow run` and `python -m`: what the run holds, and that it is repeatable."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mlflow
import numpy as np
import pytest
from click.testing import CliRunner
from mlflow.entities import Run

import mlflow_ckpt
from devtools.stores import Store
from projects.cifar10.data import digest, load_dataset
from projects.cifar10.train import main
from tests.projects.conftest import CLASS_NAMES, ProjectRun, write_npz
from tests.support.processes import run_python
from tests.support.proxy import proxied


@pytest.fixture
def run(project: ProjectRun) -> Run:
    return mlflow.get_run(project.run_id)


def text(run: Run, name: str) -> str:
    return str(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{name}"))


def test_the_run_holds_its_parameters_as_mlflow_run_logged_them(
    run: Run, project: ProjectRun
) -> None:
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "epochs": "2",
        "batch_size": "16",
        "learning_rate": "1e-3",
        "seed": "0",
        "dataset": f"'{project.data}'",
        "forms": "full",
        "full_format": "keras",
        "save_freq": "epoch",
        "monitor": "val_loss",
        "resume_from": "''",
    }


def test_metrics_stand_at_the_number_of_completed_epochs(run: Run) -> None:
    client = mlflow.MlflowClient()
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        history = client.get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in history] == [1, 2], name


def test_the_run_knows_its_data(run: Run, project: ProjectRun) -> None:
    data = load_dataset(str(project.data))
    inputs = {entry.tags[0].value: entry.dataset for entry in run.inputs.dataset_inputs}
    assert {context: entry.digest for context, entry in inputs.items()} == {
        "train": digest(data.x_train, data.y_train),
        "eval": digest(data.x_test, data.y_test),
    }
    assert {entry.name for entry in inputs.values()} == {project.data.name}
    assert json.loads(inputs["train"].source) == {"uri": str(project.data)}
    assert run.data.tags["mlflow_ckpt.dataset"] == str(project.data)
    assert run.data.tags["mlflow_ckpt.dataset_why"] == "asked for"
    assert json.loads(text(run, "class_names.json")) == CLASS_NAMES


def test_the_run_knows_model_and_versions(run: Run) -> None:
    summary = text(run, "model_summary.txt")
    assert "Total params: 158,850" in summary
    assert "\x1b" not in summary
    environment = json.loads(text(run, "environment.json"))
    assert environment["packages"]["mlflow"] == mlflow.__version__


def test_checkpoints_carry_what_predicting_needs(run: Run, project: ProjectRun) -> None:
    first, second = mlflow_ckpt.list_checkpoints(run.info.run_id)
    assert [first.name, second.name] == ["epoch_0001", "epoch_0002"]
    assert second.manifest.metadata == {"class_names": CLASS_NAMES, "dataset": str(project.data)}


def test_the_output_tells_data_checkpoints_and_next_steps(
    project: ProjectRun, project_store: Store
) -> None:
    assert (
        f"Data set: {project.data.name} (asked for): 48 training and 16 test images of 28x28x1, "
        "2 classes"
    ) in project.output
    for name in ("epoch_0001", "epoch_0002"):
        assert f"Saved checkpoint {name}" in project.output
    assert f"mlflow ui --backend-store-uri {project_store.uri}\n" in project.output
    assert f"mlflow-ckpt list {project.run_id}\n" in project.output
    assert f"mlflow-ckpt restore {project.run_id} --output restored\n" in project.output


TRAIN_WITH_SEEDS = """
import sys
from projects.cifar10.train import main
data, *seeds = sys.argv[1:]
for seed in seeds:
    main(["--batch-size", "16", "--dataset", data, "--seed", seed], standalone_mode=False)
"""


@pytest.mark.long
def test_the_seed_decides_the_weights(project: ProjectRun, tmp_path: Path) -> None:
    """Train again as `project_run` did, in another process, and then with another seed."""
    done = run_python(TRAIN_WITH_SEEDS, str(project.data), "0", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    same, other = re.findall(r"Run (\w{32}) holds 2 checkpoints", done.stdout)
    first, same, other = (
        mlflow_ckpt.fingerprint(mlflow_ckpt.load_model(run_id)).weights_digest
        for run_id in (project.run_id, same, other)
    )
    assert same == first
    assert other != first


def refused(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--epochs", "0", "0 is not in the range x>=1."),
        ("--epochs", "two", "'two' is not a valid integer range."),
        ("--batch-size", "-1", "-1 is not in the range x>=1."),
        ("--learning-rate", "0", "expected a number above 0. Received: '0'"),
        ("--learning-rate", "nan", "expected a number above 0. Received: 'nan'"),
        ("--learning-rate", "inf", "expected a number above 0. Received: 'inf'"),
        ("--learning-rate", "fast", "expected a number above 0. Received: 'fast'"),
        ("--seed", "-1", "-1 is not in the range 0<=x<=4294967295."),
        ("--forms", "half", "expected full, split or full,split. Received: 'half'"),
        ("--forms", "full,full", "expected full, split or full,split. Received: 'full,full'"),
        ("--full-format", "zip", "'zip' is not one of 'keras', 'h5'."),
        (
            "--save-freq",
            "0",
            "expected epoch or a whole number of batches from 1. Received: '0'",
        ),
        (
            "--save-freq",
            "day",
            "expected epoch or a whole number of batches from 1. Received: 'day'",
        ),
    ],
)
def test_a_bad_parameter_is_one_sentence(option: str, value: str, problem: str) -> None:
    assert refused(option, value) == (2, f"Error: Invalid value for '{option}': {problem}")


def count_runs() -> int:
    return len(mlflow.search_runs(output_format="list"))


def test_bad_data_leaves_no_run_behind(project: ProjectRun, tmp_path: Path) -> None:
    before = count_runs()
    small = np.zeros((48, 16, 16), np.uint8)
    path = write_npz(tmp_path / "small.npz", x_train=small, x_test=small[:16])
    assert refused("--dataset", str(path)) == (
        1,
        "Error: The images are too small for this network: expected at least 22x22 pixels. "
        "Received: 16x16; enlarge them first",
    )
    assert count_runs() == before


def test_a_run_of_another_training_is_not_mixed_up(
    project: ProjectRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mlflow.start_run() as other:
        mlflow.log_param("epochs", 7)
    monkeypatch.setenv("MLFLOW_RUN_ID", other.info.run_id)
    assert refused("--dataset", str(project.data)) == (
        1,
        f"Error: The run {other.info.run_id} already holds another value of epochs: expected 7. "
        "Received: epochs=2; unset MLFLOW_RUN_ID to train in a new run",
    )


TRAIN_IMPATIENTLY = """
import functools, sys
import mlflow_ckpt
from projects.cifar10.train import main
mlflow_ckpt.MlflowCheckpoint = functools.partial(mlflow_ckpt.MlflowCheckpoint, drain_timeout=0.5)
main(["--epochs", "1", "--batch-size", "16", "--dataset", sys.argv[1]])
"""


@pytest.mark.parametrize("temporary", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_training_that_loses_data_does_not_end_normally(
    temporary: bool, server: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if temporary:
        request.getfixturevalue("spool_below_a_file")
    with proxied(server) as proxy:
        proxy.mode, proxy.only = "fail", "checkpoints"
        data = write_npz(tmp_path / "data.npz")
        done = run_python(TRAIN_IMPATIENTLY, str(data), cwd=tmp_path)
    assert "NOT EVERYTHING OF RUN" in done.stderr
    last = done.stderr.splitlines()[-1]
    lost = re.fullmatch(
        r"Error: Not everything of run \w{32} was sent, and the rest will be lost: see the warning "
        r"above\.",
        last,
    )
    # What waits in a spool that stays is not lost.
    assert (done.returncode, bool(lost)) == ((1, True) if temporary else (0, False)), done.stderr
