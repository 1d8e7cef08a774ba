"""Registering a checkpoint, and the URIs of MLflow wherever a run is taken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store, current, free_port
from mlflow_ckpt import LatestN, MlflowCheckpoint
from mlflow_ckpt._tracking.references import resolve
from mlflow_ckpt.errors import (
    CheckpointNotFoundError,
    FormNotFoundError,
    InvalidArgumentError,
    SelectorError,
    TrackingUnavailableError,
    VerificationError,
)
from tests.support import cli
from tests.support.checkpoints import save_run
from tests.support.training import Metrics, X, fit, names, small_model

BEST = "epoch_0002"
STORES = ["sqlite_store", "server"]


@pytest.fixture(scope="module", params=STORES)
def trained_in(request: pytest.FixtureRequest) -> tuple[Store, str]:
    """Each kind of store in turn, and a run in it whose best one is a champion.

    The second of its three epochs is the best. Tests may register its checkpoints under names of
    their own, and change nothing else.
    """
    store: Store = request.getfixturevalue(request.param)
    values = Metrics("val_loss", [0.5, 0.25, 0.75])
    with current(store):
        with mlflow.start_run() as run:
            fit(small_model(), values, MlflowCheckpoint(), epochs=3)
        run_id = str(run.info.run_id)
        mlflow_ckpt.register(run_id, "best", name="champions", alias="champion")
    return store, run_id


@pytest.fixture
def run_id(trained_in: tuple[Store, str]) -> Iterator[str]:
    """The run, with its store as MLflow's current one."""
    with current(trained_in[0]):
        yield trained_in[1]


# Registering


def test_a_version_points_at_the_run_s_artifact(run_id: str) -> None:
    made = mlflow_ckpt.register(run_id, "best", name="pointing", alias="champion")
    manifest = made.checkpoint.manifest
    assert (made.is_new, made.checkpoint.name) == (True, BEST)
    version = MlflowClient().get_model_version_by_alias("pointing", "champion")
    assert (int(version.version), version.run_id) == (made.version, run_id)
    assert version.source.endswith(f"{run_id}/artifacts/checkpoints/{BEST}")
    assert not version.source.startswith("ckpt:")
    assert version.tags["mlflow_ckpt.epoch"] == "2"
    assert version.tags["mlflow_ckpt.step"] == str(manifest.step)
    assert version.tags["mlflow_ckpt.weights_digest"] == str(manifest.weights_digest)
    assert float(version.tags["mlflow_ckpt.metric.val_loss"]) == 0.25


def test_the_same_checkpoint_is_registered_once_and_the_alias_moves(run_id: str) -> None:
    first = mlflow_ckpt.register(run_id, 1, name="once", alias="champion")
    second = mlflow_ckpt.register(run_id, 2, name="once", alias="champion")
    again = mlflow_ckpt.register(run_id, 1, name="once", alias="champion")
    assert (second.version, again.version) == (first.version + 1, first.version)
    assert (second.is_new, again.is_new) == (True, False)
    assert len(MlflowClient().search_model_versions("name = 'once'")) == 2
    version = MlflowClient().get_model_version_by_alias("once", "champion")
    assert int(version.version) == first.version


def test_an_existing_model_takes_an_alias_that_it_does_not_have_yet(run_id: str) -> None:
    first = mlflow_ckpt.register(run_id, 1, name="promoted")
    promoted = mlflow_ckpt.register(run_id, 1, name="promoted", alias="champion")
    second = mlflow_ckpt.register(run_id, 2, name="promoted", alias="challenger")
    assert (promoted.version, promoted.is_new) == (first.version, False)
    client = MlflowClient()
    aliases = client.get_registered_model("promoted").aliases
    versions = {"champion": first.version, "challenger": second.version}
    assert {alias: int(version) for alias, version in aliases.items()} == versions
    with pytest.raises(InvalidArgumentError, match="MLflow rejects the alias 'not good'"):
        mlflow_ckpt.register(run_id, 1, name="promoted", alias="not good")


