"""The checkpoints of a run: listing, selecting, verifying and fetching them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.agreement import disagreement
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.fingerprint import Fingerprint
from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.monitor import MODES
from mlflow_ckpt._format.ranking import best_of
from mlflow_ckpt._format.reference import Selector, uri_of
from mlflow_ckpt._format.signing import signature
from mlflow_ckpt._format.signing.trust import Trust
from mlflow_ckpt._format.text import abridged
from mlflow_ckpt._format.verification import VerificationResult, read_manifest, verify_directory
from mlflow_ckpt._tracking import index, vanishing
from mlflow_ckpt._tracking.checkpoint import Checkpoint, no_checkpoints
from mlflow_ckpt._tracking.contents import Contents, Result
from mlflow_ckpt._tracking.download import Progress, download
from mlflow_ckpt._tracking.references import resolve
from mlflow_ckpt._tracking.store import RunStore, StoredFile
from mlflow_ckpt.errors import (
    CheckpointNotFoundError,
    IntegrityError,
    InvalidArgumentError,
    ManifestError,
    NewerSchemaError,
    TrackingError,
)


class Catalog:
    """The checkpoints of one run.

    A directory without a manifest is not a checkpoint: its upload is in progress or was aborted.

    Args:
        store: The run.
        trust: By whom checkpoints must be signed; if None, as this machine's policies require.

    Attributes:
        store: The run.
    """

    def __init__(self, store: RunStore, trust: Trust | None = None) -> None:
        self.store = store
        self._trust = trust

    @property
    def trust(self) -> Trust:
        """By whom checkpoints must be signed to be opened.

        Raises:
            InvalidArgumentError: If a policy of this machine cannot be understood.
        """
        if self._trust is None:
            self._trust = Trust.of()
        return self._trust

    @classmethod
    def of(cls, run: str, tracking_uri: str | None = None, trust: Trust | None = None) -> Catalog:
        """Return the catalog of the run that a run id or URI names.

        Raises:
            SelectorError, CheckpointNotFoundError, TrackingError: As in `references.resolve`.
        """
        return cls(RunStore(resolve(run, tracking_uri=tracking_uri).run_id, tracking_uri), trust)

    def scan(self) -> tuple[list[Checkpoint], dict[str, ManifestError]]:
        """Return the complete checkpoints, oldest first, and the damaged ones by name.

        On a server, reads the index and the newest manifest only, so that the number of requests
        does not grow with the number of checkpoints.
        """
        return self.overview()[:2]

    def overview(self) -> tuple[list[Checkpoint], dict[str, ManifestError], list[StoredFile]]:
        """Return the result of `scan`, and all artifacts directly below `checkpoints/`."""
        contents = self._contents()
        while (complete := contents.complete) and complete[-1].name in contents.cached:
            self._confirm(contents, complete[-1])
        return complete, contents.damaged, contents.listed

    def survey(self) -> tuple[list[Checkpoint], dict[str, ManifestError], list[str]]:
        """Return the complete checkpoints, oldest first; the damaged ones; and the incomplete ones.

        The incomplete ones have no manifest: their upload is in progress or was aborted.
        """
        contents = self._contents()
        for checkpoint in contents.complete:
            if checkpoint.name in contents.cached:
                self._confirm(contents, checkpoint)
        without = [name for name, result in contents.results.items() if result is None]
        # Those that were removed meanwhile are not there any more.
        incomplete = [name for name in without if self.store.list(layout.artifact_path(name))]
        return contents.complete, contents.damaged, incomplete

    def checkpoints(self) -> list[Checkpoint]:
        """Return the complete checkpoints, oldest first (by epoch, then step).

        Raises:
            ManifestError: If the manifest of any checkpoint cannot be read.
        """
        complete, damaged = self.scan()
        self._require_undamaged(damaged)
        return complete

    def find(
        self, selector: Selector, *, monitor: str | None = None, mode: str | None = None
    ) -> Checkpoint:
        """Find a checkpoint by a selector.

        Args:
            selector: The selector.
            monitor: For `best`, the metric to rank by; the recorded one if None.
            mode: For `best`, `"min"` or `"max"`; the recorded or customary one if None.

        Raises:
            CheckpointNotFoundError: If the run has no such checkpoint.
            MetricNotFoundError: If no checkpoint recorded the metric of `best`.
            ManifestError: If the manifest, or for `latest` and `best` any manifest, cannot be read.
            InvalidArgumentError: If `mode` is invalid.
        """
        if mode is not None and mode not in MODES:
            raise InvalidArgumentError(f"Expected mode 'min' or 'max'. Received: {mode!r}")
        if selector.name is not None:
            return self._find_by_name(selector.name)
        contents = self._contents()
        while True:
            self._require_undamaged(contents.damaged)
            complete = contents.complete
            if not complete:
                raise no_checkpoints(self.store.run_id)
            latest = selector.kind == "latest"
            checkpoint = complete[-1] if latest else best_of(complete, monitor, mode)
            if checkpoint.name not in contents.cached:
                return checkpoint
            self._confirm(contents, checkpoint)

    def verify(
        self, checkpoint: Checkpoint, progress: Progress | None = None
    ) -> VerificationResult:
        """Compare every file of a checkpoint with its manifest.

        Raises:
            CheckpointNotFoundError: If it is removed meanwhile.
        """
        with (
            vanishing.noticed(self.store, checkpoint.name),
            self._files(self._current(checkpoint), progress) as directory,
        ):
            result = self._signed(_verify(checkpoint, directory), directory)
        if not result.ok and vanishing.is_removed(self.store, checkpoint.name):
            raise vanishing.removed_error(self.store.run_id, checkpoint.name)
        return result

    def fingerprint(self, checkpoint: Checkpoint) -> Fingerprint:
        """Read the fingerprint of a checkpoint, without its other files.

        Raises:
            CheckpointNotFoundError: If the checkpoint is removed meanwhile.
            IntegrityError: If it is missing, or not the one that was saved.
        """
        with vanishing.noticed(self.store, checkpoint.name):
            return self._fingerprint(checkpoint)

    def _fingerprint(self, checkpoint: Checkpoint) -> Fingerprint:
        text = self.store.read(f"{checkpoint.artifact_path}/{layout.FINGERPRINT}")
        # The manifest at hand may come from the index, which may be stale.
        if text is None or not (
            _lists(checkpoint, text) or _lists(self._read(checkpoint.name), text)
        ):
            raise IntegrityError(
                f"{layout.FINGERPRINT} of {checkpoint.name} is missing or was altered. See what "
                f"else is: mlflow-ckpt verify {uri_of(checkpoint.run_id, checkpoint.name)}"
            )
        return Fingerprint.from_json(text)

    @contextmanager
    def fetch(self, checkpoint: Checkpoint, progress: Progress | None = None) -> Iterator[Path]:
        """Yield a directory with the checkpoint's verified files.

        Args:
            checkpoint: The checkpoint.
            progress: Called with bytes done and total bytes if files are downloaded.

        Raises:
            CheckpointNotFoundError: If it is removed meanwhile, or while the context lasts and the
                files are the run's own.
            VerificationError: If a file is missing, extra or altered.
            SignatureError: If it is not signed by whom it must be.
        """
        with ExitStack() as stack:
            with vanishing.noticed(self.store, checkpoint.name):
                directory = stack.enter_context(self._files(checkpoint, progress))
                self._require(checkpoint, directory)
            if directory == self.store.local_path(checkpoint.artifact_path):
                stack.enter_context(vanishing.noticed(self.store, checkpoint.name))
            yield directory

    def deliver(self, checkpoint: Checkpoint, directory: Path) -> None:
        """Copy or download a checkpoint's files, and verify the copies.

        Raises:
            CheckpointNotFoundError: If it is removed meanwhile.
            VerificationError: If a file is missing, extra or altered.
        """
        with vanishing.noticed(self.store, checkpoint.name):
            self._copy(checkpoint, directory, None)
            self._require(checkpoint, directory)

    def _require(self, checkpoint: Checkpoint, directory: Path) -> None:
        """Verify a checkpoint's files and, if one is required, its signature."""
        _compare(checkpoint, directory, checkpoint.manifest).raise_if_damaged()
        signature.require(directory, checkpoint.manifest, self.trust)

    def _signed(self, result: VerificationResult, directory: Path) -> VerificationResult:
        """Add to a result by whom an undamaged checkpoint is signed, if that is required."""
        if not result.ok:
            return result
        try:
            signed_by = signature.require(directory, read_manifest(directory), self.trust)
        except IntegrityError as error:
            return replace(result, error=str(error))
        return replace(result, signed_by=signed_by)

    def _current(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint with the manifest in its directory, not that of a stale index."""
        result = checkpoint if self._is_local() else self._read(checkpoint.name)
        return result if isinstance(result, Checkpoint) else checkpoint

    @contextmanager
    def _files(self, checkpoint: Checkpoint, progress: Progress | None) -> Iterator[Path]:
        local = self.store.local_path(checkpoint.artifact_path)
        is_local = local is not None and local.is_dir()
        # What is signed is opened in a copy, which nobody can alter after it was verified.
        if local is not None and is_local and not self.trust.is_required:
            yield local
            return
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary:
            directory = Path(temporary)
            self._copy(checkpoint, directory, progress)
            yield directory

    def _copy(self, checkpoint: Checkpoint, directory: Path, progress: Progress | None) -> None:
        local, manifest = self.store.local_path(checkpoint.artifact_path), checkpoint.manifest
        if local is not None and local.is_dir():
            # First, as what is there may be no files.
            _compare(checkpoint, local, manifest).raise_if_damaged()
        # Also from a local store: with their modes, others could still write to the copies.
        download(self.store, checkpoint.artifact_path, directory, progress, manifest)

    def _contents(self) -> Contents:
        """Read the run's checkpoint directories with as few requests as possible."""
        listed = self.store.list(layout.CHECKPOINTS_DIR)
        names = index.checkpoint_names(listed)
        cached: dict[str, Manifest] = {}
        # On a local disk the index is not faster than the manifests.
        if not self._is_local() and any(item.path == index.PATH for item in listed):
            cached = index.read(self.store)
        uncached = [name for name in names if name not in cached]
        manifests = cached | index.read_manifests(self.store, uncached)
        results = {name: self._result(manifests[name]) for name in names}
        return Contents(results, cached.keys() & names, listed)

    def _confirm(self, contents: Contents, checkpoint: Checkpoint) -> None:
        """Read the manifest of a cached checkpoint, which takes precedence over the index."""
        contents.confirm(checkpoint.name, self._read(checkpoint.name))

    def _is_local(self) -> bool:
        directory = self.store.local_path(layout.CHECKPOINTS_DIR)
        return directory is not None and directory.is_dir()

    def _read(self, name: str) -> Result:
        return self._result(index.read_manifest(self.store, name))

    def _result(self, result: Manifest | ManifestError | None) -> Result:
        return Checkpoint(self.store.run_id, result) if isinstance(result, Manifest) else result

    def _require_undamaged(self, damaged: Mapping[str, ManifestError]) -> None:
        for name, error in damaged.items():
            raise _restated(
                error,
                f"The checkpoint {name} of run {self.store.run_id} cannot be read: {error} "
                "Name another one by its epoch or step.",
            ) from error

    def _find_by_name(self, name: CheckpointName) -> Checkpoint:
        _ = self.store.run  # raises RunNotFoundError if the run does not exist
        result = self._read(str(name))
        if isinstance(result, ManifestError):
            raise _restated(
                result, f"The checkpoint {name} of run {self.store.run_id}: {result}"
            ) from result
        if result is None:
            available = [checkpoint.name for checkpoint in self.scan()[0]]
            raise CheckpointNotFoundError(
                f"The run {self.store.run_id} has no checkpoint {name}. It has: "
                f"{abridged(available) or 'none'}.",
                run_id=self.store.run_id,
                available=available,
            )
        return result


def _verify(checkpoint: Checkpoint, directory: Path) -> VerificationResult:
    try:
        # Not `checkpoint.manifest`, which may come from the index rather than the file.
        manifest = read_manifest(directory)
        index.require_place(manifest, checkpoint.run_id, checkpoint.name)
    except ManifestError as error:
        return VerificationResult(checkpoint.name, error=str(error))
    return _compare(checkpoint, directory, manifest)


def _compare(checkpoint: Checkpoint, directory: Path, manifest: Manifest) -> VerificationResult:
    """Compare files with a manifest, and with each other.

    Raises:
        TrackingError: If the disk fails that holds them.
    """
    try:
        result = verify_directory(directory, manifest)
        if result.ok and (error := disagreement(directory, manifest)):
            return replace(result, error=error)
        return result  # noqa: TRY300
    except OSError as error:
        raise TrackingError(
            f"The checkpoint {checkpoint.name} of run {checkpoint.run_id} cannot be read: {error}."
        ) from error


def _lists(result: Result, fingerprint: bytes) -> bool:
    """Whether a checkpoint's manifest lists a fingerprint."""
    files = result.manifest.files if isinstance(result, Checkpoint) else ()
    digests = {file.path: file.digest for file in files}
    return digests.get(layout.FINGERPRINT) == Digest.of_bytes(fingerprint)


def _restated(error: ManifestError, message: str) -> ManifestError:
    """Return an error of the same type and attributes with another message."""
    if isinstance(error, NewerSchemaError):
        return NewerSchemaError(message, found=error.found, supported=error.supported)
    return ManifestError(message)
