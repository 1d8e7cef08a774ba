"""A checkpoint of every schema version that was ever written loads for ever."""

from __future__ import annotations

import shutil
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


@pytest.fixture(params=VERSIONS)
def fixture_run(request: pytest.FixtureRequest, local_store: Store) -> tuple[str, Path]:
    """A run of the store that holds the fixture as its only checkpoint."""
    directory = DATA / request.param
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(directory / "epoch_0002"), "checkpoints/epoch_0002")
    return str(run.info.run_id), directory


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
