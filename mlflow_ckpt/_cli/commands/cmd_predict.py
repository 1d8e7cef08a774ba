"""`mlflow-ckpt predict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_ckpt._cli import options
from mlflow_ckpt._cli.console import echo
from mlflow_ckpt._cli.model_options import ModelOptions
from mlflow_ckpt._cli.quiet import start_backend
from mlflow_ckpt._format.reference import Query
from mlflow_ckpt._tracking.removed import again_if_removed
from mlflow_ckpt.errors import InputMismatchError

if TYPE_CHECKING:
    import keras

    from mlflow_ckpt._cli.inputs import Array


@click.command("predict", short_help="Predict on a file with the model of a checkpoint of RUN.")
@options.opening_query
@click.argument("data", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("--array", metavar="NAME", help="Which array of an .npz INPUT to predict on.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File to write: .csv, .jsonl, .npy or .npz. Default: CSV to standard output.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="Samples per batch; as with Model.predict, the last bits of results depend on it.",
)
@options.model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines instead of CSV.")
def command(
    query: Query,
    model_options: ModelOptions,
    data: Path,
    array: str | None,
    output: Path | None,
    overwrite: bool,
    batch_size: int,
    as_json: bool,
) -> None:
    """Predict on INPUT (.npy, .npz or .csv) with the model of a checkpoint of RUN.

    For a classifier, outputs a class and its probability; otherwise, the model's values.
    """
    from mlflow_ckpt._cli import inputs, predictions

    write = predictions.writer_for(output, as_json=as_json, overwrite=overwrite)
    arrays = inputs.read_inputs(data, array)
    model, class_names = _load(query, model_options)
    outputs = _predict(model, inputs.match_inputs(model, arrays), batch_size)
    write(predictions.Predictions(outputs, class_names))


@again_if_removed
def _load(query: Query, model_options: ModelOptions) -> tuple[keras.Model, Sequence[str] | None]:
    """Load a checkpoint's model for inference, and its class names if it has any."""
    from mlflow_ckpt._cli.progress import progress_bar
    from mlflow_ckpt._tracking.find import find

    checkpoint = find(query, model_options.converter())
    if not checkpoint.verified:
        echo(f"Unverified: mlflow_ckpt did not write {checkpoint.uri}.", err=True)
    start_backend()
    with progress_bar() as progress, checkpoint.open(progress) as opened:
        from mlflow_ckpt._model.rebuild import model_loader

        model = model_loader.load_split(
            opened.directory, opened.manifest, model_options.custom_objects
        )
    names = opened.manifest.metadata.get("class_names")
    return model, [str(name) for name in names] if isinstance(names, list) else None


def _predict(model: keras.Model, inputs: Any, batch_size: int) -> Mapping[str, Array]:
    """Predict in batches, and return arrays by the names of the model's outputs.

    Raises:
        InputMismatchError: If the model does not take the inputs.
    """
    import numpy as np

    from mlflow_ckpt._model.keras_private import messages_of_keras

    try:
        outputs = model.predict(inputs, batch_size=batch_size, verbose=0)
    except Exception as error:
        # Models and backends raise different errors, for example for a token outside an
        # embedding's vocabulary or an unsupported shape.
        raise InputMismatchError(
            f"The model {model.name!r} cannot take the input: "
            f"{type(error).__name__}: {messages_of_keras.call_message(error)}"
        ) from error
    if not isinstance(outputs, dict):
        arrays = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        names = getattr(model, "output_names", None) or ["output"]
        if len(names) != len(arrays):  # only a functional model has names
            names = [f"output_{index}" for index in range(len(arrays))]
        outputs = dict(zip(names, arrays, strict=True))
    return {str(name): np.asarray(array) for name, array in outputs.items()}
