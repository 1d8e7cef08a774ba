"""Classify image files with any checkpoint.

python -m projects.cifar10.predict --run-id RUN --input cat.png
"""

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import mlflow
import numpy as np
from numpy.typing import NDArray

import mlflow_ckpt
from projects.cifar10.errors import UserError, plain_errors
from projects.cifar10.images import MODES, find_images, read_images
from projects.cifar10.options import batch_size_option, checkpoint_option, run_id_option
from projects.cifar10.record import SOURCE_CHECKPOINT_TAG, SOURCE_RUN_TAG

FORMATS = (".csv", ".jsonl")


@dataclass(frozen=True)
class Guess:
    """One class that an image may show.

    Attributes:
        file: The image.
        rank: 1 for the likeliest class.
        class_name: Its name.
        probability: 0..1.
    """

    file: str
    rank: int
    class_name: str
    probability: float


@click.command(context_settings={"show_default": True})
@run_id_option
@checkpoint_option
@click.option(
    "--input", "given", required=True, help="An image, several separated by commas, or a folder."
)
@click.option("--top", type=click.IntRange(min=1), default=3, help="Classes to show per image.")
@click.option("--output", default="", help="Also write a .csv or .jsonl file.")
@batch_size_option
@plain_errors
def main(run_id: str, checkpoint: str, given: str, top: int, output: str, batch_size: int) -> None:
    """Show the likeliest classes of image files."""
    check_output(output)
    files = find_images(given)
    found = mlflow_ckpt.get_checkpoint(run_id, checkpoint)
    # Weights and architecture are all that inference needs.
    model = mlflow_ckpt.load_model(found.run_id, found.name, form="split")
    images = read_images(files, image_shape(model.input_shape))

    probabilities = model.predict(images, batch_size=batch_size, verbose=0)
    guesses = rank(files, probabilities, class_names(found, probabilities.shape[1]), top)

    click.echo(f"Checkpoint {found.name} of run {found.run_id}:")
    click.echo(table(guesses))
    if output:
        write(guesses, Path(output))
        click.echo(f"Written to {output}.")
    record(found)


def check_output(output: str) -> None:
    """Refuse an output file that could not be written, before any work is done.

    Raises:
        UserError: Its suffix is unknown or its folder does not exist.
    """
    if not output:
        return
    path = Path(output)
    if path.suffix not in FORMATS:
        raise UserError(
            f"The format of output is unknown: expected a name in {' or '.join(FORMATS)}. "
            f"Received: output={output}"
        )
    if not path.absolute().parent.is_dir():
        raise UserError(f"There is no folder {path.absolute().parent} to write output to.")


def image_shape(input_shape: Any) -> tuple[int, int, int]:
    """Read (height, width, channels) from a model's input shape.

    Raises:
        UserError: The model does not take images of one size.
    """
    if not isinstance(input_shape, tuple) or len(input_shape) != 4 or None in input_shape[1:]:
        raise UserError(
            f"The model does not take images of one size: expected input (N, height, width, "
            f"channels). Received: {input_shape}"
        )
    height, width, channels = input_shape[1:]
    if channels not in MODES:
        raise UserError(
            f"The model does not take grey, RGB or RGBA images: expected 1, 3 or 4 channels. "
            f"Received: {channels}"
        )
    return height, width, channels


def class_names(checkpoint: mlflow_ckpt.Checkpoint, classes: int) -> list[str]:
    """Name the model's classes as the checkpoint does, or by their numbers."""
    names = checkpoint.manifest.metadata.get("class_names")
    if isinstance(names, list) and len(names) == classes:
        return [str(name) for name in names]
    return [str(number) for number in range(classes)]


def rank(
    files: list[Path], probabilities: NDArray[np.float32], names: list[str], top: int
) -> list[Guess]:
    """List the `top` likeliest classes of every image.

    Args:
        files: The images.
        probabilities: (N, classes), float32.
        names: Name of every class.
        top: How many classes to list; all when there are fewer.
    """
    return [
        Guess(str(file), place + 1, names[number], float(row[number]))
        for file, row in zip(files, probabilities, strict=True)
        for place, number in enumerate(np.argsort(-row, kind="stable")[:top])
    ]


def table(guesses: list[Guess]) -> str:
    """Lay the guesses out in columns; a file's name stands beside its first guess."""
    wide = max(len(guess.file) for guess in guesses)
    name = max(len(guess.class_name) for guess in guesses)
    return "\n".join(
        f"  {guess.file if guess.rank == 1 else '':{wide}}  "
        f"{guess.class_name:{name}}  {guess.probability:.4f}"
        for guess in guesses
    )


def write(guesses: list[Guess], path: Path) -> None:
    """Write the guesses as CSV or as JSON lines, by the suffix of `path`.

    Raises:
        UserError: The file cannot be written.
    """
    rows = [vars(guess) for guess in guesses]
    text = io.StringIO()
    if path.suffix == ".csv":
        writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        text.writelines(json.dumps(row) + "\n" for row in rows)
    try:
        path.write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path.absolute()} cannot be written: {error.strerror}.") from error


def record(checkpoint: mlflow_ckpt.Checkpoint) -> None:
    """Note in the run that `mlflow run` opened which checkpoint was asked."""
    if "MLFLOW_RUN_ID" in os.environ:
        with mlflow.start_run():
            mlflow.set_tags(
                {SOURCE_RUN_TAG: checkpoint.run_id, SOURCE_CHECKPOINT_TAG: checkpoint.name}
            )


if __name__ == "__main__":
    main()
