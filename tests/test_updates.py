"""How far weights move between checkpoints: measured, kept with the fingerprint, and logged."""

from __future__ import annotations

import json
import math
from typing import Any

import keras
import ml_dtypes
import mlflow
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt import MlflowCheckpoint
from mlflow_ckpt._format.fingerprint import Fingerprint
from mlflow_ckpt._model.capture.updates import Updates
from mlflow_ckpt._model.files.captured import Tensor
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.ui.weight_metrics import weight_metrics
from mlflow_ckpt.errors import InvalidArgumentError
from tests.support.training import fit, small_model, trained

DTYPES = ["float16", "float32", "float64", "int8", "int64", "bool", ml_dtypes.bfloat16]


def tensor(array: Any, name: str = "layers/a/vars/0", role: str = "weights") -> Tensor:
    return Tensor(name, np.asarray(array), "a", "kernel", role)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([0, 1, 7, (1 << 15) - 1, (1 << 15) + 1, 70_000]),
    dtype=st.sampled_from(DTYPES),
)
def test_the_norm_is_that_of_the_difference(seed: int, size: int, dtype: Any) -> None:
    generator = np.random.default_rng(seed)
    old, new = (generator.normal(size=size) * 3 for _ in range(2))
    a, b = old.astype(dtype), new.astype(dtype)
    updates = Updates()
    assert updates.measure([tensor(a)], "epoch_0001") is None
    given_b = b.copy()
    update = updates.measure([tensor(given_b)], "epoch_0002")
    assert update is not None
    expected = np.linalg.norm(b.astype(np.float64) - a.astype(np.float64))
    assert update.since == "epoch_0001"
    assert update.norms["layers/a/vars/0"] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(given_b, b, "what is measured stays as it is")
    again = updates.measure([tensor(b)], "epoch_0003")
    assert again is not None
    assert again.norms["layers/a/vars/0"] == 0.0


def test_what_has_no_update() -> None:
    updates = Updates()
    first = [
        tensor([1.0, 2.0], "same"),
        tensor([1.0, 2.0], "reshaped"),
        tensor([1.0, 2.0], "broken"),
        tensor([1.0, 2.0], "moment", "optimizer"),
        tensor(["a"], "text"),
    ]
    updates.measure(first, "one")
    update = updates.measure(
        [
            tensor([1.0, 5.0], "same"),
            tensor([1.0, 2.0, 3.0], "reshaped"),
            tensor([1.0, math.nan], "broken"),
            tensor([9.0, 9.0], "moment", "optimizer"),
            tensor(["b"], "text"),
            tensor([1.0], "new"),
        ],
        "two",
    )
    assert update is not None
    assert update.norms == {"same": 3.0}
    updates.forget()
    assert updates.measure(first, "three") is None


def fingerprint_of(run_id: str, name: str) -> Fingerprint:
    text = RunStore(run_id).read(f"checkpoints/{name}/fingerprint.json")
    assert text is not None
    return Fingerprint.from_json(text)


@pytest.mark.parametrize("forms", [("full",), ("split",)])
def test_a_checkpoint_tells_how_far_its_weights_moved(
    local_store: Store, forms: tuple[str, ...]
) -> None:
    run_id = trained(epochs=3, forms=forms)
    first = fingerprint_of(run_id, "epoch_0001")
    assert first.updated_since is None
    assert all(entry.update_norm is None for entry in first.tensors)
    for epoch in (2, 3):
        fingerprint = fingerprint_of(run_id, f"epoch_{epoch:04d}")
        assert fingerprint.updated_since == f"epoch_{epoch - 1:04d}"
        before = mlflow_ckpt.load_model(run_id, epoch - 1, "split").get_weights()
        after = mlflow_ckpt.load_model(run_id, epoch, "split").get_weights()
        for weight, a, b in zip(fingerprint.of_role("weights"), before, after, strict=True):
            expected = np.linalg.norm(b.astype(np.float64) - a.astype(np.float64))
            assert weight.update_norm == pytest.approx(expected, rel=1e-12)
            assert weight.update_norm > 0
        assert all(entry.update_norm is None for entry in fingerprint.of_role("optimizer"))
    # What a tensor is does not depend on where it came from.
    assert mlflow_ckpt.fingerprint(mlflow_ckpt.load_model(run_id, 3, "split")).of_role(
        "weights"
    ) == fingerprint_of(run_id, "epoch_0003").of_role("weights")


