"""Pruning: what goes, what always stays, and the error when a store does not delete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import ClassVar

import mlflow
import pytest
from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store, current, free_port
from mlflow_ckpt import BestN, EveryN, LatestN
from mlflow_ckpt._tracking import index, prune_plan, removal
from mlflow_ckpt._tracking import store as tracking_store
from mlflow_ckpt._tracking.registry import usage
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import (
    CheckpointNotFoundError,
    InvalidArgumentError,
    MetricNotFoundError,
    RunNotFoundError,
    SelectorError,
    TrackingError,
    TrackingUnavailableError,
)
from tests.support.checkpoints import save_run
from tests.support.training import new_run
from tests.support.waiting import PATIENCE_SECONDS

# Losses. Of FOUR, the first is best, so those between it and the latest may go; of FIVE and its
# beginnings, the second is best.
FOUR = (0.1, 0.5, 0.4, 0.3)
FIVE = (0.5, 0.1, 0.4, 0.3, 0.2)
NAMES = [f"epoch_{epoch:04d}" for epoch in range(1, 6)]
STORES = ["sqlite_store", "server"]


def names(run_id: str) -> list[str]:
    return [checkpoint.name for checkpoint in mlflow_ckpt.list_checkpoints(run_id)]


def reasons(pruned: mlflow_ckpt.Pruned) -> dict[str, tuple[str, ...]]:
    return {checkpoint.name: checkpoint.reasons for checkpoint in pruned.plan.kept}


def files(directory: Path) -> dict[str, int]:
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.stat().st_size for path in paths}


@dataclass(frozen=True)
class History:
    """What became of a run of five checkpoints.

    Attributes:
        store: Where the run is.
        run_id: The run.
        files: Sizes of the files of its checkpoints before the first prune.
        indexed: The checkpoints in its index before the first prune.
        tried: The result of a dry run.
        files_after_trying: As `files`, after the dry run.
        done: The result of the same prune.
        again: The result of the same prune once more.
    """

    store: Store
    run_id: str
    files: dict[str, int]
    indexed: list[str]
    tried: mlflow_ckpt.Pruned
    files_after_trying: dict[str, int]
    done: mlflow_ckpt.Pruned
    again: mlflow_ckpt.Pruned


@pytest.fixture(scope="module", params=STORES)
def pruned_in(request: pytest.FixtureRequest) -> History:
    """A run in each kind of store in turn: `EveryN(2)` tried, done, and done again."""
    store: Store = request.getfixturevalue(request.param)
    with current(store):
        run_id = save_run(losses=FIVE)
        checkpoints = store.checkpoint_directory(run_id, "epoch_0001").parent
        return History(
            store=store,
            run_id=run_id,
            files=files(checkpoints),
            indexed=sorted(index.read(RunStore(run_id))),
            tried=mlflow_ckpt.prune(run_id, EveryN(2), dry_run=True),
            files_after_trying=files(checkpoints),
            done=mlflow_ckpt.prune(run_id, EveryN(2)),
            again=mlflow_ckpt.prune(run_id, EveryN(2)),
        )


@pytest.fixture
def history(pruned_in: History) -> Iterator[History]:
    """What became of the run, with its store as MLflow's current one."""
    with current(pruned_in.store):
        yield pruned_in


def test_what_the_policy_does_not_keep_goes(history: History) -> None:
    run_id, pruned = history.run_id, history.done
    assert pruned.removed == ("epoch_0001", "epoch_0003")
    assert reasons(pruned) == {
        "epoch_0002": ("policy", "best"),
        "epoch_0004": ("policy",),
        "epoch_0005": ("latest",),
    }
    assert names(run_id) == ["epoch_0002", "epoch_0004", "epoch_0005"]
    checkpoints = history.store.checkpoint_directory(run_id, "epoch_0002").parent
    left = sorted(path.name for path in checkpoints.iterdir() if path.is_dir())
    assert left == ["epoch_0002", "epoch_0004", "epoch_0005"], "no empty directory is left either"
    gone = {
        path: size
        for path, size in history.files.items()
        if path.startswith(("epoch_0001", "epoch_0003"))
    }
    manifests = [path for path in gone if path.endswith("/manifest.json")]
    assert len(manifests) == 2
    assert pruned.freed == sum(gone.values()) - sum(gone[path] for path in manifests)
    assert all(mlflow_ckpt.verify(run_id, name).ok for name in names(run_id))


