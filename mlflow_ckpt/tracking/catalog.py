"""The checkpoints of a run: which there are, which one a selector means, and their files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Thread

from mlflow_ckpt.errors import (
    CheckpointNotFoundError,
    InvalidArgumentError,
    ManifestError,
    MetricNotFoundError,
    NewerSchemaError,
)
from mlflow_ckpt.format import layout
from mlflow_ckpt.format.layout import CheckpointName
from mlflow_ckpt.format.manifest import Manifest, safe_path
from mlflow_ckpt.format.monitor import MODES, Monitor, infer_mode
from mlflow_ckpt.format.reference import Selector
from mlflow_ckpt.format.verification import VerificationResult, verify_directory
from mlflow_ckpt.tracking.store import RunStore

# Requests under way at once: enough to hide a round trip, few enough for a small server.
_PARALLEL = 8
# Stores give no progress within a file; the file that grows does.
_WATCH_SECONDS = 0.1
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint of a run.

    Attributes:
        run_id: The run that holds it.
        manifest: What it contains.
    """

    run_id: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """Directory name, such as `epoch_0003`."""
        return self.manifest.name

    @property
    def artifact_path(self) -> str:
        """Run-relative path of its directory."""
        return layout.artifact_path(self.name)

    @property
    def uri(self) -> str:
        """The URI that `mlflow.keras.load_model` and MLflow's commands take."""
        return f"runs:/{self.run_id}/{self.artifact_path}"


class Catalog:
    """The checkpoints of one run.

    A directory without a manifest is not a checkpoint: an upload that is under way, or that died.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store

    def scan(self) -> tuple[list[Checkpoint], dict[str, ManifestError]]:
        """Return the complete checkpoints, oldest first, and the damaged ones by name."""
        names = self._names()
        with ThreadPoolExecutor(_PARALLEL) as pool:
            results = list(pool.map(self._read, names))
        complete = [result for result in results if isinstance(result, Checkpoint)]
        damaged = {
            name: result
            for name, result in zip(names, results, strict=True)
            if isinstance(result, ManifestError)
        }
        # A new optimizer counts its steps from zero again; epochs go on.
        complete.sort(key=lambda checkpoint: (checkpoint.manifest.epoch, checkpoint.manifest.step))
        return complete, damaged

    def checkpoints(self) -> list[Checkpoint]:
        """Return the complete checkpoints, oldest first (by epoch, then step).

        Raises:
            ManifestError: If one has a manifest that cannot be read.
        """
        complete, damaged = self.scan()
        for name, error in damaged.items():
            raise _restated(
                error,
                f"The checkpoint {name} of run {self._store.run_id} cannot be read: {error} "
                "Name another one by its epoch or step.",
            ) from error
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
        found = self.checkpoints()
        if not found:
            raise no_checkpoints(self._store.run_id)
        return found[-1] if selector.kind == "latest" else best_of(found, monitor, mode)

    def verify(
        self, checkpoint: Checkpoint, progress: Progress | None = None
    ) -> VerificationResult:
        """Compare every file of a checkpoint with its manifest."""
        with self._files(checkpoint, progress) as directory:
            return verify_directory(directory, checkpoint.manifest)

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

    @contextmanager
    def _files(self, checkpoint: Checkpoint, progress: Progress | None) -> Iterator[Path]:
        local = self._store.local_path(checkpoint.artifact_path)
        if local is not None and local.is_dir():
            yield local
            return
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary:
            directory = Path(temporary)
            self._download(checkpoint, directory, progress or _silent)
            yield directory

    def _download(self, checkpoint: Checkpoint, directory: Path, progress: Progress) -> None:
        """Download all that the store has in the checkpoint's directory, listed or not."""
        items = list(self._store.walk(checkpoint.artifact_path))
        total = sum(item.size or 0 for item in items)
        done = 0
        for item in items:
            inside = PurePosixPath(item.path).relative_to(checkpoint.artifact_path)
            # The store's listing is not ours: it must not lead out of the directory.
            target = directory / safe_path(str(inside))
            target.parent.mkdir(parents=True, exist_ok=True)
            for size in self._downloading(item.path, target):
                progress(done + size, total)
            done += item.size or 0
            progress(done, total)

    def _downloading(self, path: str, target: Path) -> Iterator[int]:
        """Download one file, and yield how much of it is there while it grows."""
        failures: list[Exception] = []

        def download() -> None:
            try:
                self._store.download(path, target)
            except Exception as error:  # noqa: BLE001 - raised again below, for the caller
                failures.append(error)

        # A daemon: Ctrl-C need not wait for the rest of a large file.
        thread = Thread(target=download, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_WATCH_SECONDS)
            yield target.stat().st_size if target.exists() else 0
        if failures:
            raise failures[0]

    def _names(self) -> list[str]:
        entries = self._store.list(layout.CHECKPOINTS_DIR)
        names = (entry.path.rpartition("/")[2] for entry in entries if entry.is_dir)
        return [name for name in names if CheckpointName.parse(name)]

    def _read(self, name: str) -> Checkpoint | ManifestError | None:
        text = self._store.read(f"{layout.artifact_path(name)}/{layout.MANIFEST}")
        if text is None:
            return None
        try:
            manifest = Manifest.from_json(text)
        except ManifestError as error:
            return error
        if manifest.name != name:
            return ManifestError(f"manifest.json belongs to another checkpoint, {manifest.name}.")
        return Checkpoint(self._store.run_id, manifest)

    def _named(self, name: CheckpointName) -> Checkpoint:
        _ = self._store.run  # an unknown run is told as such
        result = self._read(str(name))
        if isinstance(result, ManifestError):
            raise _restated(
                result, f"The checkpoint {name} of run {self._store.run_id}: {result}"
            ) from result
        if result is None:
            available = [checkpoint.name for checkpoint in self.scan()[0]]
            raise CheckpointNotFoundError(
                f"The run {self._store.run_id} has no checkpoint {name}. It has: "
                f"{_abridged(available) or 'none'}.",
                run_id=self._store.run_id,
                available=available,
            )
        return result