def test_another_training_of_the_same_callback_begins_anew(local_store: Store) -> None:
    checkpoints, model = MlflowCheckpoint(), small_model()
    with mlflow.start_run() as run:
        fit(model, checkpoints, epochs=1)
        fit(model, checkpoints, epochs=2, initial_epoch=1)
    assert fingerprint_of(run.info.run_id, "epoch_0002").updated_since is None


# As metrics


def curve(run_id: str, metric: str) -> dict[int, float]:
    points = MlflowClient().get_metric_history(run_id, metric)
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in points}


def test_norms_and_updates_are_metrics_where_that_is_asked_for(store: Store) -> None:
    run_id = trained(epochs=3, weight_metrics=True)
    for label, index in (("hidden/kernel", 0), ("hidden/bias", 1), ("head/kernel", 2)):
        norms = curve(run_id, f"weights/{label}/norm")
        updates = curve(run_id, f"weights/{label}/update")
        assert set(norms) == {1, 2, 3}
        assert set(updates) == {2, 3}
        tensors = fingerprint_of(run_id, "epoch_0003").of_role("weights")
        assert norms[3] == pytest.approx(tensors[index].statistics.norm)
        assert updates[3] == pytest.approx(tensors[index].update_norm)
    manifest = mlflow_ckpt.get_checkpoint(run_id).manifest
    assert not any(name.startswith("weights/") for name in manifest.metrics)


def test_a_resumed_training_logs_them_too(local_store: Store) -> None:
    with mlflow.start_run() as run:
        fit(small_model(), MlflowCheckpoint(weight_metrics=True), shuffle=False)
    point = mlflow_ckpt.resume(run.info.run_id, 1)
    with mlflow.start_run() as run:
        fit(point.model, *point.callbacks, epochs=3, initial_epoch=1, shuffle=False)
    assert set(curve(run.info.run_id, "weights/head/kernel/norm")) == {2, 3}


def test_they_are_left_out_by_default(local_store: Store) -> None:
    run = MlflowClient().get_run(trained())
    assert not any(name.startswith("weights/") for name in run.data.metrics)


def test_saved_inside_epochs_they_count_steps(local_store: Store) -> None:
    run_id = trained(epochs=2, weight_metrics=True, save_freq=2, monitor="loss")
    assert set(curve(run_id, "weights/head/kernel/norm")) == {2, 4, 6}


def test_more_metrics_than_one_request_takes(store: Store) -> None:
    with mlflow.start_run() as run:
        many = {f"m{number}": float(number) for number in range(1500)}
        RunStore(run.info.run_id).log_metrics(many, 1, 1_700_000_000_000)
    assert MlflowClient().get_run(run.info.run_id).data.metrics == many


def test_tensors_of_one_name_are_told_apart() -> None:
    inner = [keras.Sequential([keras.layers.Dense(2, name="dense")], name=n) for n in ("a", "b")]
    model = keras.Sequential([keras.Input((2,)), *inner])
    names = weight_metrics(mlflow_ckpt.fingerprint(model))
    assert len(names) == 4
    assert all(name.startswith("weights/layers/") and name.endswith("/norm") for name in names)


def test_a_norm_that_is_not_finite_is_left_out() -> None:
    model = small_model()
    model.layers[0].kernel.assign(np.full((4, 3), np.nan, "float32"))
    metrics = weight_metrics(mlflow_ckpt.fingerprint(model))
    assert "weights/hidden/bias/norm" in metrics
    assert "weights/hidden/kernel/norm" not in metrics
    json.dumps(metrics, allow_nan=False)


def test_report_is_true_false_or_auto() -> None:
    with pytest.raises(InvalidArgumentError, match="Expected True, False or 'auto'"):
        MlflowCheckpoint(report="yes")