def test_latest_and_best_stay_whatever_the_policy_says(store: Store) -> None:
    class Nothing(mlflow_ckpt.RetentionPolicy):
        def keep(self, manifests: object) -> frozenset[str]:
            return frozenset()

    run_id = save_run(losses=FIVE[:3])
    pruned = mlflow_ckpt.prune(run_id, Nothing())
    assert reasons(pruned) == {"epoch_0002": ("best",), "epoch_0003": ("latest",)}
    assert mlflow_ckpt.get_checkpoint(run_id, "latest").name == "epoch_0003"
    assert mlflow_ckpt.get_checkpoint(run_id, "best").name == "epoch_0002"


def test_best_by_another_metric_does_not_unprotect_the_recorded_best(local_store: Store) -> None:
    run_id = save_run(losses=FIVE)
    pruned = mlflow_ckpt.prune(run_id, BestN(1, "val_loss", "max"))
    assert reasons(pruned) == {
        "epoch_0001": ("policy",),
        "epoch_0002": ("best",),
        "epoch_0005": ("latest",),
    }


def test_a_dry_run_deletes_nothing_and_says_the_same(history: History) -> None:
    tried, done = history.tried, history.done
    assert tried.dry_run
    assert history.files_after_trying == history.files
    assert not done.dry_run
    assert (done.plan, done.removed, done.freed) == (tried.plan, tried.removed, tried.freed)
    assert done.removed == ("epoch_0001", "epoch_0003")


def test_pruning_again_removes_nothing(history: History) -> None:
    assert (history.again.removed, history.again.freed) == ((), 0)
    assert names(history.run_id) == ["epoch_0002", "epoch_0004", "epoch_0005"]


def test_the_index_forgets_what_went(history: History) -> None:
    assert history.indexed == NAMES
    left = sorted(index.read(RunStore(history.run_id)))
    assert left == ["epoch_0002", "epoch_0004", "epoch_0005"]


def test_damaged_checkpoints_stay_and_do_not_count(store: Store) -> None:
    run_id = save_run(losses=FIVE[:4])
    for name in ("epoch_0002", "epoch_0004"):
        (store.checkpoint_directory(run_id, name) / "manifest.json").write_text("{")
    pruned = mlflow_ckpt.prune(run_id, LatestN(1) | BestN(1))
    assert pruned.plan.damaged == ("epoch_0002", "epoch_0004")
    # The index of the run still lists the damaged best one.
    assert reasons(pruned) == {"epoch_0003": ("policy", "latest", "best")}
    assert pruned.removed == ("epoch_0001",)
    assert store.checkpoint_directory(run_id, "epoch_0002").is_dir()
    assert store.checkpoint_directory(run_id, "epoch_0004").is_dir()


def test_an_upload_under_way_is_left_alone(store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4, 0.1))
    half = store.checkpoint_directory(run_id, "epoch_0001")
    (half / "manifest.json").unlink()
    (half / "upload-00000000000000000001-0badcafe.json").write_text("{}")
    before = files(half)
    pruned = mlflow_ckpt.prune(run_id, LatestN(1))
    assert pruned.removed == ("epoch_0002",)
    assert pruned.plan.leftovers == ()
    assert files(half) == before


def test_what_a_killed_prune_left_goes_with_the_next_one(store: Store) -> None:
    run_id = save_run(losses=FIVE[:2])
    half = store.checkpoint_directory(run_id, "epoch_0001")
    for name in ("manifest.json", "MLmodel"):
        (half / name).unlink()
    before = files(half)
    assert mlflow_ckpt.prune(run_id, LatestN(9), dry_run=True).plan.leftovers == ("epoch_0001",)
    assert files(half) == before
    pruned = mlflow_ckpt.prune(run_id, LatestN(9))
    assert (pruned.removed, pruned.plan.leftovers) == ((), ("epoch_0001",))
    assert not list(store.artifacts.rglob(f"{run_id}/artifacts/checkpoints/epoch_0001"))


