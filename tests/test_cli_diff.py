"""The output of `mlflow-ckpt diff`, its JSON and its Python form, for real checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import mlflow_ckpt
from devtools.stores import Store
from tests.conftest import TrainedRun
from tests.support.checkpoints import flip_byte, save_run
from tests.support.cli import run, run_process
from tests.support.training import BATCHES, small_model, trained


def saved(build: Callable[[], keras.Model], **arguments: Any) -> str:
    """Save a model into a run of its own, with the names it would have in a new process."""
    keras.backend.clear_session()
    return save_run(build(), **arguments)


def train() -> str:
    """Train in a run of its own, with the names the model would have in a new process."""
    keras.backend.clear_session()
    return trained()


def rows_of(output: str) -> dict[str, list[str]]:
    """The cells of all tables, by the first of each row."""
    cells = [[c.strip() for c in line.split("   ") if c.strip()] for line in output.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) > 1}


def test_two_runs_of_the_same_training_are_identical(store: Store) -> None:
    one, other = train(), train()
    result = run("diff", f"ckpt:/{one}/2", other)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "identical: 4 tensors of weights, 6 tensors of the optimizer, and the architecture",
        f"A  ckpt:/{one}/epoch:2  epoch 2, step {2 * BATCHES}",
        f"B  ckpt:/{other}/epoch:2  epoch 2, step {2 * BATCHES}",
    ]
    difference = mlflow_ckpt.diff(f"ckpt:/{one}/2", other)
    assert isinstance(difference, mlflow_ckpt.Difference)
    assert difference.identical
    listed = rows_of(run("diff", one, other, "--all").output)
    assert listed["layers/dense/vars/0"] == [
        *("hidden/kernel", "weights", "identical", "4x3", "float32", "-", "-", "-"),
    ]


def test_tensors_that_differ_are_listed_with_how_much(trained_run: TrainedRun) -> None:
    run_id, uri = trained_run.run_id, trained_run.store.uri
    result = run("diff", f"ckpt:/{run_id}/1", f"ckpt:/{run_id}/2", "--tracking-uri", uri)
    assert result.exit_code == 1
    first, a, b, *_ = result.output.splitlines()
    assert first == (
        "different: 8 of 8 tensors of weights, 13 of 14 tensors of the optimizer; "
        "the architecture is identical"
    )
    assert a.endswith("  epoch 1, step 2")
    assert b.endswith("  epoch 2, step 4")
    weights = [
        keras.Model.get_weights(mlflow_ckpt.load_model(run_id, epoch, "split", tracking_uri=uri))[0]
        for epoch in (1, 2)
    ]
    x, y = (array.astype(np.float64) for array in weights)
    cosine = (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
    label = f"{trained_run.model.layers[0].name}/kernel"
    assert rows_of(result.output)["layers/dense/vars/0"] == [
        *(label, "weights", "changed", "8x16", "float32"),
        f"{np.abs(x - y).max():.4g}",
        f"{np.linalg.norm(x - y) / np.linalg.norm(x):.4g}",
        f"{cosine:.6f}",
    ]
    assert rows_of(result.output)["optimizer/vars/0"][2:6] == ["changed", "scalar", "int64", "2"]


def test_json_holds_every_tensor_and_no_more_is_printed(trained_run: TrainedRun) -> None:
    references = [f"ckpt:/{trained_run.run_id}/{epoch}" for epoch in (1, 2)]
    uri = trained_run.store.uri
    result = run("diff", *references, "--json", "--tracking-uri", uri)
    assert result.exit_code == 1
    difference = json.loads(result.output)
    assert not difference["identical"]
    assert difference["same_architecture"]
    assert (difference["a"]["epoch"], difference["b"]["epoch"]) == (1, 2)
    assert len(difference["tensors"]) == 22
    assert {t["role"] for t in difference["tensors"]} == {"weights", "optimizer"}
    assert all((t["max_abs"] is None) == (t["kind"] == "identical") for t in difference["tensors"])
    same = json.loads(run("diff", *references[:1] * 2, "--json", "--tracking-uri", uri).output)
    assert same["identical"]
    assert {t["kind"] for t in same["tensors"]} == {"identical"}


def transfer(*, head: int = 2, value: float | None = None) -> keras.Model:
    """The same backbone below a head of any size."""
    model = small_model(outputs=head)
    if value is not None:
        model.get_layer("head").bias.assign(np.full(head, value))
    return model


@pytest.mark.parametrize(
    ("change", "bias", "kernel"),
    [
        pytest.param({"head": 3}, ["shape changed", "2 → 3"], "shape changed", id="another head"),
        pytest.param({"value": 0.5}, ["changed", "2"], "frozen", id="another value"),
        pytest.param({"value": np.nan}, ["became NaN", "2"], "frozen", id="NaN"),
        pytest.param({"value": np.inf}, ["became Inf", "2"], "frozen", id="Inf"),
    ],
)
def test_each_tensor_is_told_what_became_of_it(
    local_store: Store, change: dict[str, Any], bias: list[str], kernel: str
) -> None:
    one, other = saved(transfer), saved(lambda: transfer(**change))
    result = run("diff", one, other, "--all")
    assert result.exit_code == 1
    rows = rows_of(result.output)
    assert rows["layers/dense/vars/0"][2] == "frozen"
    assert rows["layers/dense_1/vars/0"][2] == kernel
    assert rows["layers/dense_1/vars/1"][2:4] == bias
    brief = rows_of(run("diff", one, other).output)
    assert "layers/dense/vars/0" not in brief
    assert brief["layers/dense_1/vars/1"] == rows["layers/dense_1/vars/1"]
    difference = mlflow_ckpt.diff(one, other)
    assert {tensor.kind for tensor in difference.tensors if tensor.identical} == {
        "frozen",
        "identical",
    }


def test_architectures_differ_by_layer(local_store: Store) -> None:
    def build(*middle: keras.layers.Layer, units: int = 3) -> keras.Model:
        layers = [keras.layers.Dense(units, name="hidden"), *middle, keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4,)), *layers], name="net")
        model.compile("adam", "mse")
        return model

    one = saved(build)
    other = saved(lambda: build(keras.layers.BatchNormalization(name="norm"), units=5))
    result = run("diff", one, other)
    assert result.exit_code == 1
    assert result.output.splitlines()[0].endswith("; the architecture differs")
    rows = rows_of(result.output)
    assert rows["hidden"] == ["changed", "config.units", "3", "5"]
    assert rows["norm"] == ["layer added", "-", '"BatchNormalization"']
    assert rows["layers/batch_normalization/vars/0"][1:5] == ["weights", "appeared", "5", "float32"]
    assert rows["layers/dense/vars/0"][2:4] == ["shape changed", "4x3 → 4x5"]
    back = mlflow_ckpt.diff(other, one)
    assert ("norm", "layer removed") in [
        (change.layer, change.kind) for change in back.architecture
    ]
    assert {tensor.kind for tensor in back.tensors} >= {"vanished", "shape changed"}


def test_the_split_form_is_compared_without_the_optimizer(local_store: Store) -> None:
    full, split = saved(small_model), saved(small_model, forms=("split",))
    result = run("diff", full, split)
    assert result.exit_code == 0
    assert result.output.splitlines()[0] == (
        "identical: 4 tensors of weights, and the architecture; "
        "the optimizer was not compared: B holds the split form only"
    )
    difference = json.loads(run("diff", split, full, "--json").output)
    assert difference["uncompared"] == {"optimizer": "A holds the split form only"}
    both = run("diff", split, split).output.splitlines()[0]
    assert both == "identical: 4 tensors of weights, and the architecture"


def test_legacy_files_are_compared_by_digest_with_values_where_found(local_store: Store) -> None:
    one = saved(transfer, full_format="h5")
    two, native = (
        saved(lambda: transfer(value=0.5), full_format=full_format)
        for full_format in ("h5", "keras")
    )
    assert run("diff", one, one).exit_code == 0
    rows = rows_of(run("diff", one, two).output)
    assert rows["layers/dense_1/vars/1"] == [
        *("head/bias", "weights", "changed", "2", "float32", "0.5", "-", "-"),
    ]
    assert run("diff", two, native).exit_code == 0
    assert run("diff", one, native).exit_code == 1


def test_bfloat16_is_measured(local_store: Store) -> None:
    def build(value: float) -> keras.Model:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, dtype="bfloat16")])
        model.layers[0].kernel.assign(np.ones((4, 2)))
        model.layers[0].bias.assign([1.0, value])
        return model

    difference = mlflow_ckpt.diff(saved(lambda: build(2.0)), saved(lambda: build(2.5)))
    assert difference.same_architecture
    kernel, bias = difference.of_role("weights")
    assert (kernel.kind, bias.kind) == ("frozen", "changed")
    assert bias.dtypes == ("bfloat16", "bfloat16")
    assert bias.distance is not None
    assert bias.distance.max_abs == 0.5


def test_names_that_keras_numbered_are_told_to_be_all(local_store: Store) -> None:
    one, other = saved(small_model), save_run(small_model())
    result = run("diff", one, other)
    assert result.exit_code == 1
    assert result.output.splitlines()[0] == (
        "different: 0 of 4 tensors of weights, 0 of 2 tensors of the optimizer; "
        "the architecture differs only in names"
    )
    assert rows_of(result.output)["input_layer"] == [
        *("changed", "config.name", '"input_layer"', '"input_layer_1"'),
    ]


def test_progress_is_told_where_files_are_downloaded(trained_run: TrainedRun) -> None:
    seen: list[tuple[int, int]] = []
    mlflow_ckpt.diff(
        f"ckpt:/{trained_run.run_id}/1",
        trained_run.run_id,
        tracking_uri=trained_run.store.uri,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert sum(done == total for done, total in seen) >= 2


def test_damage_and_wrong_references_are_told_apart_from_a_difference(local_store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    assert run("diff", run_id, f"ckpt:/{run_id}/7").exit_code == 3
    assert run("diff", run_id, "ckpt:/").exit_code == 2
    assert run("diff", run_id).exit_code == 2
    flip_byte(local_store.checkpoint_directory(run_id, "epoch_0001") / "data/model.keras", 5000)
    result = run("diff", run_id, f"ckpt:/{run_id}/1")
    assert result.exit_code == 4
    assert "The checkpoint is not what was saved: epoch_0001" in result.output


def test_a_script_sees_the_exit_code(trained_run: TrainedRun) -> None:
    uri = ("--tracking-uri", trained_run.store.uri)
    run_id = trained_run.run_id
    same = run_process("diff", run_id, run_id, *uri)
    assert (same.returncode, same.stderr) == (0, "")
    assert same.stdout.startswith("identical: 8 tensors of weights, 14 tensors of the optimizer")
    other = run_process("diff", f"ckpt:/{run_id}/1", run_id, *uri)
    assert (other.returncode, other.stderr) == (1, "")
    assert other.stdout.startswith("different: ")
