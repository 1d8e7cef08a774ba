"""Stores to save to: SQLite with local artifacts, or an `mlflow server`."""

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
    """Directories of saved checkpoints.

    Attributes:
        artifacts: Directory of all artifacts of the tracking store.
        files: Directory for callbacks that write plain files.
    """

    artifacts: Path
    files: Path

    def clear(self) -> None:
        """Delete the files that the last training saved."""
        for directory in (self.artifacts, self.files):
            for entry in directory.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def saved(self) -> list[Path]:
        """Return all saved files."""
        files = [*self.artifacts.rglob("*"), *self.files.rglob("*")]
        return [file for file in files if file.is_file()]


@contextmanager
def workspace(parent: Path | None) -> Iterator[Path]:
    """Create a directory on disk for all files, including temporary ones and the spool.

    Raises:
        BenchmarkError: If the directory is on a file system in memory.
    """
    parent = (parent or Path(tempfile.gettempdir())).resolve()
    if _filesystem(parent) in ("ramfs", "tmpfs"):
        raise BenchmarkError(
            f"{parent} lies in memory, and checkpoints belong on a disk: pass --directory."
        )
    directory = Path(tempfile.mkdtemp(prefix="checkpoint-overhead-", dir=parent))
    # Registered first and so run last: after an interrupt, other exit handlers may still write.
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
    """Create a tracking store in `directory`, and set it as MLflow's current one."""
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
        BenchmarkError: If the server does not start.
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
    """Return the file system type of `directory`; None if it is unknown, as on other systems."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return None
    mount, kind = Path("/"), "unknown"
    for line in mounts.read_text().splitlines():
        _, text, line_kind, *_ = line.split()
        path = Path(text.replace("\\040", " "))
        if directory.is_relative_to(path) and len(path.parts) >= len(mount.parts):
            mount, kind = path, line_kind
    return kind
