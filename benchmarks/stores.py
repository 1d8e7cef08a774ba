"""The place that is saved to: SQLite with local artifacts, or a real `mlflow server`."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow

from benchmarks.errors import BenchmarkError
from devtools.stores import Server, ServerError, create_database, open_server, open_sqlite
from devtools.stores import Store as TrackingStore


@dataclass(frozen=True)
class Store:
    """Where checkpoints land.

    Attributes:
        artifacts: Directory below which all artifacts of the tracking store land.
        files: Directory for callbacks that write plain files.
    """

    artifacts: Path
    files: Path

    def clear(self) -> None:
        """Delete what the last training saved, so that the disk does not fill."""
        for directory in (self.artifacts, self.files):
            for entry in directory.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def saved(self) -> list[Path]:
        """Return every file that was saved."""
        files = [*self.artifacts.rglob("*"), *self.files.rglob("*")]
        return [file for file in files if file.is_file()]


@contextmanager
def workspace(parent: Path | None) -> Iterator[Path]:
    """Make a directory on a disk for everything, also for temporary files and mlflow_ckpt's spool.

    Raises:
        BenchmarkError: It would lie in memory, where writing costs next to nothing.
    """
    parent = (parent or Path(tempfile.gettempdir())).resolve()
    if _filesystem(parent) in ("ramfs", "tmpfs"):
        raise BenchmarkError(
            f"{parent} lies in memory, and checkpoints belong on a disk: pass --directory."
        )
    directory = Path(tempfile.mkdtemp(prefix="checkpoint-overhead-", dir=parent))
    # Registered first, so run last: after an interrupt, others may still write at exit.
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    temporary = directory / "tmp"
    temporary.mkdir()
    tempfile.tempdir = str(temporary)
    settings = {"TMPDIR": str(temporary), "MLFLOW_CKPT_SPOOL": str(directory / "spool")}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield directory
    finally:
        tempfile.tempdir = None
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def open_store(kind: str, directory: Path) -> Iterator[Store]:
    """Make a tracking store in `directory`, and make it MLflow's current one."""
    files = directory / "files"
    files.mkdir()
    opened = served(directory) if kind == "http" else _local(directory)
    with opened as store, _current(store.uri, store.experiment_id):
        yield Store(store.artifacts, files)


@contextmanager
def _local(directory: Path) -> Iterator[TrackingStore]:
    yield open_sqlite(_template(directory), directory)


@contextmanager
def served(directory: Path) -> Iterator[TrackingStore]:
    """Run an `mlflow server` on 127.0.0.1, with its data in `directory`.

    Raises:
        BenchmarkError: It does not start.
    """
    server = Server(_template(directory), directory)
    try:
        server.start()
        yield open_server(server)
    except ServerError as error:
        raise BenchmarkError(str(error)) from error
    finally:
        server.stop()


def _template(directory: Path) -> Path:
    path = directory / "template.db"
    create_database(path)
    return path


@contextmanager
def _current(uri: str, experiment_id: str) -> Iterator[None]:
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_id=experiment_id)
    try:
        yield
    finally:
        while mlflow.active_run() is not None:
            mlflow.end_run("KILLED")


def _filesystem(directory: Path) -> str | None:
    """Return the type of the file system that `directory` lies on, where Linux tells."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return None
    found = (Path("/"), "unknown")
    for line in mounts.read_text().splitlines():
        _, point, kind, *_ = line.split()
        path = Path(point.replace("\\040", " "))
        if directory.is_relative_to(path) and len(path.parts) >= len(found[0].parts):
            found = (path, kind)
    return found[1]
