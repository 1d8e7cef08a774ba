"""Differences as data: tensors by digest and value, architectures by layer, files read in place."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mlflow_ckpt._format import diff as diffs
from mlflow_ckpt._format.architecture import diff_architectures
from mlflow_ckpt._format.diff import TensorDifference, diff_tensors, measure
from mlflow_ckpt._format.fingerprint import (
    OPTIMIZER_ROLE,
    PIECE,
    WEIGHTS_ROLE,
    Fingerprint,
    fingerprint_tensor,
)
from mlflow_ckpt._format.weights_file import open_weights, reading
from mlflow_ckpt.errors import IntegrityError
from tests.support.strategies import arrays, jsonable

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
BOTH = (WEIGHTS_ROLE, OPTIMIZER_ROLE)
BFLOAT16 = ml_dtypes.bfloat16


def compare(a: Arrays, b: Arrays) -> dict[str, TensorDifference]:
    """Compare two sets of tensors, and require that no more are read than differ."""
    prints = [Fingerprint(tuple(fingerprint_tensor(n, t[n]) for n in t)) for t in (a, b)]
    read: list[str] = []

    def reader(tensors: Arrays) -> Any:
        return lambda tensor: read.append(tensor.name) or tensors[tensor.name]

    differences = diff_tensors(*prints, reader(a), reader(b), BOTH)
    assert all(not tensor.identical for tensor in differences if tensor.name in read)
    return {tensor.name: tensor for tensor in differences}


tensor_sets = st.dictionaries(
    st.sampled_from([*(f"layers/dense/vars/{i}" for i in range(3)), "optimizer/vars/0", "vars/0"]),
    arrays(),
    max_size=5,
)


@given(tensor_sets)
def test_a_model_is_identical_to_itself(tensors: Arrays) -> None:
    differences = compare(tensors, copy.deepcopy(tensors))
    assert list(differences) == list(tensors)
    assert {tensor.kind for tensor in differences.values()} <= {"identical"}


@given(tensor_sets, tensor_sets)
def test_the_other_way_round_the_same_tensors_differ(a: Arrays, b: Arrays) -> None:
    there, back = compare(a, b), compare(b, a)
    assert there.keys() == back.keys() == a.keys() | b.keys()
    mirrored = {"appeared": "vanished", "vanished": "appeared"}
    # NaN that appears one way goes away the other.
    loose = dict.fromkeys(("became NaN", "became Inf", "dtype changed"), "changed")
    kinds = Counter(loose.get(tensor.kind, tensor.kind) for tensor in there.values())
    expected = Counter(
        loose.get(kind, kind)
        for kind in (mirrored.get(tensor.kind, tensor.kind) for tensor in back.values())
    )
    assert kinds == expected
    for name in there:
        assert there[name].shapes == back[name].shapes[::-1]
        assert there[name].dtypes == back[name].dtypes[::-1]
        one, other = there[name].distance, back[name].distance
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.max_abs == other.max_abs
            assert one.cosine == pytest.approx(other.cosine)


pairs_of_floats = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6).flatmap(
    lambda shape: st.tuples(*(npst.arrays(np.float32, shape) for _ in range(2)))
)


@given(pairs_of_floats)
@example((np.array([np.nan, 1.0], "f4"), np.array([np.nan, 3.0], "f4")))
def test_distances_are_numpys(pair: tuple[Array, Array]) -> None:
    a, b = (array.astype(np.float64) for array in pair)
    distance = measure(*pair)
    assert distance is not None
    both = np.isfinite(a) & np.isfinite(b)
    x, y = a[both], b[both]
    assert distance.max_abs == (np.abs(x - y).max() if x.size else None)
    assert distance.nan == (np.isnan(b) & ~np.isnan(a)).sum()
    assert distance.inf == (np.isinf(b) & ~np.isinf(a)).sum()
    norms = np.linalg.norm(x), np.linalg.norm(y)
    if norms[0]:
        assert distance.relative == pytest.approx(np.linalg.norm(x - y) / norms[0])
    else:
        assert distance.relative is None
    if all(norms):
        assert distance.cosine is not None
        assert -1 <= distance.cosine <= 1
        assert distance.cosine == pytest.approx((x / norms[0]) @ (y / norms[1]), abs=1e-9)
    else:
        assert distance.cosine is None


@given(st.sampled_from(["int64", "uint64", "int8", "uint32"]), st.data())
def test_integers_differ_by_what_python_says(dtype: str, data: st.DataObject) -> None:
    limits = np.iinfo(dtype)
    number = st.integers(int(limits.min), int(limits.max))
    values = data.draw(st.lists(st.tuples(number, number), min_size=1, max_size=5))
    a, b = (np.array(column, dtype) for column in zip(*values, strict=True))
    distance = measure(a, b)
    assert distance is not None
    assert distance.max_abs == float(max(abs(x - y) for x, y in values))


def test_a_large_tensor_is_measured_in_pieces() -> None:
    a = np.random.default_rng(0).normal(size=(3, PIECE)).astype("float32")
    b = a.copy()
    b[2, -1] += 5
    b[0, 0] = np.nan
    distance = measure(a, b)
    assert distance is not None
    assert distance.max_abs == float(np.float64(b[2, -1]) - np.float64(a[2, -1]))
    assert (distance.nan, distance.inf) == (1, 0)
    x, y = a.reshape(-1)[1:].astype(np.float64), b.reshape(-1)[1:].astype(np.float64)
    assert distance.relative == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x))
    assert distance.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize(
    ("a", "b", "kind", "max_abs"),
    [
        pytest.param([1.0, 2.0], [1.0, 2.5], "changed", 0.5, id="values"),
        pytest.param([0.0], [-0.0], "changed", 0.0, id="bytes alone"),
        pytest.param([1.0], [np.nan], "became NaN", None, id="nan"),
        pytest.param([1.0, 2.0], [3.0, np.inf], "became Inf", 2.0, id="inf"),
        pytest.param([np.nan, 2.0], [np.nan, 4.0], "changed", 2.0, id="was NaN before"),
        pytest.param([np.nan], [1.0], "changed", None, id="is NaN no more"),
        pytest.param([np.inf], [np.nan], "became NaN", None, id="inf to nan"),
        pytest.param([1.0, 2.0], [[1.0, 2.0]], "shape changed", None, id="shape"),
        pytest.param([1.5], np.array([1.5], "float16"), "dtype changed", 0.0, id="dtype"),
        pytest.param([1.5], np.array([2.0], BFLOAT16), "dtype changed", 0.5, id="bfloat16"),
        pytest.param([1e6], np.array([np.inf], "float16"), "became Inf", None, id="overflow"),
        pytest.param(np.array(True), np.array(False), "changed", 1.0, id="bool scalar"),
        pytest.param(np.array(7), np.array(9), "changed", 2.0, id="integer scalar"),
        pytest.param(np.array([2**60]), np.array([2**60 + 1]), "changed", 1.0, id="large integers"),
        pytest.param(np.empty(0, "f4"), np.empty(0, "f8"), "dtype changed", None, id="empty"),
        pytest.param(np.array([1j]), np.array([2j]), "changed", None, id="complex"),
        pytest.param([-1.7e308], [1.7e308], "changed", None, id="beyond float64"),
    ],
)
def test_what_became_of_a_tensor(a: Any, b: Any, kind: str, max_abs: float | None) -> None:
    (difference,) = compare({"vars/0": np.asarray(a)}, {"vars/0": np.asarray(b)}).values()
    assert difference.kind == kind
    assert difference.to_dict()["max_abs"] == max_abs
    json.dumps(difference.to_dict(), allow_nan=False)


def test_identical_weights_are_frozen_only_where_other_weights_differ() -> None:
    kernel, bias, step = np.ones(3), np.zeros(2), np.array(5)
    before = {"vars/0": kernel, "vars/1": bias, "optimizer/vars/0": step}
    differences = compare(before, {**before, "vars/0": kernel + 1})
    assert [tensor.kind for tensor in differences.values()] == ["changed", "frozen", "identical"]
    differences = compare(before, {**before, "optimizer/vars/0": step + 1})
    assert [tensor.kind for tensor in differences.values()] == ["identical", "identical", "changed"]


def test_tensors_of_other_roles_do_not_count() -> None:
    prints = Fingerprint(
        tuple(fingerprint_tensor(name, np.ones(2)) for name in ("vars/0", "optimizer/vars/0"))
    )
    for pair, kind in (
        ((prints, Fingerprint(())), "vanished"),
        ((Fingerprint(()), prints), "appeared"),
    ):
        differences = diff_tensors(*pair, _nothing, _nothing, (WEIGHTS_ROLE,))
        assert [(tensor.name, tensor.kind) for tensor in differences] == [("vars/0", kind)]


def test_without_the_values_the_counts_tell_of_nan() -> None:
    a, b = (
        Fingerprint((fingerprint_tensor("vars/0", np.array([1.0, value])),))
        for value in (2.0, np.nan)
    )
    (difference,) = diff_tensors(a, b, _nothing, _nothing, BOTH)
    assert (difference.kind, difference.distance) == (diffs.BECAME_NAN, None)


def _nothing(_: Any) -> None:
    return None


# Architectures


def layer(class_name: str, name: str, after: str | None = None, **config: Any) -> dict[str, Any]:
    history = [{"config": {"keras_history": [after, 0, 0]}}] if after else []
    return {
        "module": "keras.layers",
        "class_name": class_name,
        "config": {"name": name, **config},
        "name": name,
        "inbound_nodes": [{"args": history, "kwargs": {}}],
    }


def model(*layers: dict[str, Any], name: str = "model", **config: Any) -> dict[str, Any]:
    inner = {"name": name, "layers": list(layers), **config}
    return {"class_name": "Functional", "config": inner}


def places(a: Any, b: Any) -> list[tuple[Any, ...]]:
    changes = diff_architectures(a, b)
    return [(change.layer, change.kind, change.key, change.old, change.new) for change in changes]


def test_a_changed_setting_is_named_with_its_layer_and_path() -> None:
    a = model(layer("Dense", "dense", units=3, init={"config": {"seed": 1}}), layer("ReLU", "r"))
    b = model(layer("Dense", "dense", units=4, init={"config": {"seed": 2}}), layer("ReLU", "r"))
    assert places(a, b) == [
        ("dense", "changed", "config.units", 3, 4),
        ("dense", "changed", "config.init.config.seed", 1, 2),
    ]


def test_layers_added_and_removed_are_named_with_their_class() -> None:
    dense, head = layer("Dense", "dense", units=3), layer("Dense", "head", units=1)
    drop = layer("Dropout", "dropout", rate=0.5)
    assert places(model(dense, head), model(dense, drop, head)) == [
        ("dropout", "layer added", "", None, "Dropout"),
    ]
    assert places(model(dense, drop, head), model(dense, head)) == [
        ("dropout", "layer removed", "", "Dropout", None),
    ]


def test_layers_that_keras_numbered_otherwise_meet_all_the_same() -> None:
    a = model(
        layer("Dense", "dense", units=8),
        layer("Dense", "dense_1", "dense", units=4),
        layer("BatchNormalization", "batch_normalization", "dense_1"),
        output_layers=["batch_normalization", 0, 0],
    )
    b = model(
        layer("Dense", "dense_1", units=8),
        layer("Dense", "dense_2", "dense_1", units=5),
        layer("BatchNormalization", "batch_normalization_7", "dense_2"),
        output_layers=["batch_normalization_7", 0, 0],
    )
    assert places(a, b) == [
        ("dense", "changed", "config.name", "dense", "dense_1"),
        ("dense_1", "changed", "config.name", "dense_1", "dense_2"),
        ("dense_1", "changed", "config.units", 4, 5),
        (
            *("batch_normalization", "changed", "config.name"),
            *("batch_normalization", "batch_normalization_7"),
        ),
    ]


def test_a_layer_put_in_before_others_of_its_class_is_the_one_that_was_added() -> None:
    a = model(layer("Dense", "dense", units=3), layer("Dense", "dense_1", units=4))
    b = model(
        *(layer("Dense", name, units=u) for name, u in (("dense", 9), ("dense_1", 3))),
        layer("Dense", "dense_2", units=4),
    )
    assert places(a, b) == [
        ("dense", "changed", "config.name", "dense", "dense_1"),
        ("dense_1", "changed", "config.name", "dense_1", "dense_2"),
        ("dense", "layer added", "", None, "Dense"),
    ]


def test_another_connection_is_a_difference() -> None:
    layers = layer("Dense", "a"), layer("Dense", "b", "a")
    a, b = model(*layers, layer("Add", "add", "a")), model(*layers, layer("Add", "add", "b"))
    path = "inbound_nodes[0].args[0].config.keras_history"
    assert places(a, b) == [("add", "changed", path, ["a", 0, 0], ["b", 0, 0])]


def test_layers_in_another_order_are_told() -> None:
    first, second = layer("Dense", "first"), layer("Dense", "second")
    assert places(model(first, second), model(second, first)) == [
        ("", "changed", "config.layers", ["first", "second"], ["second", "first"])
    ]


def test_layers_of_models_within_models_carry_their_names() -> None:
    a = model(model(layer("Dense", "d", units=1), name="inner"))
    b = model(model(layer("Dense", "d", units=2), layer("ReLU", "r"), name="inner"))
    assert places(a, b) == [
        ("inner/d", "changed", "config.units", 1, 2),
        ("inner/r", "layer added", "", None, "ReLU"),
    ]


@given(jsonable, jsonable)
@example(1, True)
@example(1, 1.0)
@example([], [[]])
@example({"a.b": 1}, {"a": {"b": 1}})
@example({"layers": [1]}, {"layers": []})
def test_configurations_differ_exactly_if_their_json_does(a: Any, b: Any) -> None:
    one, other = ({"class_name": "Own", "config": value} for value in (a, b))
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (places(one, other) == []) == same
    assert places(one, copy.deepcopy(one)) == []


names = st.sampled_from(["dense", "dense_1", "dense_2", "re_lu", "re_lu_1", "own", "other"])
layers = st.builds(
    lambda name, units: layer("ReLU" if name.startswith("re_lu") else "Dense", name, units=units),
    names,
    st.integers(1, 2),
)
models = st.lists(layers, max_size=5, unique_by=lambda spec: spec["name"]).map(
    lambda chosen: model(*chosen)
)


@given(models, models)
def test_architectures_differ_in_as_many_layers_both_ways(a: Any, b: Any) -> None:
    assume(a != b)
    there, back = places(a, b), places(b, a)
    assert there
    assert back
    added, removed = (
        [p for p in there if p[1] == kind] for kind in ("layer added", "layer removed")
    )
    sizes = [len(architecture["config"]["layers"]) for architecture in (a, b)]
    assert len(added) - len(removed) == sizes[1] - sizes[0]


# Files


def write_h5(target: Any, tensors: Arrays) -> None:
    with h5py.File(target, "w") as file:
        for name, array in tensors.items():
            dataset = file.create_dataset(name, data=array)
            if array.dtype == BFLOAT16:
                dataset.attrs["dtype"] = "bfloat16"


def write_archive(path: Path, tensors: Arrays, compression: int) -> None:
    buffer = io.BytesIO()
    write_h5(buffer, tensors)
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", buffer.getvalue())


TENSORS: Arrays = {
    "layers/dense/vars/0": np.arange(20_000, dtype="float32").reshape(100, 200),
    "layers/dense/vars/1": np.array([1.5, -2.0], BFLOAT16),
    "optimizer/vars/0": np.array(12),
}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_tensors_are_read_out_of_an_archive(tmp_path: Path, compression: int) -> None:
    write_archive(tmp_path / "data" / "model.keras", TENSORS, compression)
    with reading(tmp_path) as read:
        for name in reversed(TENSORS):
            array = read(fingerprint_tensor(name, TENSORS[name]))
            assert array is not None
            assert array.dtype == TENSORS[name].dtype
            np.testing.assert_array_equal(array, TENSORS[name])
        assert read(fingerprint_tensor("layers/none/vars/0", np.ones(2))) is None


def test_legacy_tensors_are_found_by_their_digests(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_h5(tmp_path / "data" / "model.h5", {f"m/{n}": array for n, array in TENSORS.items()})
    with reading(tmp_path) as read:
        for name, array in TENSORS.items():
            np.testing.assert_array_equal(read(fingerprint_tensor(name, array)), array)
        assert read(fingerprint_tensor("layers/dense/vars/0", np.ones(2))) is None


def test_equal_bytes_of_another_type_and_shape_do_for_a_legacy_tensor(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_h5(tmp_path / "data" / "model.h5", {"a": np.zeros(2, "float32"), "b": np.array(0)})
    with reading(tmp_path) as read:
        for array in (np.zeros(2, "float32"), np.array(0), np.zeros((2, 2), BFLOAT16)):
            values = read(fingerprint_tensor("layers/dense/vars/0", array))
            assert values is not None
            assert (values.shape, values.dtype) == (array.shape, array.dtype)
            assert not values.any()


def test_a_member_of_an_archive_reads_as_the_file_itself(tmp_path: Path) -> None:
    write_archive(tmp_path / "model.keras", TENSORS, zipfile.ZIP_STORED)
    members: list[str] = []
    with open_weights(tmp_path / "model.keras") as file:
        file.visit(members.append)
    assert set(TENSORS) <= set(members)


def test_a_weights_file_that_does_not_open_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.weights.h5").write_bytes(b"nothing")
    with (
        pytest.raises(IntegrityError, match=r"^model\.weights\.h5 is unchanged, but cannot"),
        reading(tmp_path),
    ):
        pass


def test_numbers_beyond_float64_are_none() -> None:
    distance = measure(np.array([1e200, 1.0]), np.array([1.0, 1.0]))
    assert distance is not None
    assert distance.max_abs == 1e200
    assert (distance.relative, distance.cosine) == (None, None)
