"""Fingerprints of live models: the same everywhere, whichever road Keras leaves open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest
from keras.src.saving import saving_lib

import mlflow_ckpt
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.fingerprint import OPTIMIZER_ROLE, WEIGHTS_ROLE
from mlflow_ckpt._model.capture import snapshot, write_snapshot
from mlflow_ckpt._model.keras_private import saving_code
from mlflow_ckpt.errors import UnsupportedModelError
from tests.support.training import X, Y, fit, small_model
from tests.support.waiting import PATIENCE_SECONDS
from tests.support.zoo import ZOO

ROOT = Path(__file__).parents[1]
BOTH = (WEIGHTS_ROLE, OPTIMIZER_ROLE)
KINDS = ["dropout", "mixed_float16", "several inputs and outputs", "subclassed", "nested models"]
IN_ANOTHER_PROCESS = """
import json, keras, mlflow_ckpt, sys
from tests.support.zoo import ZOO
fingerprints = {}
for kind in json.loads(sys.argv[1]):
    keras.utils.set_random_seed(5)
    model = ZOO[kind].build()
    x, y = ZOO[kind].data()
    model.train_on_batch(x, y)
    fingerprints[kind] = mlflow_ckpt.fingerprint(model).to_json()
print(json.dumps(fingerprints))
"""


def start_fingerprinting(hash_seed: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, json.dumps(KINDS)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fingerprints_of(process: subprocess.Popen[str]) -> dict[str, str]:
    try:
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    fingerprints: dict[str, str] = json.loads(output.splitlines()[-1])
    return fingerprints


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    processes = [start_fingerprinting(seed) for seed in ("1", "2")]
    one, other = (fingerprints_of(process) for process in processes)
    assert one.keys() == set(KINDS)
    assert one == other


@pytest.mark.parametrize("kind", KINDS)
def test_a_fingerprint_survives_a_reload_with_keras_alone(kind: str, tmp_path: Path) -> None:
    model = ZOO[kind].build()
    x, y = ZOO[kind].data()
    model.train_on_batch(x, y)
    before = mlflow_ckpt.fingerprint(model)
    model.save(tmp_path / "model.keras")
    after = mlflow_ckpt.fingerprint(keras.models.load_model(tmp_path / "model.keras"))
    assert before.differing(after, BOTH) == []
    assert before.weights_digest == after.weights_digest
    assert before.optimizer_digest == after.optimizer_digest
    assert before.architecture_digest == after.architecture_digest


def test_a_tensor_is_found_by_its_name_in_the_weights_file(tmp_path: Path) -> None:
    model = small_model()
    model.train_on_batch(X, Y)
    model.save_weights(tmp_path / "model.weights.h5")
    fingerprint = mlflow_ckpt.fingerprint(model)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        for tensor in fingerprint.tensors:
            values = file[tensor.name][()]
            assert tensor.digest == Digest.of_bytes(values.tobytes())
            assert (tensor.shape, tensor.dtype) == (values.shape, values.dtype.name)


def test_tensors_carry_names_for_people() -> None:
    model = small_model()
    model.train_on_batch(X, Y)
    labels = [tensor.label for tensor in mlflow_ckpt.fingerprint(model).of_role(WEIGHTS_ROLE)]
    assert labels == ["hidden/kernel", "hidden/bias", "head/kernel", "head/bias"]
    variables = [t.variable for t in mlflow_ckpt.fingerprint(model).of_role(OPTIMIZER_ROLE)]
    assert variables[:2] == ["iteration", "learning_rate"]


def test_one_changed_element_changes_the_fingerprint() -> None:
    model = small_model()
    before = mlflow_ckpt.fingerprint(model)
    bias = model.get_layer("head").bias
    bias.assign(bias.numpy() + np.float32(1e-7))
    after = mlflow_ckpt.fingerprint(model)
    assert before.differing(after, BOTH) == ["layers/dense_1/vars/1"]
    assert before.weights_digest != after.weights_digest
    assert before.optimizer_digest == after.optimizer_digest


def test_a_changed_activation_changes_the_architecture_alone() -> None:
    one, other = small_model(), small_model()
    other.get_layer("hidden").activation = keras.activations.relu
    mine, theirs = mlflow_ckpt.fingerprint(one), mlflow_ckpt.fingerprint(other)
    assert mine.architecture_digest != theirs.architecture_digest
    assert mine.weights_digest == theirs.weights_digest


def test_a_model_without_weights_is_refused() -> None:
    model = keras.Sequential([keras.layers.Dense(2)])
    with pytest.raises(UnsupportedModelError, match=r"has no weights yet\. Expected a built model"):
        mlflow_ckpt.fingerprint(model)


def test_a_snapshot_is_untouched_by_later_training(tmp_path: Path) -> None:
    model = small_model()
    model.train_on_batch(X, Y)
    expected = mlflow_ckpt.fingerprint(model)
    with closing(snapshot.take(model)) as taken:
        fit(model, epochs=1)
        assert expected.differing(mlflow_ckpt.fingerprint(model), (WEIGHTS_ROLE,)) != []
        write_snapshot.write(taken, tmp_path, epoch=1, forms=("full", "split"), full_format="keras")
        assert taken.fingerprint() == expected
    loaded = keras.models.load_model(tmp_path / "data" / "model.keras")
    assert expected.differing(mlflow_ckpt.fingerprint(loaded), BOTH) == []


@pytest.mark.parametrize(
    ("kind", "gone"),
    [
        *((kind, "_save_state") for kind in [*KINDS, "bfloat16", "text vectorization"]),
        ("dropout", "_serialize_model_as_json"),
        ("dropout", "DiskIOStore"),
    ],
)
def test_without_keras_private_code_the_public_road_gives_the_same(
    kind: str, gone: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = ZOO[kind].build()
    x, y = ZOO[kind].data()
    model.train_on_batch(x, y)
    before = mlflow_ckpt.fingerprint(model)
    # Keras itself goes on; only this package no longer finds what it leans on.
    remaining = {name: value for name, value in vars(saving_lib).items() if name != gone}
    monkeypatch.setattr(saving_code, "saving_lib", SimpleNamespace(**remaining))
    with pytest.warns(UserWarning, match=f"saves models differently .*no {gone}"):
        taken = snapshot.take(model)
    monkeypatch.undo()
    with closing(taken):
        after = taken.fingerprint()
        assert before.differing(after, BOTH) == []
        assert (before.weights_digest, before.optimizer_digest) == (
            after.weights_digest,
            after.optimizer_digest,
        )
        write_snapshot.write(taken, tmp_path, epoch=1, forms=("full",), full_format="keras")
    loaded = keras.models.load_model(tmp_path / "data" / "model.keras")
    assert before.differing(mlflow_ckpt.fingerprint(loaded), BOTH) == []
