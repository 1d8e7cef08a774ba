"""Fixtures that all tests share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile

# Before anything imports TensorFlow or MLflow; child processes inherit them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import keras
    import numpy as np

    from devtools.stores import Store

# A busy machine is slow at times: that is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A shell starts jobs in the background with SIGINT ignored, which child processes would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CLASS_NAMES = ["cat", "dog", "frog"]


@pytest.fixture(scope="session", autouse=True)
def session_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of this test session, of all its workers."""
    from tests.support import processes, shared

    directory = shared.root(tmp_path_factory)
    processes.set_directory(directory)
    return directory


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests' files in memory where there is room.

    Databases wait for the disk at every commit, and a shared disk may stall for longer than MLflow
    waits for a database.
    """
    memory = Path("/dev/shm")
    if hasattr(config, "workerinput") or "PYTEST_DEBUG_TEMPROOT" in os.environ:
        return
    if memory.is_dir() and shutil.disk_usage(memory).free > 4e9:
        directory = tempfile.mkdtemp(prefix="mlflow_ckpt_tests_", dir=memory)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = directory
        config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))


# Files with a single test that takes as long as all others of a worker: they begin first.
_FIRST = ("test_kills.py", "test_kinds.py", "test_stress.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the long proofs their time, and begin with the longest."""
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))
    items.sort(key=lambda item: item.path.name not in _FIRST)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol() -> Iterator[Any]:
    """Collect garbage before it gets old, once pytest has let go of a test's fixtures and logs.

    An exception in `fit` leaves a cycle with an iterator of tf.data. Now and then, TensorFlow 2.21
    takes as long to free one as it has existed, a minute at most, and all threads wait for that.
    """
    result = yield
    gc.collect()
    gc.freeze()  # the next collection looks only at what is new: 1 ms instead of 300
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the tests counted, and what was done with hostile inputs."""
    for title in ("counted", "hostile"):
        lines = [
            f"{report.nodeid}: {value}" if title == "counted" else str(value)
            for reports in terminalreporter.stats.values()
            for report in reports
            for name, value in getattr(report, "user_properties", ())
            if name == title and report.when == "call"
        ]
        if lines:
            terminalreporter.section(title)
            terminalreporter.write_line("\n".join(lines))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End what the workers shared, once the last of them has ended."""
    from tests.support import shared

    factory = getattr(config, "_tmp_path_factory", None)
    if factory is not None and not hasattr(config, "workerinput"):
        shared.end_all(factory.getbasetemp())


@pytest.fixture(scope="session", autouse=True)
def spool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A spool of the tests' own, which child processes inherit."""
    path = tmp_path_factory.mktemp("spool")
    # Where the servers of trainings are noted; for good, as some end only when this process does.
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_CKPT_SPOOL", str(path))
        yield path


@pytest.fixture
def spool_below_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spool that nobody can make, not even root."""
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "spool"
    monkeypatch.setenv("MLFLOW_CKPT_SPOOL", str(path))
    return path


@pytest.fixture(scope="session")
def template_database(session_directory: Path) -> Path:
    """An empty MLflow database, to be copied."""
    from devtools.stores import create_database
    from tests.support import shared

    path = session_directory / "template.db"

    def create() -> dict[str, Any]:
        create_database(path)
        return {}

    shared.started_once(session_directory, "template", create)
    return path


@pytest.fixture(scope="session")
def server(
    session_directory: Path, template_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Store:
    """A real `mlflow server` over HTTP that proxies artifacts, and an experiment of our own there.

    All workers share it.
    """
    from devtools.stores import Server, Store, create_experiment
    from tests.support import shared

    def start() -> dict[str, Any]:
        directory = session_directory / "server"
        directory.mkdir()
        server = Server(template_database, directory)
        group = server.start()
        server.leave()
        return {"group": group, "uri": server.uri, "artifacts": str(server.artifacts)}

    started = shared.started_once(session_directory, "server", start)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    experiment = create_experiment(started["uri"], f"tests {worker}".strip())
    return Store(started["uri"], Path(started["artifacts"]), experiment)


@pytest.fixture(scope="session")
def sqlite_store(template_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A SQLite store whose artifacts are plain local files."""
    from devtools.stores import open_sqlite

    return open_sqlite(template_database, tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(params=["sqlite", "http"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Each kind of store in turn, as MLflow's current one."""
    from devtools.stores import current

    name = "sqlite_store" if request.param == "sqlite" else "server"
    with current(request.getfixturevalue(name)) as made_current:
        yield made_current


@pytest.fixture
def store_uri(store: Store) -> str:
    """The tracking URI of each kind of store in turn, set as MLflow's current one."""
    return store.uri


@pytest.fixture
def local_store(sqlite_store: Store) -> Iterator[Store]:
    """The SQLite store as MLflow's current one."""
    from devtools.stores import current

    with current(sqlite_store) as made_current:
        yield made_current


@pytest.fixture
def http_store(server: Store) -> Iterator[Store]:
    """The HTTP server as MLflow's current store."""
    from devtools.stores import current

    with current(server) as made_current:
        yield made_current


@dataclass(frozen=True)
class TrainedRun:
    """A finished training of two epochs, kept on the HTTP server.

    Attributes:
        run_id: The run, with the checkpoints epoch_0001 and epoch_0002 in both forms.
        model: The trained model as it is after the second epoch.
        x: Training inputs, (64, 8) float32.
        y: Labels, (64,) int64 in 0..2.
        store: Where the run is.
    """

    run_id: str
    model: keras.Model
    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    store: Store


@pytest.fixture(scope="session")
def trained_run(server: Store) -> TrainedRun:
    """A run with two checkpoints in both forms, made once. Read it, never change it."""
    import keras
    import mlflow
    import numpy as np

    import mlflow_ckpt
    from devtools.stores import current

    keras.utils.set_random_seed(1)
    generator = np.random.default_rng(1)
    x = generator.normal(size=(64, 8)).astype("float32")
    y = np.argmax(x[:, :3], axis=1)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    callback = mlflow_ckpt.MlflowCheckpoint(
        forms=("full", "split"), metadata={"class_names": CLASS_NAMES}
    )
    with current(server), mlflow.start_run() as run:
        model.fit(x, y, validation_data=(x, y), epochs=2, verbose=0, callbacks=[callback])
    return TrainedRun(run.info.run_id, model, x, y, server)
