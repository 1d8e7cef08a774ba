"""Asking a checkpoint about image files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import mlflow_ckpt
from projects.cifar10.data import load_dataset
from projects.cifar10.predict import main
from tests.projects.conftest import ProjectRun
from tests.support.training import new_run


def predict(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def images(project: ProjectRun, tmp_path: Path) -> Path:
    """The first two test images, dark and bright, as files."""
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = load_dataset(str(project.data)).x_test[..., 0]
    Image.fromarray(pixels[0]).save(folder / "dark.png")
    Image.fromarray(pixels[1]).save(folder / "very bright.png")
    return folder


def expected(project: ProjectRun) -> np.ndarray:
    model = mlflow_ckpt.load_model(project.run_id)
    return np.asarray(model.predict(load_dataset(str(project.data)).x_test[:2], verbose=0))


def test_a_table_of_files_classes_and_probabilities(project: ProjectRun, images: Path) -> None:
    result = predict("--run-id", project.run_id, "--input", str(images), "--top", "1")
    assert result.exit_code == 0, result.stderr
    dark, bright = expected(project)
    wide = len(str(images / "very bright.png"))
    names = ["dark", "bright"]
    first, second = names[int(dark.argmax())], names[int(bright.argmax())]
    longest = max(len(first), len(second))
    assert result.stdout == (
        f"Checkpoint epoch_0002 of run {project.run_id}:\n"
        f"  {images / 'dark.png'!s:{wide}}  {first:{longest}}  {dark.max():.4f}\n"
        f"  {images / 'very bright.png'}  {second:{longest}}  {bright.max():.4f}\n"
    )


def test_output_files_hold_every_class(project: ProjectRun, images: Path, tmp_path: Path) -> None:
    as_csv, as_json = tmp_path / "out.csv", tmp_path / "out.jsonl"
    for output in (as_csv, as_json):
        result = predict(
            *("--run-id", project.run_id, "--input", str(images / "dark.png")),
            *("--output", str(output)),
        )
        assert result.exit_code == 0, result.stderr
        assert result.stdout.endswith(f"Written to {output}.\n")
    rows = [json.loads(line) for line in as_json.read_text().splitlines()]
    dark = expected(project)[0]
    assert [row["rank"] for row in rows] == [1, 2]
    for row in rows:
        index = ["dark", "bright"].index(row["class_name"])
        assert row["probability"] == pytest.approx(float(dark[index]), rel=1e-5)
    with as_csv.open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {key: str(value) for key, value in row.items()} for row in rows
        ]


def test_the_run_of_the_entry_point_notes_the_checkpoint(
    project: ProjectRun, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = new_run()
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    reference = f"ckpt:/{project.run_id}/epoch:1"
    result = predict("--run-id", reference, "--input", str(images))
    assert result.exit_code == 0, result.stderr
    tags = mlflow.get_run(run_id).data.tags
    assert tags["mlflow_ckpt.source_run"] == project.run_id
    assert tags["mlflow_ckpt.source_checkpoint"] == "epoch_0001"


def test_bad_input_is_one_sentence(project: ProjectRun, images: Path, tmp_path: Path) -> None:
    text = tmp_path / "cat.png"
    text.write_text("meow")
    one = str(images / "dark.png")
    for arguments, sentence in (
        (
            ("--input", str(text)),
            f"{text} is not an image: expected a file that Pillow can open, such as .png or .jpg.",
        ),
        (
            ("--input", one, "--output", "out.txt"),
            "The format of output is unknown: expected a name in .csv or .jsonl. "
            "Received: output=out.txt",
        ),
        (
            ("--input", one, "--output", str(tmp_path / "no" / "out.csv")),
            f"There is no folder {tmp_path / 'no'} to write output to.",
        ),
    ):
        result = predict("--run-id", project.run_id, *arguments)
        assert (result.exit_code, result.stderr) == (1, f"Error: {sentence}\n")
