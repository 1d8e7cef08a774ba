"""Predicts with the model of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import numpy as np

from mlflow_ckpt._cli.inputs import Array, match_inputs
from mlflow_ckpt._cli.predictions import Predictions
from mlflow_ckpt._cli.quiet import start_backend
from mlflow_ckpt._loading import sources
from mlflow_ckpt._loading.sources import ForeignSource, Opening
from mlflow_ckpt.errors import InputMismatchError

if TYPE_CHECKING:
    import keras


def load(
    run: str,
    checkpoint: str | int,
    *,
    monitor: str | None = None,
    mode: str | None = None,
    opening: Opening | None = None,
    tracking_uri: str | None = None,
) -> tuple[keras.Model, Sequence[str] | None]:
    """Load a checkpoint's model for inference, and its class names if it keeps any."""
    opening = opening or Opening()
    source = sources.find(run, checkpoint, monitor=monitor, mode=mode, tracking_uri=tracking_uri)
    if isinstance(source, ForeignSource):
        click.echo(f"Unverified: mlflow_ckpt did not write {source.uri}.", err=True)
    start_backend()
    with source.opened(opening) as opened:
        from mlflow_ckpt._model.rebuild import model_loader

        model = model_loader.load_split(opened.directory, opened.manifest, opening.custom_objects)
    names = opened.manifest.metadata.get("class_names")
    return model, [str(name) for name in names] if isinstance(names, list) else None


def predict(
    model: keras.Model,
    inputs: Array | dict[str, Array],
    class_names: Sequence[str] | None,
    batch_size: int,
) -> Predictions:
    """Predict in batches.

    Args:
        model: The model.
        inputs: Shape (samples, ...), or several arrays by the names of the model's inputs.
        class_names: Names of the classes; None if unknown.
        batch_size: Samples a batch.

    Raises:
        InputMismatchError: If shapes or types are not what the model takes.
    """
    given = match_inputs(model, inputs)
    try:
        raw = model.predict(given, batch_size=batch_size, verbose=0)
    except Exception as error:
        # What the model makes of its input is its own matter, and each backend has errors of its
        # own: a token that an embedding does not know, a shape that a subclassed model refuses.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = next((line for line in lines if not line.startswith("Exception enc")), "")
        raise InputMismatchError(
            f"The model {model.name!r} cannot take the input: {type(error).__name__}: {told}"
        ) from error
    names = list(getattr(model, "output_names", None) or ["output"])
    if isinstance(raw, dict):
        outputs = {str(name): np.asarray(value) for name, value in raw.items()}
    elif isinstance(raw, (list, tuple)):
        outputs = {name: np.asarray(value) for name, value in zip(names, raw, strict=True)}
    else:
        outputs = {names[0]: np.asarray(raw)}
    return Predictions(outputs, class_names)
