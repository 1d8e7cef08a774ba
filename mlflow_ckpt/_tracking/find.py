"""Find a checkpoint and open its files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, overload

from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.query import Query
from mlflow_ckpt._format.reference import SCHEME, Reference
from mlflow_ckpt._format.verification import VerificationResult
from mlflow_ckpt._tracking import foreign
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.checkpoint import Checkpoint
from mlflow_ckpt._tracking.download import Progress
from mlflow_ckpt._tracking.foreign import ForeignCheckpoint
from mlflow_ckpt._tracking.references import locate, resolve
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import CheckpointNotFoundError


@dataclass(frozen=True)
class OpenedCheckpoint:
    """The files of a checkpoint.

    Attributes:
        directory: Their directory, laid out as in docs/format.md.
        manifest: Their manifest.
        lost: The parts of a foreign model that could not be loaded, as a phrase; None if none.
    """

    directory: Path
    manifest: Manifest
    lost: str | None = None


# Converts a foreign model into a checkpoint. Takes the model, its downloaded file and an empty
# directory to fill; returns the manifest and `OpenedCheckpoint.lost`.
Convert = Callable[[ForeignCheckpoint, Path, Path], tuple[Manifest, str | None]]


@dataclass(frozen=True)
class OwnCheckpoint:
    """A checkpoint written by this package. Its files are verified when it is opened."""

    catalog: Catalog
    checkpoint: Checkpoint
    # Whether a manifest proves the contents of the files.
    verified: ClassVar[bool] = True

    @property
    def store(self) -> RunStore:
        """The store of its run."""
        return self.catalog.store

    @property
    def run_id(self) -> str:
        """The run that holds it."""
        return self.checkpoint.run_id

    @property
    def name(self) -> str:
        """Its directory's name."""
        return self.checkpoint.name

    @property
    def epoch(self) -> int | None:
        """Number of completed epochs."""
        return self.checkpoint.manifest.epoch

    @property
    def uri(self) -> str:
        """Its `ckpt:` URI."""
        return f"{SCHEME}/{self.run_id}/{self.name}"

    @contextmanager
    def open(self, progress: Progress | None = None) -> Iterator[OpenedCheckpoint]:
        """Verify and open the files for the duration of the context.

        Raises:
            VerificationError: If a file is missing, extra or altered.
        """
        with self.catalog.fetch(self.checkpoint, progress) as directory:
            yield OpenedCheckpoint(directory, self.checkpoint.manifest)

    def verify(self, progress: Progress | None = None) -> VerificationResult:
        """Compare every file with the manifest."""
        return self.catalog.verify(self.checkpoint, progress)


@dataclass(frozen=True)
class UnverifiedCheckpoint:
    """A model saved by other software. It is converted into a checkpoint when it is opened."""

    foreign: ForeignCheckpoint
    tracking_uri: str | None
    convert: Convert
    verified: ClassVar[bool] = False

    @property
    def run_id(self) -> str:
        """The run; empty if unknown."""
        return self.foreign.run_id

    @property
    def name(self) -> str:
        """Its file's or directory's name."""
        return self.foreign.name

    @property
    def epoch(self) -> int | None:
        """Number of completed epochs; None if unknown."""
        return self.foreign.epoch

    @property
    def uri(self) -> str:
        """Its `runs:` or `models:` URI."""
        return self.foreign.uri

    @contextmanager
    def open(self, progress: Progress | None = None) -> Iterator[OpenedCheckpoint]:
        """Download and convert the model; open its files for the duration of the context.

        Raises:
            CheckpointNotFoundError: If it is not a Keras model.
            ModelError: If Keras cannot rebuild the model.
        """
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary:
            downloaded, directory = Path(temporary, "downloaded"), Path(temporary, "checkpoint")
            downloaded.mkdir()
            directory.mkdir()
            file = foreign.fetch(self.foreign, downloaded, self.tracking_uri, progress)
            manifest, lost = self.convert(self.foreign, file, directory)
            yield OpenedCheckpoint(directory, manifest, lost)


FoundCheckpoint = OwnCheckpoint | UnverifiedCheckpoint


@overload
def find(query: Query) -> OwnCheckpoint: ...


@overload
def find(query: Query, convert: Convert) -> FoundCheckpoint: ...


def find(query: Query, convert: Convert | None = None) -> FoundCheckpoint:
    """Find a checkpoint of a run, reading manifests only.

    Args:
        query: The run and the selector.
        convert: Converts foreign models into checkpoints when they are opened. If passed, such
            models are found too if the run has no matching checkpoint of this package.

    Raises:
        NotFoundError, SelectorError, TrackingError: As in `mlflow_ckpt.get_checkpoint`.
    """
    if convert is None:
        reference = resolve(query.run, query.checkpoint, query.tracking_uri)
        store = RunStore(reference.run_id, query.tracking_uri)
        with foreign.hinting(store):
            return _own(store, reference, query)
    located = locate(query.run, query.checkpoint, query.tracking_uri)
    if not isinstance(located, Reference):
        model = foreign.at(located, query.tracking_uri)
        return UnverifiedCheckpoint(model, query.tracking_uri, convert)
    store = RunStore(located.run_id, query.tracking_uri)
    try:
        return _own(store, located, query)
    except CheckpointNotFoundError:
        match = foreign.find(store, located.selector, query.monitor, query.mode)
        if match is None:
            raise
        return UnverifiedCheckpoint(match, query.tracking_uri, convert)


def _own(store: RunStore, reference: Reference, query: Query) -> OwnCheckpoint:
    catalog = Catalog(store)
    checkpoint = catalog.find(reference.selector, monitor=query.monitor, mode=query.mode)
    return OwnCheckpoint(catalog, checkpoint)
