"""Our errors are also those that Keras or Python raises for the same mistake."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import keras
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt import MlflowCheckpoint, errors
from tests.conftest import TrainedRun
from tests.support.training import fit, new_run, small_model, trained
from tests.test_callback import NoConfig


def stock_error(action: Any) -> type[BaseException]:
    """Return the class of Python's that the error of a stock function is of."""
    with pytest.raises(Exception) as caught:
        action()
    return next(c for c in type(caught.value).__mro__ if c.__module__ == "builtins")


def ours(error: type[errors.MlflowCkptError], action: Any) -> errors.MlflowCkptError:
    with pytest.raises(error) as caught:
        action()
    return caught.value


def test_a_model_that_is_not_there(local_store: Store, tmp_path: Path) -> None:
    run_id = new_run()
    error = ours(errors.CheckpointNotFoundError, lambda: mlflow_ckpt.load_model(run_id))
    for suffix in (".keras", ".h5"):
        path = str(tmp_path / f"none{suffix}")
        assert isinstance(error, stock_error(lambda path=path: keras.saving.load_model(path)))
    assert isinstance(error, (FileNotFoundError)) and isinstance(error, LookupError)
    assert str(error).startswith("The run")
    missing = ours(errors.RunNotFoundError, lambda: mlflow_ckpt.load_model("feedbeef"))
    assert isinstance(missing, FileNotFoundError) and isinstance(missing, ValueError)


def test_a_file_that_is_damaged(local_store: Store, tmp_path: Path) -> None:
    run_id = trained(epochs=1, forms=("full", "split"), test_load=False)
    directory = local_store.checkpoint_directory(run_id, "epoch_0001")
    for path in (directory / "data" / "model.keras", directory / "model.weights.h5"):
        path.write_bytes(b"damaged")
    error = ours(errors.VerificationError, lambda: mlflow_ckpt.load_model(run_id))
    full, weights = directory / "data" / "model.keras", directory / "model.weights.h5"
    assert isinstance(error, stock_error(lambda: keras.saving.load_model(full)))
    assert isinstance(error, stock_error(lambda: small_model().load_weights(weights)))
    (directory / "manifest.json").write_text('{"schema_version": 99}')
    newer = ours(errors.NewerSchemaError, lambda: mlflow_ckpt.load_model(run_id, 1))
    assert isinstance(newer, ValueError)
    assert "Install a newer mlflow-ckpt" in str(newer)


def test_weights_that_do_not_fit(trained_run: TrainedRun, tmp_path: Path) -> None:
    model = small_model()
    trained_run.model.save_weights(tmp_path / "a.weights.h5")
    error = ours(
        errors.WeightsMismatchError,
        lambda: mlflow_ckpt.load_weights(
            model, trained_run.run_id, tracking_uri=trained_run.store.uri
        ),
    )
    assert isinstance(error, stock_error(lambda: model.load_weights(tmp_path / "a.weights.h5")))


class Own(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x


def test_a_class_that_is_unknown(local_store: Store, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1), Own()])
    model.compile("sgd", "mse", run_eagerly=True)
    run_id = trained(model, epochs=1, test_load=False)
    path = tmp_path / "own.keras"
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        text = archive.read("config.json").decode()
    elsewhere = text.replace(__name__, "not_here").replace('"Own"', '"Gone"')
    stock = stock_error(lambda: keras.models.model_from_json(elsewhere))
    error = errors.UnknownObjectError("unknown", name="Gone")
    assert isinstance(error, stock) and isinstance(error, ValueError)
    assert mlflow_ckpt.load_model(run_id, custom_objects={"Own": Own}).built


def test_a_model_that_cannot_be_saved(local_store: Store, tmp_path: Path) -> None:
    model = NoConfig(1)
    model.compile("adam", "mse", run_eagerly=True)
    error = ours(errors.UnsupportedModelError, lambda: fit(model, MlflowCheckpoint("loss")))
    assert isinstance(error, NotImplementedError)
    for run in MlflowClient().search_runs([local_store.experiment_id], max_results=1):
        assert run.info.status == "FAILED"


@pytest.mark.parametrize(
    ("arguments", "builtin"),
    [({"run_id": 7}, TypeError), ({"save_freq": 1.5}, TypeError), ({"save_freq": 0}, ValueError)],
)
def test_an_argument_of_a_wrong_type(arguments: Any, builtin: type[Exception]) -> None:
    error = ours(errors.InvalidArgumentError, lambda: MlflowCheckpoint(**arguments))
    assert isinstance(error, builtin) and isinstance(error, ValueError)


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    tree = (errors.__doc__ or "").split("MlflowCkptError", 1)[1]
    for name in errors.__all__:
        error = getattr(errors, name)
        builtins = [b.__name__ for b in error.__bases__ if b.__module__ == "builtins"]
        if error is not errors.MlflowCkptError:
            (line,) = [line for line in tree.splitlines() if f"─ {name}" in line]
            drawn = line.partition("(")[2].partition(")")[0]
            assert [part for part in drawn.split(", ") if part] == builtins, name
