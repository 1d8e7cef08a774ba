"""A checkpoint of every schema version that was ever written loads for ever."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pytest

import mlflow_ckpt
from devtools.stores import Store

DATA = Path(__file__).parent / "data"
VERSIONS = sorted(path.name for path in DATA.glob("schema_v*"))


def test_there_is_a_fixture_of_every_schema_version() -> None:
    from mlflow_ckpt._format.manifest import SCHEMA_VERSION

    assert [f"schema_v{number}" for number in range(1, SCHEMA_VERSION + 1)] == VERSIONS


def rename_run(store: Store, run_id: str, new_id: str) -> None:
    """Give a run another id, in place of a run that has it."""
    with closing(sqlite3.connect(store.uri.removeprefix("sqlite:///"))) as database, database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            columns = {column[1] for column in database.execute(f"PRAGMA table_info({table})")}
            if "run_uuid" in columns:
                database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (new_id,))
                database.execute(
                    f"UPDATE {table} SET run_uuid = ? WHERE run_uuid = ?", (new_id, run_id)
                )


@pytest.fixture(params=VERSIONS)
def fixture_run(request: pytest.FixtureRequest, local_store: Store) -> tuple[str, Path]:
    """The run that saved the fixture, with the fixture as its only checkpoint."""
    directory = DATA / request.param
    manifest = json.loads((directory / "epoch_0002" / "manifest.json").read_text())
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(directory / "epoch_0002"), "checkpoints/epoch_0002")
    # As on a server to which the database was moved: MLflow gives a new run a new id.
    run_id = manifest["run_id"]
    rename_run(local_store, run.info.run_id, run_id)
    return run_id, directory


@pytest.mark.parametrize("form", ["full", "split"])
def test_it_loads_and_predicts_as_it_did(fixture_run: tuple[str, Path], form: str) -> None:
    run_id, directory = fixture_run
    assert mlflow_ckpt.verify(run_id).ok
    model = mlflow_ckpt.load_model(run_id, 2, form=form)
    with np.load(directory / "expected.npz") as expected:
        # Not bit for bit: the fixture may have been made on another kind of processor.
        np.testing.assert_allclose(
            model.predict(expected["x"], verbose=0), expected["predictions"], rtol=1e-5
        )
    assert mlflow_ckpt.get_checkpoint(run_id).manifest.metadata["class_names"] == ["no", "yes"]


def test_it_trains_on(fixture_run: tuple[str, Path]) -> None:
    run_id, directory = fixture_run
    model = mlflow_ckpt.load_model(run_id, 2)
    with np.load(directory / "expected.npz") as expected:
        x = expected["x"]
    model.fit(x, np.arange(8) % 2, initial_epoch=2, epochs=3, verbose=0)
    assert int(model.optimizer.iterations) == 3


def test_the_fixture_is_kept_as_it_was_written(tmp_path: Path) -> None:
    from mlflow_ckpt._format.verification import read_manifest, verify_directory

    for version in VERSIONS:
        copy = tmp_path / version
        shutil.copytree(DATA / version / "epoch_0002", copy)
        assert verify_directory(copy, read_manifest(copy)).ok
