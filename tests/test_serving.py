"""Checkpoints are MLflow models for everybody: where mlflow_ckpt is not installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import yaml
from mlflow.exceptions import MlflowException

import mlflow_ckpt
from devtools.stores import Store, current, free_port
from mlflow_ckpt import MlflowCheckpoint
from tests.support.training import Metrics, X, fit, small_model, trained
from tests.support.waiting import PATIENCE_SECONDS, wait_for
from tests.support.without import environment_without_package, variables_of


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python with everything but mlflow_ckpt."""
    return environment_without_package(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def run_id(server: Store) -> str:
    """A run on an HTTP server, whose second checkpoint of three is best, and a champion."""
    with current(server):
        values = Metrics("val_loss", [0.5, 0.25, 0.75])
        with mlflow.start_run() as run:
            fit(small_model(outputs=2), values, MlflowCheckpoint(), epochs=3)
        mlflow_ckpt.register(run.info.run_id, "best", name="served", alias="champion")
        return str(run.info.run_id)


@pytest.fixture(scope="module")
def expected(server: Store, run_id: str) -> np.ndarray[Any, Any]:
    """What the best one predicts."""
    with current(server):
        predictions: np.ndarray[Any, Any] = mlflow_ckpt.load_model(run_id, "best").predict(
            X, verbose=0
        )
    return predictions


def run_elsewhere(
    interpreter: Path, store: Store, *arguments: str, cwd: Path
) -> subprocess.CompletedProcess[str]:
    variables = {**variables_of(interpreter), "MLFLOW_TRACKING_URI": store.uri}
    return subprocess.run(
        [str(interpreter), *arguments],
        capture_output=True, text=True, check=False, timeout=300, cwd=cwd, env=variables,
    )  # fmt: skip


# Serving


@pytest.fixture(scope="module")
def served(
    elsewhere: Path, server: Store, run_id: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Address of `mlflow models serve`, in the environment without mlflow_ckpt."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    directory = tmp_path_factory.mktemp("serving")
    log = directory / "log"
    command = [
        *(str(elsewhere), "-m", "mlflow", "models", "serve", "--host", "127.0.0.1"),
        *("-m", f"runs:/{run_id}/checkpoints/epoch_0002", "--port", str(port)),
        *("--env-manager", "local", "--workers", "1"),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=directory, start_new_session=True,
            env={**variables_of(elsewhere), "MLFLOW_TRACKING_URI": server.uri},
        )  # fmt: skip
    try:
        _wait_until_ready(address, process, log)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)


def _wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return requests.get(f"{address}/ping", timeout=5).ok
        except (requests.ConnectionError, requests.Timeout):
            return False

    wait_for(answers, "the model is served", pause=0.2)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: {"inputs": x.tolist()},
        lambda x: {"instances": x.tolist()},
        lambda x: {"dataframe_split": pd.DataFrame(x).to_dict(orient="split")},
    ],
    ids=["inputs", "instances", "dataframe"],
)
def test_it_answers_with_the_numbers_of_the_live_model(
    form: Callable[[Any], dict[str, Any]], served: str, expected: np.ndarray[Any, Any]
) -> None:
    answer = requests.post(f"{served}/invocations", json=form(X), timeout=60)
    assert answer.status_code == 200, answer.text
    assert np.allclose(answer.json()["predictions"], expected, atol=1e-6)


def test_it_refuses_another_shape(served: str) -> None:
    answer = requests.post(f"{served}/invocations", json={"inputs": [[1.0, 2.0]]}, timeout=60)
    assert answer.status_code == 400
    assert "shape" in answer.text


# MLflow's functions and commands


