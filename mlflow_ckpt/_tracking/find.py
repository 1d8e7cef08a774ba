"""Find a checkpoint and open its files."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, overload

from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.reference import Query, Reference, Selector, uri_of
from mlflow_ckpt._format.signing.trust import Trust
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
class FoundCheckpoint(ABC):
    """A checkpoint, before its files are read.

    Attributes:
        run_id: The run that holds it; empty if none is known.
        name: Its directory's name, or that of the file that another tool saved.
        epoch: Number of completed epochs; None if unknown.
        uri: Its `ckpt:` URI, or the `runs:` or `models:` URI of what other tools saved.
        verified: Whether a manifest proves the contents of its files.
    """

    run_id: str
    name: str
    epoch: int | None
    uri: str
    verified: ClassVar[bool]

    @abstractmethod
    def open(self, progress: Progress | None = None) -> AbstractContextManager[OpenedCheckpoint]:
        """Open the files for the duration of the context.

        Raises:
            VerificationError: If a file is missing, extra or altered.
            SignatureError: If it is not signed by whom it must be.
            CheckpointNotFoundError: If another tool saved no Keras model.
            ModelError: If Keras cannot rebuild what other tools saved.
        """


@dataclass(frozen=True)
class OwnCheckpoint(FoundCheckpoint):
    """A checkpoint written by this package. Its files are verified when it is opened."""

    catalog: Catalog
    checkpoint: Checkpoint
    verified = True

    @contextmanager
    def open(self, progress: Progress | None = None) -> Iterator[OpenedCheckpoint]:
        """Verify and open the files."""
        with self.catalog.fetch(self.checkpoint, progress) as directory:
            yield OpenedCheckpoint(directory, self.checkpoint.manifest)

    def deliver(self, directory: Path) -> None:
        """Copy or download the files into an empty directory, and verify the copies."""
        self.catalog.deliver(self.checkpoint, directory)

    def verify(self, progress: Progress | None = None) -> VerificationResult:
        """Compare every file with the manifest."""
        return self.catalog.verify(self.checkpoint, progress)


@dataclass(frozen=True)
class UnverifiedCheckpoint(FoundCheckpoint):
    """A model saved by another tool. It is converted into a checkpoint when it is opened."""

    foreign: ForeignCheckpoint
    tracking_uri: str | None
    convert: Convert
    trust: Trust
    verified = False

    @contextmanager
    def open(self, progress: Progress | None = None) -> Iterator[OpenedCheckpoint]:
        """Download and convert the model."""
        if self.trust.is_required:
            raise self.trust.refusal(f"{self.uri} was saved by another tool, which signed nothing")
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary:
            downloaded, directory = Path(temporary, "downloaded"), Path(temporary, "checkpoint")
            downloaded.mkdir()
            directory.mkdir()
            file = foreign.fetch(self.foreign, downloaded, self.tracking_uri, progress)
            manifest, lost = self.convert(self.foreign, file, directory)
            yield OpenedCheckpoint(directory, manifest, lost)


@overload
def find(query: Query) -> OwnCheckpoint: ...


@overload
def find(query: Query, convert: Convert) -> FoundCheckpoint: ...


def find(query: Query, convert: Convert | None = None) -> FoundCheckpoint:
    """Find a checkpoint of a run, reading manifests only.

    Args:
        query: The run and the selector.
        convert: Converts foreign models into checkpoints when they are opened. If passed, such
            models are considered if the run has no matching checkpoint of this package.

    Raises:
        NotFoundError, SelectorError, TrackingError: As in `mlflow_ckpt.get_checkpoint`.
    """
    if convert is None:
        reference = resolve(query.run, query.checkpoint, query.tracking_uri)
        store = RunStore(reference.run_id, query.tracking_uri)
        return find_own(store, reference.selector, query)
    located = locate(query.run, query.checkpoint, query.tracking_uri)
    if not isinstance(located, Reference):
        model = foreign.at(located, query.tracking_uri)
    else:
        store = RunStore(located.run_id, query.tracking_uri)
        try:
            return _own(store, located.selector, query)
        except CheckpointNotFoundError:
            match = foreign.find(store, located.selector, query.monitor, query.mode)
            if match is None:
                raise
            model = match
    return UnverifiedCheckpoint(
        *(model.run_id, model.name, model.epoch, model.uri),
        model,
        query.tracking_uri,
        convert,
        Trust.of(query.signed_by),
    )


def find_own(store: RunStore, selector: Selector, query: Query) -> OwnCheckpoint:
    """Find a checkpoint of a run whose reference is resolved; `query` tells what `best` means."""
    with foreign.hinting(store):
        return _own(store, selector, query)


def _own(store: RunStore, selector: Selector, query: Query) -> OwnCheckpoint:
    catalog = Catalog(store, Trust.of(query.signed_by))
    own = catalog.find(selector, monitor=query.monitor, mode=query.mode)
    uri = uri_of(store.run_id, own.name)
    return OwnCheckpoint(store.run_id, own.name, own.manifest.epoch, uri, catalog, own)