def test_mlflow_loads_it_by_its_alias(run_id: str) -> None:
    expected = mlflow_ckpt.load_model(run_id, 2).predict(X, verbose=0)
    served = mlflow.pyfunc.load_model("models:/champions@champion")
    assert np.allclose(served.predict(X), expected, atol=1e-6)
    # On a local store, MLflow leaves a file of its own in the checkpoint.
    assert mlflow_ckpt.verify(run_id, 2).ok


def test_a_registered_checkpoint_is_never_pruned(store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.25, 0.75))
    mlflow_ckpt.register(run_id, 1, name="kept")
    mlflow_ckpt.prune(run_id, LatestN(1))
    assert names(run_id) == ["epoch_0001", "epoch_0002", "epoch_0003"]


@pytest.mark.parametrize("trained_in", STORES[:1], indirect=True)
def test_the_command(run_id: str) -> None:
    arguments = ("register", run_id, "--checkpoint", "best", "--name", "by command")
    printed = cli.run(*arguments, "--alias", "champion").output
    assert f"{BEST} of run {run_id} is now by command version 1, alias champion\n" in printed
    assert 'mlflow_ckpt.load_model("models:/by command@champion")' in printed
    assert "was already by command version 1\n" in cli.run(*arguments).output
    report = json.loads(cli.run(*arguments, "--json").output)
    assert (report["version"], report["created"], report["checkpoint"]) == (1, False, BEST)
    assert report["uri"] == "models:/by command/1"


