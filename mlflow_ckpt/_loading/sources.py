"""What a person names, opened as a checkpoint's files: this package's own, or what others wrote."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.reference import SCHEME, Reference
from mlflow_ckpt._tracking import foreign
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.checkpoint import Checkpoint
from mlflow_ckpt._tracking.download import Progress
from mlflow_ckpt._tracking.foreign import ForeignCheckpoint
from mlflow_ckpt._tracking.references import locate
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import CheckpointNotFoundError


@dataclass(frozen=True)
class Opened:
    """The files of a checkpoint.

    Attributes:
        directory: Where they are, as this package lays them out.
        manifest: What they are.
        lost: What of the model could not be loaded, as a phrase; None if nothing.
    """

    directory: Path
    manifest: Manifest
    lost: str | None = None


@dataclass(frozen=True)
class Opening:
    """What opening may need.

    Attributes:
        custom_objects: Classes and functions by name, for what others wrote.
        architecture: For weights alone, which others wrote: a file with their architecture.
        progress: Called with bytes done and bytes in all.
    """

    custom_objects: Mapping[str, Any] | None = None
    architecture: Path | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class OwnSource:
    """A checkpoint of this package's own; its files are verified when it is opened."""

    catalog: Catalog
    found: Checkpoint

    @property
    def run_id(self) -> str:
        """The run that holds it."""
        return self.found.run_id

    @property
    def name(self) -> str:
        """Its directory's name."""
        return self.found.name

    @property
    def uri(self) -> str:
        """Its `ckpt:` URI."""
        return f"{SCHEME}/{self.run_id}/{self.name}"

    @contextmanager
    def opened(self, opening: Opening) -> Iterator[Opened]:
        """Give its verified files.

        Raises:
            VerificationError: If a file is missing, extra or altered.
        """
        with self.catalog.fetch(self.found, opening.progress) as directory:
            yield Opened(directory, self.found.manifest)


@dataclass(frozen=True)
class ForeignSource:
    """What others wrote: loaded, and written anew as a checkpoint, when it is opened."""

    found: ForeignCheckpoint
    tracking_uri: str | None

    @property
    def run_id(self) -> str:
        """The run; empty if none is known."""
        return self.found.run_id

    @property
    def name(self) -> str:
        """What to call it."""
        return self.found.name

    @property
    def uri(self) -> str:
        """A `runs:` or `models:` URI."""
        return self.found.uri

    @contextmanager
    def opened(self, opening: Opening) -> Iterator[Opened]:
        """Give files that hold what could be loaded.

        Raises:
            CheckpointNotFoundError: If it is no Keras model.
            ModelError: If Keras cannot rebuild the model.
        """
        from mlflow_ckpt._model.capture.buffers import Buffers
        from mlflow_ckpt._model.rebuild import stock_files as loading
        from mlflow_ckpt._saving.compose import Composer, Job

        found, blueprint = self.found, None
        if opening.architecture is not None:
            blueprint = loading.read_blueprint(opening.architecture)
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary:
            downloaded, directory = Path(temporary, "downloaded"), Path(temporary, "checkpoint")
            downloaded.mkdir()
            directory.mkdir()
            file = foreign.fetch(found, downloaded, self.tracking_uri, opening.progress)
            model, lost = loading.load(file, opening.custom_objects, blueprint)
            composer = Composer(found.run_id, forms=("full",), full_format="keras", metadata={})
            with composer.take(model, Buffers()) as taken:
                name = str(CheckpointName("epoch", found.epoch or 0))
                job = Job(taken, name, found.epoch or 0, found.metrics, None, False, None)
                manifest = composer.compose(job, directory).manifest
            del model
            yield Opened(directory, manifest, lost)


Source = OwnSource | ForeignSource


def find(
    run: str,
    checkpoint: str | int = "latest",
    *,
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
) -> Source:
    """Find a checkpoint: one of this package's own, or else what others wrote.

    Args:
        run: A run id, or a URI (docs/cli.md).
        checkpoint: A selector.
        monitor: For `best`, the metric to judge by.
        mode: For `best`, `"min"` or `"max"`.
        tracking_uri: The tracking server; MLflow's current one if None.

    Raises:
        NotFoundError, SelectorError, TrackingError: As in `mlflow_ckpt.get_checkpoint`.
    """
    located = locate(run, checkpoint, tracking_uri)
    if not isinstance(located, Reference):
        return ForeignSource(foreign.at(located, tracking_uri), tracking_uri)
    store = RunStore(located.run_id, tracking_uri)
    catalog = Catalog(store)
    try:
        own = catalog.find(located.selector, monitor=monitor, mode=mode)
    except CheckpointNotFoundError:
        found = foreign.find(store, located.selector, monitor, mode)
        if found is None:
            raise
        return ForeignSource(found, tracking_uri)
    return OwnSource(catalog, own)
