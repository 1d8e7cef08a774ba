"""Trains the CNN and saves its checkpoints in MLflow.

python -m projects.cifar10.train --epochs 2 --dataset auto
"""

import os
import sys
from dataclasses import dataclass
from typing import Any

import click
import keras
import mlflow

import mlflow_ckpt
from projects.cifar10 import options
from projects.cifar10.data import Dataset, load_dataset
from projects.cifar10.errors import UserError, plain_errors
from projects.cifar10.model import build_model, check_image_shape
from projects.cifar10.record import (
    log_dataset,
    log_environment,
    log_model_summary,
    log_parameters,
)
from projects.cifar10.settings import Settings

# If the server is unavailable, checkpoints wait in the spool. For other requests, such as the run's
# status, limit MLflow's retries, which take four minutes by default.
MLFLOW_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


@click.command(context_settings={"show_default": True})
@click.option("--epochs", type=click.IntRange(min=1), default=2, help="Epochs to train.")
@options.batch_size_option
@click.option("--learning-rate", type=options.positive, default=0.001, help="Adam's step size.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    help="Two runs with the same seed end with identical weights.",
)
@click.option(
    "--dataset",
    default="auto",
    help="auto (CIFAR-10 if it can be had, else digits), cifar10, digits or the path of an .npz "
    "with x_train, y_train, x_test, y_test.",
)
@click.option(
    "--forms", type=options.forms, default="full", help="What to save: full, split or full,split."
)
@click.option(
    "--full-format",
    type=click.Choice(["keras", "h5"]),
    default="keras",
    help="File format of the full form.",
)
@click.option(
    "--save-freq",
    type=options.save_freq,
    default="epoch",
    help="Save after every epoch, or after so many batches.",
)
@click.option("--monitor", default="val_loss", help="Metric that tells the best checkpoint.")
@click.option(
    "--resume-from",
    default="",
    help="Go on from this run, or from a reference such as ckpt:/RUN/3. Parameters that are left "
    "at their defaults are taken from it.",
)
@plain_errors
def main(resume_from: str, **arguments: Any) -> None:
    """Train a CNN on images; its metrics and checkpoints go to MLflow."""
    for name, value in MLFLOW_RETRIES.items():
        os.environ.setdefault(name, value)
    settings = Settings(**arguments)
    # Raise errors before a run is created.
    origin = mlflow_ckpt.get_checkpoint(resume_from) if resume_from else None
    if origin is not None:
        recorded = mlflow.get_run(origin.run_id).data.params
        settings = settings.continued(recorded, origin.manifest.metadata.get("dataset"))
    data = load_dataset(settings.dataset)
    click.echo(f"Data set: {data}")
    check_image_shape(data.image_shape)

    with mlflow.start_run() as run:
        # Not earlier, as MLflow draws the run's name from Python's random generator.
        prepare_backend(settings.seed)
        # Also logs the metrics of every epoch, with step = epoch.
        checkpoints = mlflow_ckpt.MlflowCheckpoint(
            monitor=settings.monitor,
            verbose=1,
            save_freq=settings.save_freq,
            forms=settings.forms,
            full_format=settings.full_format,
            metadata={"class_names": list(data.class_names), "dataset": data.reference},
            report=True,
        )
        training = begin(settings, data, checkpoints, resume_from)
        parameters = {**settings.parameters(), "resume_from": resume_from}
        log_parameters(run, parameters, resumed=bool(resume_from))
        if origin is None or origin.run_id != run.info.run_id:
            log_context(data, training.model)
        with checkpoints:
            fit(training, data, settings)

    if checkpoints.is_losing_data:
        raise UserError(
            f"Not everything of run {run.info.run_id} was sent, and the rest will be lost: see the "
            "warning above."
        )
    click.echo(next_steps(run.info.run_id))


@dataclass(frozen=True)
class Training:
    """A new or resumed training.

    Attributes:
        model: The compiled model.
        initial_epoch: Number of completed epochs.
        callbacks: Callbacks for `fit`.
    """

    model: keras.Model
    initial_epoch: int
    callbacks: list[keras.callbacks.Callback]


def begin(
    settings: Settings,
    data: Dataset,
    checkpoints: mlflow_ckpt.MlflowCheckpoint,
    resume_from: str,
) -> Training:
    """Build a new model, or restore a saved training.

    Raises:
        UserError: If the saved training has completed all epochs.
    """
    if not resume_from:
        model = build_model(data.image_shape, len(data.class_names), settings.learning_rate)
        return Training(model, 0, [checkpoints])
    point = mlflow_ckpt.resume(resume_from, callbacks=[checkpoints])
    if point.initial_epoch >= settings.epochs:
        raise UserError(
            f"The checkpoint {point.checkpoint.name} is of epoch {point.initial_epoch}: expected "
            f"epochs, the number in all, to be greater. Received: epochs={settings.epochs}"
        )
    click.echo(f"Resuming from {point.checkpoint.name} of run {point.checkpoint.run_id}")
    return Training(point.model, point.initial_epoch, point.callbacks)


def log_context(data: Dataset, model: keras.Model) -> None:
    """Log data, model and environment of a training."""
    log_dataset(data)
    log_model_summary(model)
    log_environment()


def fit(training: Training, data: Dataset, settings: Settings) -> None:
    """Train the model on the training data."""
    training.model.fit(
        # Gives the same batches in an epoch after a restart of the process.
        mlflow_ckpt.EpochDataset(
            data.x_train, data.y_train, batch_size=settings.batch_size, seed=settings.seed
        ),
        epochs=settings.epochs,
        initial_epoch=training.initial_epoch,
        validation_data=(data.x_test, data.y_test),
        validation_batch_size=settings.batch_size,
        callbacks=training.callbacks,
        # One line per epoch instead of a progress bar, unless on a terminal.
        verbose=1 if sys.stdout.isatty() else 2,
    )


def prepare_backend(seed: int) -> None:
    """Make training deterministic, and allocate GPU memory on demand.

    Args:
        seed: Seed for Python, NumPy and the backend.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def next_steps(run_id: str) -> str:
    """Return commands that the user may run next with the run `run_id`."""
    saved = mlflow_ckpt.list_checkpoints(run_id)
    uri = mlflow.get_tracking_uri()
    web = uri.startswith(("http://", "https://"))
    look = f"open {uri}" if web else f"mlflow ui --backend-store-uri {uri}"
    return "\n".join(
        [
            f"\nRun {run_id} holds {len(saved)} checkpoint{'' if len(saved) == 1 else 's'}. Next:",
            f"  {look}",
            f"  export MLFLOW_TRACKING_URI={uri}",
            f"  mlflow-ckpt list {run_id}",
            f"  mlflow-ckpt restore {run_id} --output restored",
            f"  mlflow run . -e predict -P run_id={run_id} -P input=cat.png --env-manager local",
        ]
    )


if __name__ == "__main__":
    main()