def test_the_fingerprint_by_which_it_is_known_goes_last(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = save_run(losses=FIVE[:2])
    deleted: list[str] = []
    delete = RunStore.delete

    def noting(self: RunStore, path: str) -> None:
        deleted.append(path.rpartition("/")[2])
        delete(self, path)

    monkeypatch.setattr(RunStore, "delete", noting)
    mlflow_ckpt.prune(run_id, LatestN(1))
    assert deleted[0] == "manifest.json"
    assert [name for name in deleted if "." in name][-1] == "fingerprint.json"


def test_a_directory_of_somebody_else_stays(store: Store) -> None:
    run_id = save_run()
    # As MLflow's own checkpoint callback calls the thousandth epoch.
    mlflow.log_text("theirs", "checkpoints/epoch_1000/model.keras", run_id=run_id)
    assert mlflow_ckpt.prune(run_id, LatestN(9)).plan.leftovers == ()
    assert set(files(store.checkpoint_directory(run_id, "epoch_1000"))) == {"model.keras"}


# --- registered models ---------------------------------------------------------------------------


@pytest.fixture
def model_name(request: pytest.FixtureRequest) -> str:
    """A registered model of the test's own."""
    return f"model of {request.node.name}".replace("/", "-").replace(":", "-")[:200]


@pytest.fixture(scope="module", params=STORES)
def saved_in(request: pytest.FixtureRequest) -> tuple[Store, str]:
    """Each kind of store in turn, and a run of four checkpoints in it, which nothing changes."""
    store: Store = request.getfixturevalue(request.param)
    with current(store):
        return store, save_run(losses=FOUR)


@pytest.fixture
def run_id(saved_in: tuple[Store, str], model_name: str) -> Iterator[str]:
    """The run, with its store as MLflow's current one.

    What the test registers under a name that begins with `model_name` is deleted in the end.
    """
    with current(saved_in[0]):
        yield saved_in[1]
        client = MlflowClient()
        for model in client.search_registered_models(f"name LIKE '{model_name}%'"):
            client.delete_registered_model(model.name)


one_store = pytest.mark.parametrize("saved_in", STORES[:1], indirect=True)


def register(name: str, source: str, **more: str) -> str:
    client = MlflowClient()
    client.create_registered_model(name)
    return str(client.create_model_version(name, source, **more).version)


def kept_by_pruning(run_id: str) -> dict[str, tuple[str, ...]]:
    """Return what a prune to the latest would keep beside the latest and the best, and why.

    A dry run, so that tests can share the run; that a prune does what it says is tested above.
    """
    pruned = mlflow_ckpt.prune(run_id, LatestN(1), dry_run=True)
    kept = reasons(pruned)
    assert sorted([*kept, *pruned.removed]) == NAMES[:4]
    return {name: why for name, why in kept.items() if name not in ("epoch_0001", "epoch_0004")}


def test_what_register_model_registered_stays(store: Store, model_name: str) -> None:
    run_id = save_run(losses=FOUR)
    mlflow.register_model(f"runs:/{run_id}/checkpoints/epoch_0003", model_name)
    mlflow.register_model(f"runs:/{run_id}/checkpoints/epoch_0003", model_name)
    mlflow.register_model(f"runs:/{run_id}/checkpoints/epoch_0004", model_name)
    pruned = mlflow_ckpt.prune(run_id, LatestN(1))
    assert reasons(pruned) == {
        "epoch_0001": ("best",),
        "epoch_0003": (
            f"registered as {model_name} version 1",
            f"registered as {model_name} version 2",
        ),
        "epoch_0004": ("policy", "latest", f"registered as {model_name} version 3"),
    }
    assert names(run_id) == ["epoch_0001", "epoch_0003", "epoch_0004"]


@pytest.mark.parametrize(
    "source",
    [
        "runs:/{run_id}/checkpoints/epoch_0003",
        "{artifact_uri}/checkpoints/epoch_0003",
        "{artifact_uri}/checkpoints/epoch_0003/",
        "{artifact_uri}/checkpoints/epoch_0003/data",
    ],
)
def test_every_way_to_name_the_source_counts(run_id: str, source: str, model_name: str) -> None:
    uri = mlflow.get_run(run_id).info.artifact_uri
    register(model_name, source.format(run_id=run_id, artifact_uri=uri), run_id=run_id)
    expected = {"epoch_0003": (f"registered as {model_name} version 1",)}
    assert kept_by_pruning(run_id) == expected


@one_store
@pytest.mark.parametrize("source", ["runs:/{run_id}/checkpoints/epoch_0003", "ckpt:/{run_id}/3"])
def test_a_version_that_does_not_name_its_run_counts(
    run_id: str, source: str, model_name: str
) -> None:
    register(model_name, source.format(run_id=run_id))
    assert list(kept_by_pruning(run_id)) == ["epoch_0003"]


@one_store
@pytest.mark.parametrize("source", ["{artifact_uri}/checkpoints", "{artifact_uri}"])
def test_a_version_of_the_whole_directory_keeps_all(
    run_id: str, source: str, model_name: str
) -> None:
    uri = mlflow.get_run(run_id).info.artifact_uri
    register(model_name, source.format(artifact_uri=uri), run_id=run_id)
    assert list(kept_by_pruning(run_id)) == ALL


@one_store
def test_versions_of_other_artifacts_and_runs_keep_nothing(run_id: str, model_name: str) -> None:
    other = save_run(losses=FIVE[:3])
    uri = mlflow.get_run(run_id).info.artifact_uri
    register(model_name, f"{uri}/model", run_id=run_id)
    mlflow.register_model(f"runs:/{other}/checkpoints/epoch_0003", f"{model_name}, other")
    assert kept_by_pruning(run_id) == {}


def test_a_copy_of_a_deleted_version_counts(run_id: str, model_name: str) -> None:
    client = MlflowClient()
    original = mlflow.register_model(f"runs:/{run_id}/checkpoints/epoch_0003", model_name)
    client.copy_model_version(f"models:/{model_name}/{original.version}", f"{model_name}, copy")
    client.delete_model_version(model_name, original.version)
    expected = {"epoch_0003": (f"registered as {model_name}, copy version 1",)}
    assert kept_by_pruning(run_id) == expected


@one_store
def test_a_deleted_version_keeps_nothing(run_id: str, model_name: str) -> None:
    version = mlflow.register_model(f"runs:/{run_id}/checkpoints/epoch_0003", model_name)
    MlflowClient().delete_model_version(model_name, version.version)
    assert kept_by_pruning(run_id) == {}


def test_versions_on_later_pages_count(
    run_id: str, model_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_store, "_PAGE", 1)
    for epoch in (2, 3):
        mlflow.register_model(f"runs:/{run_id}/checkpoints/epoch_{epoch:04d}", model_name)
    assert list(kept_by_pruning(run_id)) == ALL


ONE, ALL = ["epoch_0003"], ["epoch_0002", "epoch_0003"]


@pytest.mark.parametrize(
    ("tags", "delete", "kept"),
    [
        pytest.param({"mlflow_ckpt.checkpoint": "epoch_0003"}, False, ONE, id="named"),
        pytest.param({"mlflow_ckpt.uri": "runs:/{run_id}/checkpoints/epoch_0003"}, False, ONE),
        pytest.param({"mlflow_ckpt.version": "1.0"}, False, ALL, id="ours, and cannot be told"),
        pytest.param({"checkpoint": "epoch_0003"}, False, [], id="not ours"),
        pytest.param({"mlflow_ckpt.checkpoint": "epoch_0003"}, True, ALL, id="gone"),
    ],
)
def test_a_version_of_a_logged_model(
    run_id: str, tags: dict[str, str], delete: bool, kept: list[str], model_name: str
) -> None:
    client = MlflowClient()
    logged = client.create_logged_model(
        mlflow.get_run(run_id).info.experiment_id,
        source_run_id=run_id,
        tags={key: value.format(run_id=run_id) for key, value in tags.items()},
    )
    register(model_name, f"models:/{logged.model_id}", model_id=logged.model_id)
    if delete:
        client.delete_logged_model(logged.model_id)
    assert list(kept_by_pruning(run_id)) == kept


def test_nothing_goes_where_the_registry_does_not_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = save_run(losses=FIVE[:2])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(
        TrackingUnavailableError,
        match=r"^Nothing was removed: it is unknown which checkpoints registered models use\. .* "
        r"\(tried to search the model registry\)",
    ):
        mlflow_ckpt.prune(run_id, LatestN(1))
    monkeypatch.delenv("MLFLOW_REGISTRY_URI")
    assert names(run_id) == NAMES[:2]


@pytest.mark.parametrize(
    ("location", "checkpoints"),
    [
        ("runs:/RUN/checkpoints/epoch_0003", {"epoch_0003"}),
        ("s3://bucket/7/RUN/artifacts/checkpoints/epoch_0003/data", {"epoch_0003"}),
        ("mlflow-artifacts://host:5000/7/RUN/artifacts/checkpoints/epoch_0003", {"epoch_0003"}),
        ("/a/RUN/artifacts/model/../checkpoints/epoch_0003", {"epoch_0003"}),
        ("file:///with%20space/RUN/artifacts/checkpoints%2Fepoch_0003", {"epoch_0003"}),
        (r"C:\mlruns\RUN\artifacts\checkpoints\epoch_0003", {"epoch_0003"}),
        ("runs:/RUN", {"all"}),
        ("s3://bucket/RUN/artifacts/checkpoints/", {"all"}),
        ("s3://bucket/RUN/artifacts/checkpoints/epoch_3?v=1", {"all"}),
        ("runs:/RUN/model", set()),
        ("runs:/OTHER/checkpoints/epoch_0003", set()),
        ("ckpt:/RUN/epoch:3", {"epoch_0003"}),
        ("ckpt:/RUN/best", set()),
        ("ckpt:/RUN/neither", {"all"}),
        ("ckpt:/OTHER/3", set()),
        ("", set()),
    ],
)
def test_where_a_location_leads(location: str, checkpoints: set[str]) -> None:
    assert usage.checkpoints_at(location, "RUN", frozenset({"all"})) == checkpoints


# --- stores that fail ----------------------------------------------------------------------------


class KeepsEverything(LocalArtifactRepository):
    """A store without deletion, as MLflow's base class has it: a silent no-op."""

    def __init__(self, artifact_uri: str, *_: object, **__: object) -> None:
        super().__init__("file:" + artifact_uri.partition(":")[2])

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        pass


class KeepsManifests(KeepsEverything):
    """A store that deletes anything but what says that a checkpoint is there."""

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        if artifact_path is not None and not artifact_path.endswith("manifest.json"):
            LocalArtifactRepository.delete_artifacts(self, artifact_path)


class RefusesToDelete(KeepsEverything):
    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        raise NotImplementedError("This artifact repository does not support deleting artifacts")


class KeepsModels(KeepsEverything):
    """A store with a lock on some files."""

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        if artifact_path is None or "data" in artifact_path or "." not in artifact_path:
            raise PermissionError("Access Denied: the object is locked")
        LocalArtifactRepository.delete_artifacts(self, artifact_path)


class ChangesWhileListed(LocalArtifactRepository):
    """A directory that another process deletes from: the first listing of each fails."""

    listed: ClassVar[set[str | None]] = set()

    def __init__(self, artifact_uri: str, *_: object, **__: object) -> None:
        super().__init__("file:" + artifact_uri.partition(":")[2])

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        if path not in self.listed:
            self.listed.add(path)
            raise FileNotFoundError(path)
        return super().list_artifacts(path)


@pytest.fixture
def run_on(
    local_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[type[LocalArtifactRepository]], str]]:
    """Saves four checkpoints into a run whose artifacts lie in a store of some kind."""
    scheme = "odd"

    def save(kind: type[LocalArtifactRepository]) -> str:
        _artifact_repository_registry.register(scheme, kind)
        experiment = MlflowClient().create_experiment(
            f"on {kind.__name__} {tmp_path.name}", artifact_location=f"{scheme}://{tmp_path}"
        )
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
        return save_run(losses=FIVE[:4])

    yield save
    _artifact_repository_registry._registry.pop(scheme, None)