@pytest.mark.parametrize(
    ("name", "alias", "said"),
    [
        ("a/b", None, "MLflow rejects the model name 'a/b'"),
        ("", None, "MLflow rejects the model name ''"),
        ("fine", "v1", "MLflow rejects the alias 'v1'"),
        ("fine", "not good", "MLflow rejects the alias 'not good'"),
    ],
)
def test_names_are_checked_before_anything_is_made(
    name: str, alias: str | None, said: str, local_store: Store
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        mlflow_ckpt.register("no run is looked for", name=name, alias=alias)
    assert said in str(caught.value)
    assert MlflowClient().search_registered_models("name = 'fine'") == []


def test_what_is_no_mlflow_model_is_refused(local_store: Store) -> None:
    with pytest.raises(FormNotFoundError, match="only the split form"):
        mlflow_ckpt.register(save_run(forms=("split",)), name="split")
    assert MlflowClient().search_registered_models("name = 'split'") == []


def test_a_damaged_checkpoint_is_refused(store: Store) -> None:
    run_id = save_run()
    store.checkpoint_directory(run_id, "epoch_0001").joinpath("data", "model.keras").unlink()
    with pytest.raises(VerificationError, match=r"is damaged \(data/model.keras\)"):
        mlflow_ckpt.register(run_id, name="damaged")
    assert MlflowClient().search_registered_models("name = 'damaged'") == []


# References


def references(run_id: str) -> list[str]:
    row = next(
        output.model_id
        for output in MlflowClient().get_run(run_id).outputs.model_outputs
        if output.step == 2
    )
    return [
        f"runs:/{run_id}/checkpoints/{BEST}",
        f"ckpt:/{run_id}/{BEST}",
        "models:/champions@champion",
        "models:/champions/1",
        "models:/champions/latest",
        f"models:/{row}",
    ]


def test_every_uri_of_mlflow_is_taken_where_a_run_is(run_id: str, tmp_path: Path) -> None:
    expected = mlflow_ckpt.load_model(run_id, 2).predict(X, verbose=0)
    np.save(tmp_path / "x.npy", X)
    for number, uri in enumerate(references(run_id)):
        assert str(resolve(uri)) == f"ckpt:/{run_id}/epoch:2"
        assert mlflow_ckpt.get_checkpoint(uri).name == BEST
        shown = cli.run("show", uri)
        assert shown.exit_code == 0 and BEST in shown.output
        assert cli.run("verify", uri).output.startswith(f"{BEST}: ok")
        assert cli.run("diff", uri, f"ckpt:/{run_id}/2").output.startswith("identical")
        if number in (0, 2):
            model = mlflow_ckpt.load_model(uri)
            assert np.array_equal(model.predict(X, verbose=0), expected)
            predicted = cli.run("predict", uri, tmp_path / "x.npy")
            assert predicted.exit_code == 0, predicted.output
            point = mlflow_ckpt.resume(uri)
            assert point.checkpoint.name == BEST
    assert [c.name for c in mlflow_ckpt.list_checkpoints(f"runs:/{run_id}")] == names(run_id)
    assert len(mlflow_ckpt.list_checkpoints("models:/champions@champion")) == 3


def test_a_version_made_by_mlflow_itself(run_id: str) -> None:
    mlflow.register_model(f"runs:/{run_id}/checkpoints/epoch_0001", "by hand")
    assert mlflow_ckpt.get_checkpoint("models:/by hand/1").name == "epoch_0001"
    MlflowClient().copy_model_version("models:/by hand/1", "copied")
    assert mlflow_ckpt.get_checkpoint("models:/copied/1").name == "epoch_0001"


@pytest.mark.parametrize(
    ("uri", "error", "said"),
    [
        ("models:/champions@nobody", CheckpointNotFoundError, "There is no model"),
        ("models:/nothing/1", CheckpointNotFoundError, "There is no model models:/nothing/1"),
        ("models:/m-00000000000000000000000000000000", CheckpointNotFoundError, "no model"),
        ("models:/", SelectorError, "was not understood"),
        ("runs:/abc/model", SelectorError, "names no checkpoint"),
        ("runs:/abc/checkpoints/epoch_0001/data", SelectorError, "names no checkpoint"),
        ("s3://bucket/thing", SelectorError, "neither a run id nor a checkpoint URI"),
    ],
)
def test_uris_that_name_no_checkpoint(
    uri: str, error: type[Exception], said: str, run_id: str
) -> None:
    with pytest.raises(error) as caught:
        mlflow_ckpt.get_checkpoint(uri)
    assert said in str(caught.value)


def test_a_selector_beside_a_uri_must_not_contradict(run_id: str) -> None:
    uri = "models:/champions@champion"
    assert mlflow_ckpt.get_checkpoint(uri, 2).name == BEST
    with pytest.raises(SelectorError, match="Two checkpoints were named: epoch:2 in 'models:"):
        mlflow_ckpt.get_checkpoint(uri, 3)


def test_a_version_of_another_kind_of_model(local_store: Store, tmp_path: Path) -> None:
    client = MlflowClient()
    client.create_registered_model("foreign")
    client.create_model_version("foreign", f"{tmp_path.as_uri()}/model")
    with pytest.raises(CheckpointNotFoundError, match="is not a checkpoint of mlflow_ckpt"):
        mlflow_ckpt.get_checkpoint("models:/foreign/1")


def test_a_registry_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingUnavailableError):
        resolve("models:/a/1", tracking_uri=f"http://127.0.0.1:{free_port()}")


def test_prune_and_flush_take_the_same(run_id: str) -> None:
    uri = "models:/champions@champion"
    refused = cli.run("prune", uri, "--keep-last", "1")
    assert refused.exit_code == 2
    assert f"Received one checkpoint: '{uri}'. Pass only the run id: {run_id}" in refused.output
    planned = cli.run("prune", f"runs:/{run_id}", "--keep-last", "3", "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert cli.run("flush", uri).exit_code == 0


def test_list_of_a_model_whose_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = f"http://127.0.0.1:{free_port()}"
    assert cli.run("list", "models:/a/1", "--tracking-uri", away).exit_code == 7
