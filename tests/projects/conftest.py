"""A small training through `mlflow run`, made once, and the helpers to make others."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow.python.framework import config

from devtools.stores import Store, current, open_sqlite
from tests.support import shared
from tests.support.processes import run_python

REPOSITORY = Path(__file__).parents[2]
CLASS_NAMES = ["dark", "bright"]


def write_npz(path: Path, **changes: np.ndarray | None) -> Path:
    """Write 48 + 16 grey 28x28 images, dark or bright; `changes` replace or drop arrays."""
    generator = np.random.default_rng(0)
    y_train, y_test = np.arange(48) % 2, np.arange(16) % 2
    arrays: dict[str, np.ndarray | None] = {
        "x_train": images_of(y_train, generator),
        "y_train": y_train,
        "x_test": images_of(y_test, generator),
        "y_test": y_test,
        "class_names": np.array(CLASS_NAMES),
    }
    arrays |= changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def images_of(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    noise = generator.integers(0, 60, size=(len(labels), 28, 28))
    return (noise + 180 * labels[:, np.newaxis, np.newaxis]).astype(np.uint8)


def run_module(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENTS` with this repository importable."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return run_python(
        f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)",
        *arguments,
        cwd=cwd,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)},
    )


@pytest.fixture(autouse=True)
def determinism_ends_with_the_test() -> Iterator[None]:
    """Training asks TensorFlow for deterministic operations, which also rules out XLA."""
    yield
    # TensorFlow makes public only the way in.
    config.disable_op_determinism()


@dataclass(frozen=True)
class ProjectRun:
    """A training of two epochs through `mlflow run`, on `write_npz`'s images."""

    run_id: str
    output: str
    data: Path


@pytest.fixture(scope="session")
def made_once(session_directory: Path, template_database: Path) -> dict[str, Any]:
    """The training, made once for all workers, in a store that nobody changes."""

    def train() -> dict[str, Any]:
        (session_directory / "project").mkdir()
        store = open_sqlite(template_database, session_directory / "project")
        folder = session_directory / "with blank, comma"
        folder.mkdir()
        data = write_npz(folder / "two classes.npz")
        with current(store):
            done = run_module(
                *("mlflow", "run", str(REPOSITORY), "--env-manager", "local"),
                *("-P", "learning_rate=1e-3", "-P", "batch_size=16", "-P", f"dataset={data}"),
                cwd=folder,
            )
        assert done.returncode == 0, done.stdout + done.stderr
        (run_id,) = re.findall(r"Run (\w{32}) holds 2 checkpoints", done.stdout)
        return {
            "run_id": run_id,
            "output": done.stdout,
            "data": str(data),
            "uri": store.uri,
            "artifacts": str(store.artifacts),
            "experiment_id": store.experiment_id,
        }

    return shared.started_once(session_directory, "project", train)


@pytest.fixture(scope="session")
def project_store(made_once: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the training, of which each worker has a database of its own."""
    database = tmp_path_factory.mktemp("project") / "mlflow.db"
    shutil.copy(made_once["uri"].removeprefix("sqlite:///"), database)
    return Store(f"sqlite:///{database}", Path(made_once["artifacts"]), made_once["experiment_id"])


@pytest.fixture(scope="session")
def project_run(made_once: dict[str, Any], project_store: Store) -> ProjectRun:
    output = made_once["output"].replace(made_once["uri"], project_store.uri)
    return ProjectRun(made_once["run_id"], output, Path(made_once["data"]))


@pytest.fixture
def project(project_run: ProjectRun, project_store: Store) -> Iterator[ProjectRun]:
    """The training, with its store as MLflow's current one."""
    with current(project_store):
        yield project_run