@pytest.mark.parametrize("kind", [KeepsEverything, KeepsManifests])
def test_a_store_that_silently_keeps_the_manifest(
    run_on: Callable[..., str], kind: type[LocalArtifactRepository]
) -> None:
    run_id = run_on(kind)
    with pytest.raises(TrackingError) as caught:
        mlflow_ckpt.prune(run_id, LatestN(1))
    assert str(caught.value) == (
        "The artifact store does not delete: checkpoints/epoch_0001/manifest.json of run "
        f"{run_id} is still there. The checkpoint epoch_0001 is unchanged. Removed before it: "
        "none. Delete it manually in the artifact store."
    )
    assert names(run_id) == NAMES[:4]
    assert mlflow_ckpt.verify(run_id, "epoch:1").ok


def test_a_store_that_refuses_to_delete(run_on: Callable[..., str]) -> None:
    run_id = run_on(RefusesToDelete)
    with pytest.raises(TrackingError) as caught:
        mlflow_ckpt.prune(run_id, LatestN(1))
    assert "manifest.json of run" in str(caught.value)
    assert "This artifact repository does not support deleting artifacts" in str(caught.value)
    assert names(run_id) == NAMES[:4]


def test_what_a_store_leaves_is_told_and_is_no_checkpoint(
    run_on: Callable[..., str], tmp_path: Path
) -> None:
    run_id = run_on(KeepsModels)
    with pytest.raises(TrackingError) as caught:
        mlflow_ckpt.prune(run_id, LatestN(1))
    message = str(caught.value)
    assert message.startswith(
        "The artifact store deleted the manifest of epoch_0001, so it is no longer a checkpoint, "
        "but not "
    )
    assert "such as checkpoints/epoch_0001/" in message
    assert "Access Denied: the object is locked" in message
    assert message.endswith(
        f"Delete the directory checkpoints/epoch_0001 of run {run_id} manually."
    )
    directory = tmp_path / run_id / "artifacts" / "checkpoints"
    assert (directory / "epoch_0001" / "data" / "model.keras").exists()
    assert not (directory / "epoch_0001" / "manifest.json").exists(), "the manifest goes first"
    assert names(run_id) == NAMES[1:4], "the others are left whole"


