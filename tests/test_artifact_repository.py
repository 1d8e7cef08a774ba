"""The scheme `ckpt:` in MLflow's own functions and commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from mlflow.artifacts import download_artifacts, list_artifacts
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

import mlflow_ckpt
from devtools.stores import Store, current
from mlflow_ckpt import MlflowCheckpoint
from tests.support.checkpoints import flip_byte, save_run
from tests.support.processes import run_python
from tests.support.training import Metrics, X, fit, small_model
from tests.support.waiting import PATIENCE_SECONDS

BEST = "epoch_0002"
STORES = ["sqlite_store", "server"]


@pytest.fixture(scope="module", params=STORES)
def trained_in(request: pytest.FixtureRequest) -> tuple[Store, str]:
    """Each kind of store in turn, and a run in it that nothing changes.

    The second of its three epochs is the best.
    """
    store: Store = request.getfixturevalue(request.param)
    with current(store), mlflow.start_run() as run:
        fit(small_model(), Metrics("val_loss", [0.5, 0.25, 0.75]), MlflowCheckpoint(), epochs=3)
    return store, str(run.info.run_id)


@pytest.fixture
def run_id(trained_in: tuple[Store, str]) -> Iterator[str]:
    """The run, with its store as MLflow's current one."""
    store, run_id = trained_in
    with current(store):
        yield run_id


@pytest.fixture(scope="module", params=STORES)
def altered_in(request: pytest.FixtureRequest) -> tuple[Store, str]:
    """Each kind of store in turn, and a run in it with an altered checkpoint. Only read it."""
    store: Store = request.getfixturevalue(request.param)
    with current(store):
        run_id = save_run()
    flip_byte(store.checkpoint_directory(run_id, "epoch_0001") / "data" / "model.keras")
    return store, run_id


def files_below(directory: Path) -> set[str]:
    files = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return {path.as_posix() for path in files}


def expected_files(run_id: str, checkpoint: str | int) -> set[str]:
    manifest = mlflow_ckpt.get_checkpoint(run_id, checkpoint).manifest
    return {entry.path for entry in manifest.files} | {"manifest.json"}


@pytest.mark.parametrize(
    ("selector", "name"),
    [("best", BEST), ("latest", "epoch_0003"), ("epoch-1", "epoch_0001"), (BEST, BEST)],
)
def test_a_checkpoint_is_downloaded_whole(
    run_id: str, selector: str, name: str, tmp_path: Path
) -> None:
    place = Path(download_artifacts(f"ckpt:/{run_id}/{selector}", dst_path=str(tmp_path)))
    assert place == tmp_path / selector
    assert files_below(tmp_path) == {f"{selector}/{path}" for path in expected_files(run_id, name)}
    assert json.loads((place / "manifest.json").read_bytes())["name"] == name


def test_without_a_destination_it_goes_to_a_directory_of_its_own(run_id: str) -> None:
    place = Path(download_artifacts(f"ckpt:/{run_id}/best"))
    assert files_below(place) == expected_files(run_id, BEST)


def test_a_file_and_a_directory_of_a_checkpoint(run_id: str, tmp_path: Path) -> None:
    file = Path(download_artifacts(f"ckpt:/{run_id}/best/MLmodel", dst_path=str(tmp_path)))
    assert file == tmp_path / "MLmodel" and "flavors" in file.read_text()
    data = Path(download_artifacts(f"ckpt:/{run_id}/best/data", dst_path=str(tmp_path)))
    assert files_below(data) == {"keras_module.txt", "model.keras"}
    assert files_below(tmp_path) == {"MLmodel", "data/keras_module.txt", "data/model.keras"}


def test_mlflow_loads_the_model(run_id: str) -> None:
    expected = mlflow_ckpt.load_model(run_id, "best").predict(X, verbose=0)
    served = mlflow.pyfunc.load_model(f"ckpt:/{run_id}/best")
    assert np.allclose(served.predict(X), expected, atol=1e-6)
    stock = mlflow.keras.load_model(f"ckpt:/{run_id}/best")
    assert isinstance(stock, keras.Model)
    assert np.allclose(stock.predict(X, verbose=0), expected, atol=1e-6)