def _silent(done: int, total: int) -> None:
    """Take progress and show nothing."""


def no_checkpoints(run_id: str) -> CheckpointNotFoundError:
    """Return the error for a run that has none."""
    return CheckpointNotFoundError(
        f"The run {run_id} has no checkpoints. "
        "Train with mlflow_ckpt.MlflowCheckpoint() among the callbacks.",
        run_id=run_id,
    )


def recorded_monitor(checkpoints: Collection[Checkpoint]) -> Monitor | None:
    """Return the monitor that the newest checkpoint recorded, or None."""
    for checkpoint in reversed(list(checkpoints)):
        if checkpoint.manifest.monitor is not None:
            return checkpoint.manifest.monitor
    return None


def best_of(found: list[Checkpoint], monitor: str | None, mode: str | None) -> Checkpoint:
    """Return the best of several checkpoints (the earliest of equals).

    Raises:
        MetricNotFoundError: If none recorded the metric, or only NaN.
        InvalidArgumentError: If it is unclear which way the metric improves.
    """
    recorded = recorded_monitor(found)
    available = sorted({name for checkpoint in found for name in checkpoint.manifest.metrics})
    name = monitor or (recorded.name if recorded else None)
    if name is None:
        raise MetricNotFoundError(
            "No checkpoint of the run recorded a metric to judge by. "
            f"Name one: monitor=… (--monitor); recorded: {', '.join(available) or 'none'}.",
            metric="",
            available=available,
        )
    if mode is None:
        mode = recorded.mode if recorded and recorded.name == name else infer_mode(name)
    candidates = [c for c in found if name in c.manifest.metrics]
    if not candidates:
        raise MetricNotFoundError(
            f"No checkpoint of the run recorded the metric {name!r}. "
            f"Recorded: {', '.join(available) or 'none'}.",
            metric=name,
            available=available,
        )
    if mode is None:
        raise InvalidArgumentError(
            f"Whether a high or a low {name!r} is better cannot be told from its name. "
            "Say mode='min' or mode='max' (--mode)."
        )
    position = Monitor(name, mode).best(c.manifest.metrics[name] for c in candidates)
    if position is None:
        raise MetricNotFoundError(
            f"The metric {name!r} is NaN in every checkpoint of the run.",
            metric=name,
            available=available,
        )
    return candidates[position]


def _restated(error: ManifestError, message: str) -> ManifestError:
    """Return an error of the same kind and context that says `message`."""
    if isinstance(error, NewerSchemaError):
        return NewerSchemaError(message, found=error.found, supported=error.supported)
    return ManifestError(message)


def _abridged(names: list[str], most: int = 8) -> str:
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:3])} … {', '.join(names[-3:])} ({len(names)} in all)"
