"""Converts foreign models into checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
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
        custom_objects: Custom classes and functions of the model by name.
        architecture: For weights files: a file with the architecture.
    """

    def convert(
        foreign: ForeignCheckpoint, file: Path, directory: Path
    ) -> tuple[Manifest, str | None]:
        from mlflow_ckpt._model.capture.buffers import Buffers
        from mlflow_ckpt._model.rebuild import stock_files
        from mlflow_ckpt._saving.compose import Composer, Content, Job

        blueprint = None if architecture is None else stock_files.read_blueprint(architecture)
        model, lost = stock_files.load(file, custom_objects, blueprint)
        composer, content = Composer(foreign.run_id), Content()
        with closing(composer.take(model, Buffers(), content)) as snapshot:
            epoch = foreign.epoch or 0
            name = str(CheckpointName("epoch", epoch))
            job = Job(snapshot, content, name, epoch, foreign.metrics, None, False, None)
            manifest = composer.compose(job, directory).manifest
        return manifest, lost

    return convert