def test_stock_functions_load_it_elsewhere(
    elsewhere: Path, server: Store, run_id: str, expected: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "expected.npy", expected)
    script = f"""
import mlflow, numpy as np
try:
    import mlflow_ckpt
except ImportError:
    pass
else:
    raise SystemExit("mlflow_ckpt can be imported")
x, expected = np.load("x.npy"), np.load("expected.npy")
uri = "runs:/{run_id}/checkpoints/epoch_0002"
for predictions in (
    mlflow.pyfunc.load_model(uri).predict(x),
    mlflow.pyfunc.load_model("models:/served@champion").predict(x),
    mlflow.keras.load_model(uri).predict(x, verbose=0),
):
    assert np.allclose(predictions, expected, atol=1e-6)
print("version", mlflow.register_model(uri, "registered elsewhere").version)
"""
    done = run_elsewhere(elsewhere, server, "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "version 1" in done.stdout
    with current(server):
        assert mlflow_ckpt.get_checkpoint("models:/registered elsewhere/1").name == "epoch_0002"


@pytest.mark.long
def test_mlflow_models_predict(
    elsewhere: Path, server: Store, run_id: str, expected: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    (tmp_path / "input.json").write_text(json.dumps({"inputs": X.tolist()}))
    done = run_elsewhere(
        *(elsewhere, server, "-m", "mlflow", "models", "predict"),
        *("-m", f"runs:/{run_id}/checkpoints/epoch_0002", "--env-manager", "local"),
        *("-i", "input.json", "-o", "output.json", "--content-type", "json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    predictions = json.loads((tmp_path / "output.json").read_bytes())["predictions"]
    assert np.allclose(predictions, expected, atol=1e-6)


# Signatures, for several kinds of models


def logged(model: keras.Model, x: Any, y: Any) -> mlflow.pyfunc.PyFuncModel:
    model.compile("sgd", "mse", run_eagerly=True)
    with mlflow.start_run() as run:
        model.fit(x, y, verbose=0, callbacks=[MlflowCheckpoint(monitor="loss")])
    return mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/checkpoints/epoch_0001")


def described(schema: Any) -> list[tuple[str | None, str, tuple[int, ...]]]:
    return [(spec.name, str(spec.type), spec.shape) for spec in schema.inputs]


RNG = np.random.default_rng(0)


def test_images(local_store: Store) -> None:
    x = RNG.random((4, 8, 8, 3)).astype("float32")
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    loaded = logged(keras.Sequential(layers), x, np.zeros((4, 2), "float32"))
    assert described(loaded.metadata.signature.inputs) == [(None, "float32", (-1, 8, 8, 3))]
    assert loaded.predict(x).shape == (4, 2)
    with pytest.raises(MlflowException, match="enforce schema"):
        loaded.predict(pd.DataFrame(x.reshape(4, -1)))


def test_several_inputs_and_outputs_of_several_types(local_store: Store) -> None:
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b", dtype="int32")
    words = keras.layers.Flatten()(keras.layers.Embedding(5, 2)(b))
    one = keras.layers.Dense(1, name="one")(keras.layers.Concatenate()([a, words]))
    two = keras.layers.Dense(2, name="two")(one)
    x = {"a": RNG.random((4, 3)).astype("float32"), "b": RNG.integers(0, 5, (4, 2), dtype="int32")}
    model = keras.Model([a, b], [one, two])
    y = [np.zeros((4, 1), "float32"), np.zeros((4, 2), "float32")]
    loaded = logged(model, [x["a"], x["b"]], y)
    signature = loaded.metadata.signature
    assert described(signature.inputs) == [
        ("a", "float32", (-1, 3)),
        ("b", "int32", (-1, 2)),
    ]
    assert described(signature.outputs) == [
        ("one", "float32", (-1, 1)),
        ("two", "float32", (-1, 2)),
    ]
    # MLflow 3.17 makes one array of what a model gives, which several of different shapes are not.
    with pytest.raises(ValueError, match="inhomogeneous"):
        loaded.predict(x)
    stock = mlflow.keras.load_model(loaded.metadata.get_model_info().model_uri)
    assert [output.shape for output in stock.predict([x["a"], x["b"]], verbose=0)] == [
        (4, 1),
        (4, 2),
    ]


def test_several_inputs_and_one_output(local_store: Store) -> None:
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(2)(keras.layers.Concatenate()([a, b])))
    x = {"a": RNG.random((4, 3)).astype("float32"), "b": RNG.random((4, 2)).astype("float32")}
    loaded = logged(model, x, np.zeros((4, 2), "float32"))
    assert np.allclose(loaded.predict(x), model.predict(x, verbose=0), atol=1e-6)


def test_what_is_not_of_the_model_s_type_is_refused(local_store: Store) -> None:
    run_id = trained(epochs=1)
    loaded = mlflow.pyfunc.load_model(f"runs:/{run_id}/checkpoints/epoch_0001")
    assert loaded.predict(pd.DataFrame(X)).shape == (len(X), 1)
    with pytest.raises(MlflowException, match="enforce schema"):
        loaded.predict(X.astype("float64"))


# Environments


def test_the_environment_files_agree_and_pin_what_is_installed(local_store: Store) -> None:
    run_id = trained(epochs=1)
    directory = local_store.checkpoint_directory(run_id, "epoch_0001")
    requirements = (directory / "requirements.txt").read_text().split()
    versions = mlflow_ckpt.get_checkpoint(run_id).manifest.versions
    for name in ("keras", "tensorflow", "numpy", "h5py", "mlflow"):
        assert f"{name}=={versions[name]}" in requirements
    assert not any("mlflow_ckpt" in line or "mlflow-ckpt" in line for line in requirements)
    conda = yaml.safe_load((directory / "conda.yaml").read_text())
    assert conda["dependencies"][-1] == {"pip": requirements}
    python = yaml.safe_load((directory / "python_env.yaml").read_text())
    assert python["dependencies"] == ["-r requirements.txt"]
    assert conda["dependencies"][0] == f"python={python['python']}"
    flavors = yaml.safe_load((directory / "MLmodel").read_text())["flavors"]
    env = {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}
    assert flavors["python_function"]["env"] == env


@pytest.mark.long
def test_uv_builds_the_environment(
    server: Store, run_id: str, expected: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    (tmp_path / "input.json").write_text(json.dumps({"inputs": X.tolist()}))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mlflow", "models", "predict", "--env-manager", "uv"),
            *("-m", f"runs:/{run_id}/checkpoints/epoch_0002", "--content-type", "json"),
            *("-i", "input.json", "-o", "output.json"),
        ],
        capture_output=True, text=True, check=False, timeout=1800, cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": server.uri, "MLFLOW_ENV_ROOT": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    predictions = json.loads((tmp_path / "output.json").read_bytes())["predictions"]
    assert np.allclose(predictions, expected, atol=1e-6)
