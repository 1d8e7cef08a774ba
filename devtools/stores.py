"""Tracking stores for tests: a real server over HTTP, and SQLite with local artifacts."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.tracking import MlflowClient
from tenacity import Retrying, retry_if_not_result, stop_after_delay, wait_fixed

_START_TIMEOUT_SECONDS = 120


class ServerError(Exception):
    """A server did not start, or is not running."""


@dataclass(frozen=True)
class Store:
    """A tracking store.

    Attributes:
        uri: Its tracking URI.
        artifacts: Local directory that contains all its artifacts.
        experiment_id: An experiment in it for the tests' runs.
    """

    uri: str
    artifacts: Path
    experiment_id: str

    def artifacts_of(self, run_id: str) -> Path:
        """Return the directory of a run's artifacts."""
        (directory,) = (
            *self.artifacts.glob(f"{run_id}/artifacts"),
            *self.artifacts.glob(f"*/{run_id}/artifacts"),
        )
        return directory

    def checkpoint_directory(self, run_id: str, name: str) -> Path:
        """Return the directory of a checkpoint's files."""
        directory = self.artifacts_of(run_id) / "checkpoints" / name
        if not directory.exists():
            raise FileNotFoundError(directory)
        return directory


def create_database(path: Path) -> None:
    """Create MLflow's tables. This takes seconds, so create the file once and copy it."""
    MlflowClient(f"sqlite:///{path}").search_experiments()


def open_sqlite(template: Path, directory: Path) -> Store:
    """Open a new store in `directory`, whose artifacts are plain local files."""
    shutil.copy(template, directory / "mlflow.db")
    uri = f"sqlite:///{directory / 'mlflow.db'}"
    artifacts = directory / "artifacts"
    artifacts.mkdir()
    experiment = MlflowClient(uri).create_experiment("tests", artifact_location=artifacts.as_uri())
    return Store(uri, artifacts, experiment)


class Server:
    """An `mlflow server` with proxied artifacts, in its own process group.

    It can be stopped and restarted with the same data.

    Args:
        template: An empty database.
        directory: Directory of its data.
    """

    def __init__(self, template: Path, directory: Path) -> None:
        shutil.copy(template, directory / "mlflow.db")
        self.artifacts = directory / "artifacts"
        self.artifacts.mkdir()
        self._directory = directory
        self._port = free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Start the server, wait until it answers, and return the id of its process group."""
        database = f"sqlite:///{self._directory / 'mlflow.db'}"
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(self._port), "--workers", "1", "--backend-store-uri", database),
            *("--artifacts-destination", str(self.artifacts)),
        ]
        # Disable MLflow's background jobs, whose eight processes are not needed here.
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        log = self._directory / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - mlflow itself
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env=environment,
                start_new_session=True,
            )
        _wait_until_healthy(self.uri, self._process, log)
        return self._process.pid

    def leave(self) -> None:
        """Let the server outlive this process; the caller must end its process group."""
        if self._process is not None:
            self._process.returncode = 0
            self._process = None

    def stop(self) -> None:
        """Stop the server, forcibly if necessary."""
        if self._process is not None:
            _end_group(self._process)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend the server, so that it accepts connections but answers none."""
        if self._process is None:
            raise ServerError("The server is not running.")
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)


@contextmanager
def serve(template: Path, directory: Path) -> Iterator[Store]:
    """Run a server for the duration of the context."""
    server = Server(template, directory)
    try:
        server.start()
        yield open_server(server)
    finally:
        server.stop()


def open_server(server: Server) -> Store:
    """Return a running server as a store."""
    return Store(server.uri, server.artifacts, create_experiment(server.uri, "tests"))


def create_experiment(uri: str, name: str) -> str:
    """Create an experiment, and return its id."""
    return str(MlflowClient(uri).create_experiment(name))


@contextmanager
def current(store: Store) -> Iterator[Store]:
    """Make a store MLflow's current one, and restore the previous one afterwards."""
    uri_before = mlflow.get_tracking_uri()
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")
    before = {name: os.environ.get(name) for name in names}
    active = mlflow.tracking.fluent._active_experiment_id
    mlflow.tracking.fluent._active_experiment_id = None
    mlflow.set_tracking_uri(store.uri)
    os.environ.update(MLFLOW_TRACKING_URI=store.uri, MLFLOW_EXPERIMENT_ID=store.experiment_id)
    try:
        yield store
    finally:
        while mlflow.active_run() is not None:
            mlflow.end_run()
        mlflow.set_tracking_uri(uri_before)
        mlflow.tracking.fluent._active_experiment_id = active
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def free_port() -> int:
    """Return an unused port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_healthy(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def fail(_: object) -> None:
        text = log.read_text(errors="replace")[-3000:]
        raise ServerError(f"mlflow server did not start:\n{text}")

    def is_up() -> bool:
        if process.poll() is not None:
            fail(process)
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5):  # noqa: S310 - http, as above
                return True
        except OSError:
            return False

    Retrying(
        retry=retry_if_not_result(bool),
        stop=stop_after_delay(_START_TIMEOUT_SECONDS),
        wait=wait_fixed(0.2),
        retry_error_callback=fail,
    )(is_up)


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
