"""Classifies image files with a checkpoint.

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
class Prediction:
    """The probability of one class for an image.

    Attributes:
        file: Path of the image.
        rank: 1 for the most likely class.
        class_name: Name of the class.
        probability: Its probability, 0..1.
    """

    file: str
    rank: int
    class_name: str
    probability: float


@click.command(context_settings={"show_default": True})
@run_id_option
@checkpoint_option
@click.option(
    "--input", "source", required=True, help="An image, several separated by commas, or a folder."
)
@click.option("--top", type=click.IntRange(min=1), default=3, help="Classes to show per image.")
@click.option("--output", default="", help="Also write a .csv or .jsonl file.")
@batch_size_option
@plain_errors
def main(run_id: str, checkpoint: str, source: str, top: int, output: str, batch_size: int) -> None:
    """Show the most likely classes of image files."""
    check_output(output)
    files = find_images(source)
    saved = mlflow_ckpt.get_checkpoint(run_id, checkpoint)
    # Inference needs only weights and architecture.
    model = mlflow_ckpt.load_model(saved.run_id, saved.name, form="split")
    images = read_images(files, image_shape(model.input_shape))

    probabilities = model.predict(images, batch_size=batch_size, verbose=0)
    predictions = rank(files, probabilities, class_names(saved, probabilities.shape[1]), top)

    click.echo(f"Checkpoint {saved.name} of run {saved.run_id}:")
    click.echo(table(predictions))
    if output:
        write(predictions, Path(output))
        click.echo(f"Written to {output}.")
    record(saved)


def check_output(output: str) -> None:
    """Check the output file before any work is done.

    Raises:
        UserError: If its suffix is unknown or its folder does not exist.
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
    """Return (height, width, channels) of a model's input shape.

    Raises:
        UserError: If the model does not take images of one size.
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
    """Return the class names in the checkpoint's metadata, or else the classes' numbers."""
    names = checkpoint.manifest.metadata.get("class_names")
    if isinstance(names, list) and len(names) == classes:
        return [plain(str(name)) for name in names]
    return [str(number) for number in range(classes)]


def plain(text: str) -> str:
    """Return text without characters that control a terminal: a checkpoint may be another's."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def rank(
    files: list[Path], probabilities: NDArray[np.float32], names: list[str], top: int
) -> list[Prediction]:
    """Return the `top` most likely classes of every image.

    Args:
        files: Paths of the images.
        probabilities: (N, classes), float32.
        names: Names of the classes.
        top: Number of classes per image; all classes if there are fewer.
    """
    return [
        Prediction(plain(str(file)), position + 1, names[number], float(row[number]))
        for file, row in zip(files, probabilities, strict=True)
        for position, number in enumerate(np.argsort(-row, kind="stable")[:top])
    ]


def table(predictions: list[Prediction]) -> str:
    """Format predictions as columns, with a file's name in the row of its first class."""
    file_width = max(len(row.file) for row in predictions)
    name_width = max(len(row.class_name) for row in predictions)
    return "\n".join(
        f"  {row.file if row.rank == 1 else '':{file_width}}  "
        f"{row.class_name:{name_width}}  {row.probability:.4f}"
        for row in predictions
    )


def write(predictions: list[Prediction], path: Path) -> None:
    """Write predictions as CSV or JSON lines, according to the suffix of `path`.

    Raises:
        UserError: If the file cannot be written.
    """
    rows = [vars(prediction) for prediction in predictions]
    text = io.StringIO()
    if path.suffix == ".csv":
        writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    else:
        text.writelines(json.dumps(row) + "\n" for row in rows)
    try:
        with open(path, "w", encoding="utf-8", opener=_open_no_link) as file:
            file.write(text.getvalue())
    except OSError as error:
        raise UserError(f"{path.absolute()} cannot be written: {error.strerror}.") from error


def _cell(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{value}" if str(value)[:1] in "=+-@" and isinstance(value, str) and value else value


def _open_no_link(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def record(checkpoint: mlflow_ckpt.Checkpoint) -> None:
    """Tag the run that `mlflow run` started with the checkpoint that made the predictions."""
    if "MLFLOW_RUN_ID" in os.environ:
        with mlflow.start_run():
            mlflow.set_tags(
                {SOURCE_RUN_TAG: checkpoint.run_id, SOURCE_CHECKPOINT_TAG: checkpoint.name}
            )


if __name__ == "__main__":
    main()
