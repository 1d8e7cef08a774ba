"""The checkpoints of a run: which there are, which one a selector means, and their files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.monitor import MODES
from mlflow_ckpt._format.ranking import best_of
from mlflow_ckpt._format.reference import Selector
from mlflow_ckpt._format.verification import VerificationResult, read_manifest, verify_directory
from mlflow_ckpt._tracking import index
from mlflow_ckpt._tracking.checkpoint import Checkpoint, no_checkpoints
from mlflow_ckpt._tracking.download import Progress, download
from mlflow_ckpt._tracking.references import resolve
from mlflow_ckpt._tracking.store import RunStore, StoredFile
from mlflow_ckpt.errors import (
    CheckpointNotFoundError,
    InvalidArgumentError,
    ManifestError,
    NewerSchemaError,
)

_Result = Checkpoint | ManifestError | None


@dataclass(frozen=True)
class _Contents:
    """What a run has, by checkpoint name.

    Attributes:
        results: Each directory's checkpoint, why it cannot be read, or None without a manifest.
        cached: Names that nothing but the index speaks for.
        listed: All that is directly below `checkpoints/`.
    """

    results: dict[str, _Result]
    cached: set[str]
    listed: list[StoredFile]

    @property
    def complete(self) -> list[Checkpoint]:
        """The complete checkpoints, oldest first."""
        found = [result for result in self.results.values() if isinstance(result, Checkpoint)]
        return sorted(found, key=lambda checkpoint: index.by_training(checkpoint.manifest))

    @property
    def damaged(self) -> dict[str, ManifestError]:
        """Those whose manifest cannot be read."""
        results = self.results.items()
        return {name: result for name, result in results if isinstance(result, ManifestError)}

    def confirm(self, name: str, result: _Result) -> None:
        """Replace what the index says of a checkpoint by what its manifest says."""
        self.results[name] = result
        self.cached.discard(name)


class Catalog:
    """The checkpoints of one run.

    A directory without a manifest is not a checkpoint: an upload that is under way, or that died.

    Attributes:
        store: The run.
    """

    def __init__(self, store: RunStore) -> None:
        self.store = store

    @classmethod
    def of(cls, run: str, tracking_uri: str | None = None) -> Catalog:
        """Return the catalog of the run that a run id or URI names.

        Raises:
            SelectorError, CheckpointNotFoundError, TrackingError: If the run cannot be told.
        """
        return cls(RunStore(resolve(run, tracking_uri=tracking_uri).run_id, tracking_uri))

    def scan(self) -> tuple[list[Checkpoint], dict[str, ManifestError]]:
        """Return the complete checkpoints, oldest first, and the damaged ones by name.

        Where the files are on a server, this takes its word from the index, and reads the newest
        one's manifest: the number of requests does not grow with the checkpoints.
        """
        return self.overview()[:2]

    def overview(self) -> tuple[list[Checkpoint], dict[str, ManifestError], list[StoredFile]]:
        """Return the same, and all that is directly below `checkpoints/`, whoever wrote it."""
        contents = self._contents()
        while (complete := contents.complete) and complete[-1].name in contents.cached:
            self._confirm(contents, complete[-1])
        return complete, contents.damaged, contents.listed

    def survey(self) -> tuple[list[Checkpoint], dict[str, ManifestError], list[str]]:
        """Return the complete checkpoints, oldest first; the damaged ones; and the names of others.

        The others have no manifest: they are being uploaded, or their upload died.
        """
        contents = self._contents()
        for found in contents.complete:
            if found.name in contents.cached:
                self._confirm(contents, found)
        others = [name for name, result in contents.results.items() if result is None]
        return contents.complete, contents.damaged, others

    def checkpoints(self) -> list[Checkpoint]:
        """Return the complete checkpoints, oldest first (by epoch, then step).

        Raises:
            ManifestError: If one has a manifest that cannot be read.
        """
        complete, damaged = self.scan()
        self._refuse_damaged(damaged)
        return complete

    def find(
        self, selector: Selector, *, monitor: str | None = None, mode: str | None = None
    ) -> Checkpoint:
        """Return the checkpoint that a selector means.

        Args:
            selector: Which one.
            monitor: For `best`, the metric to judge by; the recorded one if None.
            mode: For `best`, `"min"` or `"max"`; the recorded or customary one if None.

        Raises:
            CheckpointNotFoundError: If the run has no such checkpoint.
            MetricNotFoundError: If `best` is asked for by a metric that was never recorded.
            ManifestError: If its manifest cannot be read.
        """
        if mode is not None and mode not in MODES:
            raise InvalidArgumentError(f"Expected mode 'min' or 'max'. Received: {mode!r}")
        if selector.name is not None:
            return self._named(selector.name)
        contents = self._contents()
        while True:
            self._refuse_damaged(contents.damaged)
            found = contents.complete
            if not found:
                raise no_checkpoints(self.store.run_id)
            chosen = found[-1] if selector.kind == "latest" else best_of(found, monitor, mode)
            if chosen.name not in contents.cached:
                return chosen
            self._confirm(contents, chosen)

    def verify(
        self, checkpoint: Checkpoint, progress: Progress | None = None
    ) -> VerificationResult:
        """Compare every file of a checkpoint with the manifest that lies beside them."""
        with self._files(checkpoint, progress) as directory:
            try:
                # `checkpoint` may come from the index, which says nothing of the file itself.
                manifest = read_manifest(directory)
                index.require_name(manifest, checkpoint.name)
            except ManifestError as error:
                return VerificationResult(checkpoint.name, error=str(error))
            return verify_directory(directory, manifest)

    @contextmanager
    def fetch(self, checkpoint: Checkpoint, progress: Progress | None = None) -> Iterator[Path]:
        """Give a directory with the checkpoint's verified files, while the context lasts.

        Args:
            checkpoint: The checkpoint.
            progress: Called with bytes done and bytes in all, where files are downloaded.

        Raises:
            VerificationError: If the files are not what was saved.
        """
        with self._files(checkpoint, progress) as directory:
            verify_directory(directory, checkpoint.manifest).raise_if_damaged()
            yield directory

    def deliver(self, checkpoint: Checkpoint, directory: Path) -> None:
        """Copy or download a checkpoint's files, and compare what has arrived with its manifest.

        Args:
            checkpoint: The checkpoint.
            directory: An empty directory.

        Raises:
            VerificationError: If what has arrived is not what was saved.
        """
        local = self.store.local_path(checkpoint.artifact_path)
        if local is not None and local.is_dir():
            shutil.copytree(local, directory, dirs_exist_ok=True)
        else:
            download(self.store, checkpoint.artifact_path, directory, None)
        verify_directory(directory, checkpoint.manifest).raise_if_damaged()

    @contextmanager
    def _files(self, checkpoint: Checkpoint, progress: Progress | None) -> Iterator[Path]:
        local = self.store.local_path(checkpoint.artifact_path)
        if local is not None and local.is_dir():
            yield local
            return
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary:
            directory = Path(temporary)
            download(self.store, checkpoint.artifact_path, directory, progress)
            yield directory

    def _contents(self) -> _Contents:
        """Find out what the run has, with as few requests as there can be."""
        listed = self.store.list(layout.CHECKPOINTS_DIR)
        names = index.checkpoint_names(listed)
        cached: dict[str, Manifest] = {}
        # On this machine's disk the manifests themselves are as quick to read.
        if not self._is_local() and any(item.path == index.PATH for item in listed):
            cached = index.read(self.store)
        unknown = [name for name in names if name not in cached]
        read = cached | index.read_manifests(self.store, unknown)
        results = {name: self._result(read[name]) for name in names}
        return _Contents(results, cached.keys() & names, listed)

    def _confirm(self, contents: _Contents, checkpoint: Checkpoint) -> None:
        """Read the manifest of a checkpoint that the index told of: the manifest counts."""
        contents.confirm(checkpoint.name, self._read(checkpoint.name))

    def _is_local(self) -> bool:
        directory = self.store.local_path(layout.CHECKPOINTS_DIR)
        return directory is not None and directory.is_dir()

    def _read(self, name: str) -> _Result:
        return self._result(index.read_manifest(self.store, name))

    def _result(self, read: Manifest | ManifestError | None) -> _Result:
        return Checkpoint(self.store.run_id, read) if isinstance(read, Manifest) else read

    def _refuse_damaged(self, damaged: Mapping[str, ManifestError]) -> None:
        for name, error in damaged.items():
            raise _restated(
                error,
                f"The checkpoint {name} of run {self.store.run_id} cannot be read: {error} "
                "Name another one by its epoch or step.",
            ) from error

    def _named(self, name: CheckpointName) -> Checkpoint:
        _ = self.store.run  # an unknown run is told as such
        result = self._read(str(name))
        if isinstance(result, ManifestError):
            raise _restated(
                result, f"The checkpoint {name} of run {self.store.run_id}: {result}"
            ) from result
        if result is None:
            available = [checkpoint.name for checkpoint in self.scan()[0]]
            raise CheckpointNotFoundError(
                f"The run {self.store.run_id} has no checkpoint {name}. It has: "
                f"{_abridged(available) or 'none'}.",
                run_id=self.store.run_id,
                available=available,
            )
        return result


def _restated(error: ManifestError, message: str) -> ManifestError:
    """Return an error of the same kind and context that says `message`."""
    if isinstance(error, NewerSchemaError):
        return NewerSchemaError(message, found=error.found, supported=error.supported)
    return ManifestError(message)


def _abridged(names: list[str], most: int = 8) -> str:
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:3])} … {', '.join(names[-3:])} ({len(names)} in all)"
