"""Evaluates loss and accuracy of a checkpoint.

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
    """Evaluate a checkpoint on the test half of a data set and log the metrics to a new run."""
    saved = mlflow_ckpt.get_checkpoint(run_id, checkpoint)
    data = load_dataset(trained_on(saved) if dataset == "same" else dataset)
    click.echo(f"Data set: {data}")

    # Every checkpoint has the split form, and evaluation needs no optimizer.
    model = mlflow_ckpt.load_model(saved.run_id, saved.name, form="split")
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
        mlflow.set_tags({SOURCE_RUN_TAG: saved.run_id, SOURCE_CHECKPOINT_TAG: saved.name})
        log_split(data, "eval")
        metrics = model.evaluate(
            data.x_test, data.y_test, batch_size=batch_size, verbose=0, return_dict=True
        )
        mlflow.log_metrics(metrics, step=saved.manifest.epoch)

    click.echo(f"Checkpoint {saved.name} of run {saved.run_id}:")
    for name, value in metrics.items():
        click.echo(f"  {name}: {value:.4f}")
    click.echo(f"Logged to run {run.info.run_id}.")


def trained_on(checkpoint: mlflow_ckpt.Checkpoint) -> str:
    """Return the reference of the data set that `checkpoint` was trained on.

    Raises:
        UserError: If the checkpoint does not record it.
    """
    reference = checkpoint.manifest.metadata.get("dataset")
    if not isinstance(reference, str):
        raise UserError(
            f"Checkpoint {checkpoint.name} does not say what it was trained on: expected one that "
            "projects.cifar10.train saved. Pass dataset=cifar10, digits or the path of an .npz"
        )
    return reference


def check_fit(model: keras.Model, data: Dataset) -> None:
    """Check that `model` fits the images and classes of `data`.

    Raises:
        UserError: If the shape of the images or the number of classes differs.
    """
    image_shape, classes = tuple(model.input_shape[1:]), model.output_shape[-1]
    if image_shape != data.image_shape:
        raise UserError(
            f"The model does not take the images of {data.name}: expected shape {image_shape}. "
            f"Received: {data.image_shape}"
        )
    if len(data.class_names) != classes:
        raise UserError(
            f"The model does not know the classes of {data.name}: expected {classes} classes. "
            f"Received: {len(data.class_names)}"
        )


if __name__ == "__main__":
    main()