def test_listing(run_id: str) -> None:
    root = [(item.path, item.is_dir) for item in list_artifacts(f"ckpt:/{run_id}")]
    assert root == [(f"{run_id}/epoch_000{epoch}", True) for epoch in (1, 2, 3)]
    listed = {item.path: item for item in list_artifacts(f"ckpt:/{run_id}/best")}
    assert set(listed) == {f"best/{path.split('/')[0]}" for path in expected_files(run_id, BEST)}
    assert listed["best/data"].is_dir and not listed["best/MLmodel"].is_dir
    manifest = mlflow_ckpt.get_checkpoint(run_id, "best").manifest
    sizes = {entry.path: entry.size for entry in manifest.files}
    assert listed["best/MLmodel"].file_size == sizes["MLmodel"]
    inside = [item.path for item in list_artifacts(f"ckpt:/{run_id}/best/data")]
    assert inside == ["data/keras_module.txt", "data/model.keras"]
    assert list_artifacts(f"ckpt:/{run_id}/best/MLmodel") == []


@pytest.mark.parametrize("path", ["best", "best/data", "best/fingerprint.json"])
def test_what_was_altered_is_not_delivered(
    altered_in: tuple[Store, str], path: str, tmp_path: Path
) -> None:
    store, run_id = altered_in
    with (
        current(store),
        pytest.raises(MlflowException, match=r"data/model\.keras has sha256:") as caught,
    ):
        download_artifacts(f"ckpt:/{run_id}/{path}", dst_path=str(tmp_path))
    assert caught.value.error_code == "DATA_LOSS"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ckpt:/nosuchrun/best", "There is no run 'nosuchrun'"),
        ("ckpt:/RUN/epoch-9", "has no checkpoint epoch_0009"),
        ("ckpt:/RUN/newest", "The checkpoint selector 'newest' was not understood"),
        ("ckpt:/RUN", "names a run, not a checkpoint"),
        ("ckpt:/RUN/best/nothing.txt", "has no nothing.txt"),
        ("ckpt:/RUN/best/../../etc", "was not understood"),
    ],
)
def test_errors_are_mlflow_s_and_one_sentence(
    uri: str, said: str, run_id: str, tmp_path: Path
) -> None:
    with pytest.raises(MlflowException) as caught:
        download_artifacts(uri.replace("RUN", run_id), dst_path=str(tmp_path))
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written(run_id: str, tmp_path: Path) -> None:
    repository = get_artifact_repository(f"ckpt:/{run_id}/best")
    (tmp_path / "file").write_text("x")
    for write in (
        lambda: repository.log_artifact(str(tmp_path / "file")),
        lambda: repository.log_artifacts(str(tmp_path)),
        lambda: repository.delete_artifacts("MLmodel"),
    ):
        with pytest.raises(MlflowException, match="is read-only"):
            write()
    assert mlflow_ckpt.verify(run_id, "best").ok


def mlflow_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_python("from mlflow.cli import cli; cli()", *arguments, cwd=cwd)


@pytest.mark.parametrize("trained_in", STORES[:1], indirect=True)
def test_mlflow_s_commands_take_the_scheme(run_id: str, tmp_path: Path) -> None:
    uri = f"ckpt:/{run_id}/latest"
    done = mlflow_command("artifacts", "download", "-u", uri, "-d", "there", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert files_below(tmp_path / "there" / "latest") == expected_files(run_id, 3)
    (tmp_path / "input.json").write_text(json.dumps({"inputs": X[:2].tolist()}))
    done = mlflow_command(
        *("models", "predict", "-m", uri, "-i", "input.json", "-o", "output.json"),
        *("--content-type", "json", "--env-manager", "local"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    predicted = json.loads((tmp_path / "output.json").read_bytes())["predictions"]
    model = mlflow_ckpt.load_model(run_id)
    assert np.allclose(predicted, model.predict(X[:2], verbose=0), atol=1e-6)


@pytest.mark.parametrize("first", ["mlflow.artifacts", "mlflow_ckpt._tracking.artifact_repository"])
def test_whatever_is_imported_first_the_scheme_is_there_and_no_backend(first: str) -> None:
    code = (
        f"import sys, {first}\n"
        "from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository\n"
        "assert type(get_artifact_repository('ckpt:/run')).__module__.startswith('mlflow_ckpt')\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
    )
    refusing = "error:Failure attempting to register:UserWarning"
    done = subprocess.run(
        [sys.executable, "-W", refusing, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
