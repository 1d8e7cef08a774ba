"""What others wrote into a run, MLflow's callback and `log_model`: listed, restored, compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from mlflow.tensorflow import MlflowModelCheckpointCallback
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store, current
from mlflow_ckpt import MlflowCheckpoint
from mlflow_ckpt.errors import CheckpointNotFoundError, ModelLoadError, SelectorError
from tests.support import cli
from tests.support.training import BATCHES, Metrics, X, Y, fit, small_model

VALUES = [0.5, 0.25, 0.75]
# Without this, MLflow tries for seconds what the model needs.
QUICK: dict[str, Any] = {"pip_requirements": ["keras"]}


class Remember(keras.callbacks.Callback):
    """Keeps the weights at the end of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[list[np.ndarray[Any, Any]]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.weights.append(self.model.get_weights())


@dataclass
class Written:
    """Runs that others wrote to, and what the models were."""

    store: Store
    runs: dict[str, str] = field(default_factory=dict)
    weights: dict[str, list[list[np.ndarray[Any, Any]]]] = field(default_factory=dict)
    predicted: np.ndarray[Any, Any] | None = None


@pytest.fixture(scope="module", params=["sqlite_store", "server"])
def written_to(request: pytest.FixtureRequest) -> Written:
    """Each kind of store in turn, with runs of MLflow's own callback and of `log_model`."""
    made = Written(request.getfixturevalue(request.param))

    def train(name: str, *callbacks: keras.callbacks.Callback, **settings: Any) -> keras.Model:
        remember = Remember()
        model = small_model(optimizer="adam", **settings)
        # The validation loss is ours, so nothing is validated.
        values = Metrics("val_loss", VALUES)
        fit(model, values, *callbacks, remember, epochs=3, validation_data=None)
        run = mlflow.active_run()
        assert run is not None
        made.runs[name] = run.info.run_id
        made.weights[name] = remember.weights
        return model

    with current(made.store):
        with mlflow.start_run():
            train("every", MlflowModelCheckpointCallback(save_best_only=False))
        with mlflow.start_run():
            model = train("best", MlflowModelCheckpointCallback())
        with mlflow.start_run() as run:
            mlflow.keras.log_model(model, name="after_hdf5", **QUICK)
            made.runs["after"] = run.info.run_id
        with mlflow.start_run():
            train(
                "weights",
                MlflowModelCheckpointCallback(save_best_only=False, save_weights_only=True),
            )
        with mlflow.start_run():
            model = train("logged")
            made.predicted = model.predict(X, verbose=0)
            mlflow.keras.log_model(model, name="by_keras", **QUICK)
            mlflow.tensorflow.log_model(
                model,
                name="by_tensorflow",
                keras_model_kwargs={"save_format": "h5"},
                registered_model_name=f"others_{request.param}",
                **QUICK,
            )
            signature = mlflow.models.infer_signature(X, made.predicted)
            mlflow.keras.log_model(
                model, name="exported", save_exported_model=True, signature=signature, **QUICK
            )
            mlflow.pyfunc.log_model(name="no_keras", python_model=_Doubled(), **QUICK)
        with mlflow.start_run(), pytest.warns(UserWarning, match="saved twice"):
            train("both", MlflowModelCheckpointCallback(save_best_only=False), MlflowCheckpoint())
    return made


class _Doubled(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def predict(self, context: Any, model_input: list[float]) -> list[float]:
        return [2 * value for value in model_input]


@pytest.fixture
def written(written_to: Written) -> Iterator[Written]:
    """The runs, with their store as MLflow's current one."""
    with current(written_to.store):
        yield written_to


def listed(run_id: str) -> dict[str, Any]:
    result = cli.run("list", run_id, "--json")
    assert result.exit_code == 0, result.output
    listing: dict[str, Any] = json.loads(result.stdout, parse_constant=pytest.fail)
    return listing


def restored(tmp_path: Path, *arguments: str) -> keras.Model:
    result = cli.run("restore", *arguments, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "unverified: there is no record of what was saved" in result.output
    assert "mlflow_ckpt.resume" not in result.output
    return keras.models.load_model(tmp_path / "out" / "model.keras")


def require_weights(model: keras.Model, weights: list[np.ndarray[Any, Any]]) -> None:
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


# list


def test_what_mlflow_s_callback_saved_at_every_epoch(written: Written) -> None:
    run_id = written.runs["every"]
    listing = listed(run_id)
    assert listing["checkpoints"] == []
    rows = listing["others"]
    assert [row["name"] for row in rows] == ["epoch_0", "epoch_1", "epoch_2"], "as MLflow counts"
    assert [row["epoch"] for row in rows] == [1, 2, 3], "completed epochs"
    assert [row["step"] for row in rows] == [BATCHES, 2 * BATCHES, 3 * BATCHES]
    assert [row["metrics"]["val_loss"] for row in rows] == VALUES
    assert all(row["size"] > 1000 and row["verified"] is False for row in rows)
    assert rows[0]["uri"] == f"runs:/{run_id}/checkpoints/epoch_0/checkpoint.h5"
    text = cli.run("list", run_id).output
    assert text.startswith("unverified")
    assert "MLflow's callback" in text


def test_the_best_alone(written: Written) -> None:
    (row,) = listed(written.runs["best"])["others"]
    assert (row["name"], row["epoch"]) == ("latest_checkpoint.h5", 2)
    assert row["metrics"]["val_loss"] == 0.25


def test_logged_models_that_keras_can_load(written: Written) -> None:
    rows = listed(written.runs["logged"])["others"]
    assert [row["name"] for row in rows] == ["by_keras", "by_tensorflow"]
    assert all(row["kind"] == "logged model" and row["created"] for row in rows)
    assert all(row["uri"].startswith("models:/m-") for row in rows)


def test_beside_our_own(written: Written) -> None:
    listing = listed(written.runs["both"])
    assert [checkpoint["name"] for checkpoint in listing["checkpoints"]] == [
        "epoch_0001",
        "epoch_0002",
        "epoch_0003",
    ]
    assert [row["name"] for row in listing["others"]] == ["epoch_0", "epoch_1", "epoch_2"]
    text = cli.run("list", written.runs["both"]).output
    assert text.index("checkpoint ") < text.index("unverified")


# restore


@pytest.mark.parametrize(
    ("selector", "epoch"),
    [("latest", 3), ("best", 2), ("epoch:1", 1), (f"step:{2 * BATCHES}", 2)],
)
def test_selectors_mean_what_others_wrote_where_nothing_of_ours_is(
    written: Written, tmp_path: Path, selector: str, epoch: int
) -> None:
    model = restored(tmp_path, written.runs["every"], "--checkpoint", selector)
    require_weights(model, written.weights["every"][epoch - 1])
    assert int(model.optimizer.iterations) == epoch * BATCHES
    model.run_eagerly = True  # tracing a graph takes longer than the step
    model.train_on_batch(X, Y)
    assert int(model.optimizer.iterations) == epoch * BATCHES + 1


def test_by_its_path(written: Written, tmp_path: Path) -> None:
    run_id = written.runs["every"]
    for number, path in enumerate(["epoch_1", "epoch_1/checkpoint.h5"]):
        model = restored(tmp_path / str(number), f"runs:/{run_id}/checkpoints/{path}")
        require_weights(model, written.weights["every"][1])


def test_ours_come_first(written: Written, tmp_path: Path) -> None:
    result = cli.run("restore", written.runs["both"], "--output", tmp_path / "out", "--json")
    report = json.loads(result.stdout)
    assert (report["checkpoint"], report["verified"]) == ("epoch_0003", True)
    assert report["tensors_verified"] > 0


def test_weights_alone_need_an_architecture(written: Written, tmp_path: Path) -> None:
    run_id = written.runs["weights"]
    refused = cli.run("restore", run_id, "--output", tmp_path / "out")
    assert refused.exit_code == 5
    assert "holds only weights. Expected an architecture" in refused.output
    assert not (tmp_path / "out").exists()
    file = tmp_path / "architecture.json"
    file.write_text(small_model().to_json())
    model = restored(tmp_path, run_id, "--checkpoint", "epoch:2", "--architecture", str(file))
    require_weights(model, written.weights["weights"][1])


def test_a_logged_model_by_each_of_its_names(written: Written, tmp_path: Path) -> None:
    run_id = written.runs["logged"]
    rows = {row["name"]: row["uri"] for row in listed(run_id)["others"]}
    registered = f"models:/others_{'server' if 'http' in written.store.uri else 'sqlite_store'}/1"
    uris = [rows["by_keras"], f"runs:/{run_id}/by_tensorflow", registered]
    for number, uri in enumerate(uris):
        model = restored(tmp_path / str(number), uri)
        require_weights(model, written.weights["logged"][-1])
        assert type(model.optimizer) is keras.optimizers.Adam
        assert int(model.optimizer.iterations) == 3 * BATCHES


@pytest.mark.parametrize("name", ["exported", "no_keras", "nothing"])
def test_what_is_no_keras_model(written: Written, tmp_path: Path, name: str) -> None:
    uri = f"runs:/{written.runs['logged']}/{name}"
    refused = cli.run("restore", uri, "--output", tmp_path / "out")
    assert refused.exit_code == 3
    assert f"{uri} is neither a checkpoint nor a logged Keras model" in refused.output
    assert not (tmp_path / "out").exists()


def test_an_optimizer_that_a_file_does_not_name(written: Written, tmp_path: Path) -> None:
    # Keras forgets the optimizer once MLflow's callback has saved HDF5, and would load RMSprop.
    uri = f"runs:/{written.runs['after']}/after_hdf5"
    result = cli.run("restore", uri, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Without its compile settings and optimizer" in result.output
    model = keras.models.load_model(tmp_path / "out" / "model.keras")
    assert getattr(model, "optimizer", None) is None
    require_weights(model, written.weights["best"][-1])
    output = cli.run("diff", uri, f"ckpt:/{written.runs['both']}/3").output
    assert "the optimizer was not compared: A was loaded without its compile settings" in output


def test_the_other_forms_and_formats(written: Written, tmp_path: Path) -> None:
    run_id = written.runs["best"]
    split = cli.run("restore", run_id, "--form", "split", "--output", tmp_path / "split")
    assert split.exit_code == 0, split.output
    model = keras.models.model_from_json((tmp_path / "split" / "architecture.json").read_text())
    model.load_weights(tmp_path / "split" / "model.weights.h5")
    require_weights(model, written.weights["best"][1])
    h5 = cli.run("restore", run_id, "--format", "h5", "--output", tmp_path / "h5")
    assert h5.exit_code == 0, h5.output
    model = keras.models.load_model(tmp_path / "h5" / "model.h5", compile=False)
    require_weights(model, written.weights["best"][1])


# predict, diff


def test_predict(written: Written, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    uri = f"runs:/{written.runs['logged']}/by_keras"
    result = cli.run("predict", uri, tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    assert result.exit_code == 0, result.output
    assert "Unverified: mlflow_ckpt did not write models:/m-" in result.output
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), written.predicted, atol=1e-6)


def test_ours_and_theirs_of_one_training_are_identical(written: Written) -> None:
    run_id = written.runs["both"]
    theirs = f"runs:/{run_id}/checkpoints/epoch_1"
    result = cli.run("diff", f"ckpt:/{run_id}/2", theirs)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("identical: 4 tensors of weights, 10 tensors of the optimizer")
    assert f"B  {theirs}/checkpoint.h5  epoch 2, step {2 * BATCHES}  (unverified)" in result.output
    difference = mlflow_ckpt.diff(f"ckpt:/{run_id}/2", f"runs:/{run_id}/checkpoints/epoch_2")
    assert not difference.identical
    assert (difference.a.verified, difference.b.verified) == (True, False)


# In Python


def test_load_model_takes_them_only_where_that_is_allowed(written: Written) -> None:
    run_id = written.runs["every"]
    with pytest.raises(CheckpointNotFoundError, match=r"saved by other tools \(.*epoch_2\)"):
        mlflow_ckpt.load_model(run_id)
    for command in (("show",), ("verify",), ("verify", "--all"), ("resume", "--epochs", "9")):
        refused = cli.run(command[0], run_id, *command[1:])
        assert refused.exit_code == 3
        assert "epoch_2), which cannot be verified. Load them with" in refused.output
    with pytest.raises(SelectorError):
        mlflow_ckpt.load_model(f"runs:/{run_id}/checkpoints/epoch_1")
    uri = listed(written.runs["logged"])["others"][0]["uri"]
    with pytest.raises(CheckpointNotFoundError, match="allow_unverified=True"):
        mlflow_ckpt.load_model(uri)
    for model in (
        mlflow_ckpt.load_model(run_id, "best", allow_unverified=True),
        mlflow_ckpt.load_model(f"runs:/{run_id}/checkpoints/epoch_1", allow_unverified=True),
    ):
        require_weights(model, written.weights["every"][1])
    ours = mlflow_ckpt.load_model(written.runs["both"], 1, "split", allow_unverified=True)
    require_weights(ours, written.weights["both"][0])


# What cannot be read


def test_autolog(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # MLflow looks in a process of its own for what the model imports, or takes its defaults.
    monkeypatch.setenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", "1")
    mlflow.tensorflow.autolog(silent=True, log_datasets=False)
    try:
        with mlflow.start_run() as run:
            model = small_model(optimizer="adam")
            fit(model, batch_size=len(X))
    finally:
        mlflow.tensorflow.autolog(disable=True)
    rows = listed(run.info.run_id)["others"]
    assert [row["name"] for row in rows] == ["latest_checkpoint.h5", "model"]
    loaded = mlflow_ckpt.load_model(run.info.run_id, allow_unverified=True)
    require_weights(loaded, model.get_weights())


def test_files_that_anyone_left_in_a_run(local_store: Store, tmp_path: Path) -> None:
    model = small_model()
    model.save(tmp_path / "mine.keras")
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(tmp_path / "mine.keras"), "models")
        mlflow.log_text("no number", "checkpoints/epoch_0/checkpoint_metrics.json")
        mlflow.log_text("no HDF5", "checkpoints/epoch_0/checkpoint.h5")
        mlflow.log_text("nothing", "checkpoints/epoch_7/other.txt")
        mlflow.log_text(
            '{"epoch": 1e400, "loss": "x", "mae": NaN}',
            "checkpoints/latest_checkpoint_metrics.json",
        )
        mlflow.log_text("", "checkpoints/latest_checkpoint.h5")
    run_id = run.info.run_id
    loaded = mlflow_ckpt.load_model(f"runs:/{run_id}/models/mine.keras", allow_unverified=True)
    require_weights(loaded, model.get_weights())
    rows = listed(run_id)["others"]
    assert {row["name"]: row["epoch"] for row in rows} == {
        "latest_checkpoint.h5": None,
        "epoch_0": None,
    }
    assert {"mae": None} in [row["metrics"] for row in rows], "JSON has no NaN"
    with pytest.raises(ModelLoadError):
        mlflow_ckpt.load_model(f"runs:/{run_id}/checkpoints/epoch_0", allow_unverified=True)
    refused = cli.run("list", "models:/m-0123456789abcdef0123456789abcdef")
    assert refused.exit_code == 3
    empty = MlflowClient().create_run(run.info.experiment_id)
    with pytest.raises(CheckpointNotFoundError):
        mlflow_ckpt.load_model(empty.info.run_id, allow_unverified=True)


def test_code_in_the_files_of_others_does_not_run(local_store: Store, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    path = str(ran)
    layer = keras.layers.Lambda(lambda x: (__import__("pathlib").Path(path).touch(), x)[1])
    model = keras.Sequential([keras.Input((4,)), layer])
    ran.unlink()
    with mlflow.start_run() as run:
        for name in ("model.h5", "model.keras"):
            model.save(tmp_path / name)
            mlflow.log_artifact(str(tmp_path / name))
    for name in ("model.h5", "model.keras"):
        uri = f"runs:/{run.info.run_id}/{name}"
        with pytest.raises(ModelLoadError, match="The model holds a Lambda layer"):
            mlflow_ckpt.load_model(uri, allow_unverified=True)
        refused = cli.run("restore", uri, "--output", tmp_path / "out")
        assert refused.exit_code == 5
    assert not ran.exists()


def test_the_directory_is_named_after_what_was_saved(
    local_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_model().save(tmp_path / "mine.keras")
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(tmp_path / "mine.keras"))
    monkeypatch.chdir(tmp_path)
    assert cli.run("restore", f"runs:/{run.info.run_id}/mine.keras").exit_code == 0
    assert (tmp_path / "mine" / "model.keras").is_file()


def test_what_mlflow_2_logged(local_store: Store, tmp_path: Path) -> None:
    model = small_model()
    mlflow.keras.save_model(model, str(tmp_path / "model"), **QUICK)
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(tmp_path / "model"), "model")
        history = [
            {"artifact_path": "model", "flavors": {"keras": {}, "python_function": {}}},
            {"artifact_path": "other", "flavors": {"sklearn": {}}},
        ]
        mlflow.set_tag("mlflow.log-model.history", json.dumps(history))
    (row,) = listed(run.info.run_id)["others"]
    assert (row["name"], row["uri"]) == ("model", f"runs:/{run.info.run_id}/model")
    loaded = mlflow_ckpt.load_model(run.info.run_id, allow_unverified=True)
    require_weights(loaded, model.get_weights())
