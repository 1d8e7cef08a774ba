"""The place that is saved to: SQLite with local artifacts, or a real `mlflow server`."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.tracking import MlflowClient

from benchmarks.errors import BenchmarkError

_START_TIMEOUT_SECONDS = 120


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
    store = Store(directory / "artifacts", directory / "files")
    store.artifacts.mkdir()
    store.files.mkdir()
    database = f"sqlite:///{directory / 'mlflow.db'}"
    # Makes the tables, which takes a server longer than it may take to start.
    client = MlflowClient(database)
    client.search_experiments()
    if kind == "http":
        with _serve(database, store.artifacts) as uri:
            experiment = MlflowClient(uri).create_experiment("benchmark")
            with _current(uri, experiment):
                yield store
    else:
        location = store.artifacts.as_uri()
        experiment = client.create_experiment("benchmark", artifact_location=location)
        with _current(database, experiment):
            yield store


@contextmanager
def _current(uri: str, experiment_id: str) -> Iterator[None]:
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_id=experiment_id)
    try:
        yield
    finally:
        while mlflow.active_run() is not None:
            mlflow.end_run("KILLED")


@contextmanager
def _serve(database: str, artifacts: Path) -> Iterator[str]:
    """Run `mlflow server` with proxied artifacts, in a process group of its own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    uri = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", database),
        *("--artifacts-destination", str(artifacts)),
    ]
    log = artifacts.parent / "server.log"
    # Without the consumers of MLflow's own background jobs: processes that nothing here uses.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=artifacts.parent,
            env=environment,
            start_new_session=True,
        )
        try:
            _wait_until_healthy(uri, process, log)
            yield uri
        finally:
            _end_group(process)


def _wait_until_healthy(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    last_lines = log.read_text(errors="replace")[-2000:]
    raise BenchmarkError(f"mlflow server did not start; its last words were:\n{last_lines}")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for ending in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, ending)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=15)
            break
        except subprocess.TimeoutExpired:
            continue


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