def test_a_directory_that_changes_while_it_is_listed(run_on: Callable[..., str]) -> None:
    run_id = run_on(ChangesWhileListed)
    ChangesWhileListed.listed.clear()
    assert len(mlflow_ckpt.prune(run_id, LatestN(1)).removed) == 2
    assert len(ChangesWhileListed.listed) > 4


def test_two_prunes_at_once(store: Store) -> None:
    run_id = save_run(losses=(0.1, *[0.5] * 4))
    plan = prune_plan.plan(RunStore(run_id), LatestN(1))
    start = Barrier(3, timeout=PATIENCE_SECONDS)

    def prune(_: int) -> removal.Pruned:
        run_store = RunStore(run_id)
        start.wait()
        return removal.remove_planned(run_store, plan)

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(prune, range(3)))
    removed = set().union(*(pruned.removed for pruned in done))
    assert removed == {checkpoint.name for checkpoint in plan.to_remove}
    assert len(removed) == 3
    assert names(run_id) == ["epoch_0001", "epoch_0005"]


# --- arguments -----------------------------------------------------------------------------------


def test_a_run_that_is_not_there_or_has_no_checkpoints(store: Store) -> None:
    with pytest.raises(RunNotFoundError):
        mlflow_ckpt.prune("0" * 32, LatestN(1))
    run_id = new_run()
    with pytest.raises(CheckpointNotFoundError, match="has no checkpoints"):
        mlflow_ckpt.prune(run_id, LatestN(1))


def test_arguments_that_make_no_sense(local_store: Store) -> None:
    run_id = save_run(losses=FIVE[:3])
    with pytest.raises(InvalidArgumentError, match=r"Expected a retention policy, .* Received: 3"):
        mlflow_ckpt.prune(run_id, 3)
    with pytest.raises(SelectorError, match=f"Pass only the run id: {run_id}"):
        mlflow_ckpt.prune(f"ckpt:/{run_id}/epoch:3", LatestN(1))
    with pytest.raises(MetricNotFoundError, match="'val_lose'"):
        mlflow_ckpt.prune(run_id, LatestN(1) | BestN(1, "val_lose"))
    plan = prune_plan.plan(RunStore(run_id), LatestN(1))
    with pytest.raises(InvalidArgumentError, match="Expected a plan for the run "):
        removal.remove_planned(RunStore(new_run()), plan)
    assert names(run_id) == NAMES[:3]
