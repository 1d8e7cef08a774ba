"""Any artifact location that MLflow takes: checkpoints are where MLflow reads them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import keras
import mlflow
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store, current
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking import removal
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import TrackingError
from tests.support.faults import send_the_rest
from tests.support.training import fit, small_model

# Makes an artifact location of an absolute directory, as people and tools write them.
FORMS = {
    "a path": lambda path: path,
    "a path, ends with a slash": lambda path: f"{path}/",
    "a path, from here": lambda path: os.path.relpath(path),
    "a URI": lambda path: f"file://{quote(path)}",
    "a URI, not quoted": lambda path: f"file://{path}",
    "a URI of one slash": lambda path: f"file:{path}",
    "a URI of this machine": lambda path: f"file://localhost{quote(path)}",
    "a URI, ends with a slash": lambda path: f"file://{path}/",
}
ODD = st.text("aé %#?&+;=~'[]()2F5C.", min_size=1, max_size=8)
NAMES = st.one_of(
    ODD,
    st.sampled_from(
        ["job_feature%2Fx", "100%", "%252F", "%25252F", "a%20b", "a b", "ü#1", "x?y=1"]
    ),
)


@contextmanager
def working_in(directory: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return small_model()


def save(run_id: str, model: keras.Model, *epochs: int) -> None:
    store = RunStore(run_id)
    assert store.run  # as a training reads it, which tells whether its artifacts are local
    with CheckpointSaver(store) as saver:
        for epoch in epochs:
            saver.save(model, f"epoch_{epoch:04d}", epoch=epoch, metrics={"loss": 1.0 / epoch})


def listed_by_mlflow(run_id: str, name: str) -> set[str]:
    listed = MlflowClient().list_artifacts(run_id, f"checkpoints/{name}")
    return {file.path.rpartition("/")[2] for file in listed}


def check_location(location: str, root: Path, model: keras.Model) -> None:
    client = MlflowClient()
    try:
        experiment = client.create_experiment(f"at {root}", artifact_location=location)
        run_id = client.create_run(experiment).info.run_id
        client.log_text(run_id, "", "checkpoints/mine.txt")
    except (MlflowException, OSError, ValueError):
        assume(False)  # not one that MLflow takes
    save(run_id, model, 1, 2)
    for epoch in (1, 2):
        assert "manifest.json" in listed_by_mlflow(run_id, f"epoch_{epoch:04d}")
        assert mlflow_ckpt.verify(run_id, epoch).ok
    manifests = sorted(root.rglob("manifest.json"))
    assert [path.parent.name for path in manifests] == ["epoch_0001", "epoch_0002"]
    assert {path.parents[1] for path in manifests} == {next(root.rglob("mine.txt")).parent}
    removal.remove(RunStore(run_id), "epoch_0001")
    assert listed_by_mlflow(run_id, "epoch_0001") == set()
    assert sorted(root.rglob("manifest.json")) == manifests[1:]
    assert mlflow_ckpt.verify(run_id, 2).ok


@given(form=st.sampled_from(sorted(FORMS)), name=NAMES, through_link=st.booleans())
@settings(max_examples=30)
def test_checkpoints_are_where_mlflow_looks(
    form: str, name: str, through_link: bool, sqlite_store: Store, model: keras.Model
) -> None:
    with tempfile.TemporaryDirectory() as directory, current(sqlite_store):
        root = Path(directory)
        if through_link:
            (root / "target").mkdir()
            root.joinpath("link").symlink_to("target")
        with working_in(root):
            path = str(root / ("link" if through_link else "") / name)
            check_location(FORMS[form](path), root, model)


@pytest.mark.parametrize("name", ["job_feature%2Fx", "%252F", "a#b", "100%", "a?b=c", "a b"])
@pytest.mark.parametrize("form", FORMS)
def test_names_that_people_have(
    form: str, name: str, sqlite_store: Store, model: keras.Model, tmp_path: Path
) -> None:
    with current(sqlite_store), working_in(tmp_path):
        check_location(FORMS[form](str(tmp_path / name)), tmp_path, model)


class LosingRepository(LocalArtifactRepository):
    """A store that MLflow writes to and does not read from, such as behind a wrong proxy."""

    hides: ClassVar[str] = ""

    def __init__(self, artifact_uri: str, *arguments: Any, **keywords: Any) -> None:
        super().__init__(artifact_uri.removeprefix("losing:"), *arguments, **keywords)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        return [file for file in super().list_artifacts(path) if self.hides not in file.path]


@pytest.fixture
def losing_run(local_store: Store, tmp_path: Path) -> Iterator[str]:
    registry = _artifact_repository_registry._registry
    before = dict(registry)
    registry["losing"] = LosingRepository
    location = f"losing:{tmp_path}/artifacts"
    experiment = mlflow.create_experiment(f"at {tmp_path}", artifact_location=location)
    try:
        yield MlflowClient().create_run(experiment).info.run_id
    finally:
        registry.clear()
        registry.update(before)


@pytest.mark.parametrize("hidden", ["checkpoints", "manifest.json"])
def test_a_checkpoint_that_mlflow_does_not_list_is_not_reported_as_saved(
    hidden: str, losing_run: str, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LosingRepository, "hides", hidden)
    callback = mlflow_ckpt.MlflowCheckpoint(
        "loss", run_id=losing_run, on_error="raise", drain_timeout=1
    )
    with pytest.raises(TrackingError, match="does not list it among the artifacts"):
        fit(small_model(), callback, epochs=1)
    waiting = [entry.name for entry in Spool(spool).entries(losing_run) if entry.name]
    assert waiting == ["epoch_0001"]
    assert "mlflow_ckpt.latest" not in MlflowClient().get_run(losing_run).data.tags
    monkeypatch.setattr(LosingRepository, "hides", "nothing")
    send_the_rest(losing_run)  # the ended training's uploader may be amid its last attempt
    assert mlflow_ckpt.verify(losing_run).ok


def test_mlflow_is_asked_once(http_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    listing = MlflowClient.list_artifacts

    def counting(self: MlflowClient, run_id: str, path: str | None = None) -> list[FileInfo]:
        asked.append(path)
        return list(listing(self, run_id, path))

    monkeypatch.setattr(MlflowClient, "list_artifacts", counting)
    run_id = MlflowClient().create_run(http_store.experiment_id).info.run_id
    save(run_id, small_model(), 1, 2)
    assert asked == ["checkpoints/epoch_0001"]
