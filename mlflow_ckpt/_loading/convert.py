"""Make a checkpoint of a model that others saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._tracking.find import Convert
from mlflow_ckpt._tracking.foreign import ForeignCheckpoint


def converter(
    custom_objects: Mapping[str, Any] | None = None, architecture: Path | None = None
) -> Convert:
    """Return the function that converts foreign models for `find`; its first call loads Keras.

    Args:
        custom_objects: Classes and functions by name, which the model uses.
        architecture: For files of weights alone: a file with their architecture.
    """

    def convert(
        found: ForeignCheckpoint, file: Path, directory: Path
    ) -> tuple[Manifest, str | None]:
        from mlflow_ckpt._model.capture.buffers import Buffers
        from mlflow_ckpt._model.rebuild import stock_files
        from mlflow_ckpt._saving.compose import Composer, Job

        blueprint = None if architecture is None else stock_files.read_blueprint(architecture)
        model, lost = stock_files.load(file, custom_objects, blueprint)
        composer = Composer(found.run_id, forms=("full",), full_format="keras", metadata={})
        with composer.take(model, Buffers()) as taken:
            name = str(CheckpointName("epoch", found.epoch or 0))
            job = Job(taken, name, found.epoch or 0, found.metrics, None, False, None)
            manifest = composer.compose(job, directory).manifest
        return manifest, lost

    return convert
