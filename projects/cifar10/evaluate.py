"""Measure loss and accuracy of any checkpoint.

python -m projects.cifar10.evaluate --run-id RUN --checkpoint best
"""

import click
import keras
import mlflow

import mlflow_ckpt
from projects.cifar10.data import Dataset, load_dataset
from projects.cifar10.errors import UserError, plain_errors
from projects.cifar10.model import compile_model
from projects.cifar10.options import batch_size_option, checkpoint_option, run_id_option
from projects.cifar10.record import (
    SOURCE_CHECKPOINT_TAG,
    SOURCE_RUN_TAG,
    log_parameters,
    log_split,
)


@click.command(context_settings={"show_default": True})
@run_id_option
@checkpoint_option
@click.option(
    "--dataset",
    default="same",
    help="same (what the run was trained on), auto, cifar10, digits or the path of an .npz.",
)
@batch_size_option
@plain_errors
def main(run_id: str, checkpoint: str, dataset: str, batch_size: int) -> None:
    """Evaluate a checkpoint on the test half of a data set and log what comes out to a new run."""
    found = mlflow_ckpt.get_checkpoint(run_id, checkpoint)
    data = load_dataset(trained_on(found) if dataset == "same" else dataset)
    click.echo(f"Data set: {data}")

    # The split form is in every checkpoint, and judging needs no optimizer.
    model = mlflow_ckpt.load_model(found.run_id, found.name, form="split")
    check_fit(model, data)
    compile_model(model)

    with mlflow.start_run() as run:
        log_parameters(
            run,
            {
                "run_id": run_id,
                "checkpoint": checkpoint,
                "dataset": dataset,
                "batch_size": batch_size,
            },
        )
        mlflow.set_tags({SOURCE_RUN_TAG: found.run_id, SOURCE_CHECKPOINT_TAG: found.name})
        log_split(data, "eval")
        measured = model.evaluate(
            data.x_test, data.y_test, batch_size=batch_size, verbose=0, return_dict=True
        )
        mlflow.log_metrics(measured, step=found.manifest.epoch)

    click.echo(f"Checkpoint {found.name} of run {found.run_id}:")
    for name, value in measured.items():
        click.echo(f"  {name}: {value:.4f}")
    click.echo(f"Logged to run {run.info.run_id}.")


def trained_on(checkpoint: mlflow_ckpt.Checkpoint) -> str:
    """Tell what gives the data set that `checkpoint` was trained on.

    Raises:
        UserError: The checkpoint does not say.
    """
    reference = checkpoint.manifest.metadata.get("dataset")
    if not isinstance(reference, str):
        raise UserError(
            f"Checkpoint {checkpoint.name} does not say what it was trained on: expected one that "
            "projects.cifar10.train saved. Pass dataset=cifar10, digits or the path of an .npz"
        )
    return reference


def check_fit(model: keras.Model, data: Dataset) -> None:
    """Check that `model` takes the images of `data` and knows its classes.

    Raises:
        UserError: It does not.
    """
    takes, gives = tuple(model.input_shape[1:]), model.output_shape[-1]
    if takes != data.image_shape:
        raise UserError(
            f"The model does not take the images of {data.name}: expected shape {takes}. "
            f"Received: {data.image_shape}"
        )
    if len(data.class_names) != gives:
        raise UserError(
            f"The model does not know the classes of {data.name}: expected {gives} classes. "
            f"Received: {len(data.class_names)}"
        )


if __name__ == "__main__":
    main()
