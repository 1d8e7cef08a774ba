"""Fingerprints as data: round trip, comparison, damage."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.fingerprint import (
    OPTIMIZER_ROLE,
    WEIGHTS_ROLE,
    Fingerprint,
    architecture_digest,
    fingerprint_tensor,
    role_of,
)
from mlflow_ckpt.errors import IntegrityError, NewerSchemaError
from tests.support.strategies import arrays, digests, texts

KERNEL = np.arange(6, dtype="float32").reshape(2, 3)
BOTH = (WEIGHTS_ROLE, OPTIMIZER_ROLE)


def example() -> Fingerprint:
    return Fingerprint(
        (
            fingerprint_tensor("layers/dense/vars/0", KERNEL, layer="head", variable="kernel"),
            fingerprint_tensor("layers/dense/vars/1", np.array([np.nan, 1.0]), layer="head"),
            fingerprint_tensor("optimizer/vars/0", np.array(7)),
        ),
        architecture_digest({"class_name": "Sequential"}),
    )


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    names = draw(st.lists(st.sampled_from("abcde"), unique=True, max_size=5))
    prefixes = st.sampled_from(["layers/dense/vars/", "optimizer/vars/"])
    return Fingerprint(
        tuple(
            fingerprint_tensor(
                draw(prefixes) + name,
                draw(arrays()),
                layer=draw(st.none() | texts),
                variable=draw(st.none() | texts),
            )
            for name in names
        ),
        draw(st.none() | digests),
    )


@given(fingerprints())
def test_a_fingerprint_survives_being_written_and_read(fingerprint: Fingerprint) -> None:
    assert Fingerprint.from_json(fingerprint.to_json()) == fingerprint


@given(fingerprints(), st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_the_order_of_tensors(
    fingerprint: Fingerprint, shuffler: random.Random
) -> None:
    tensors = list(fingerprint.tensors)
    shuffler.shuffle(tensors)
    shuffled = Fingerprint(tuple(tensors), fingerprint.architecture_digest)
    assert shuffled.weights_digest == fingerprint.weights_digest
    assert shuffled.optimizer_digest == fingerprint.optimizer_digest
    assert fingerprint.differing(shuffled, BOTH) == []


def test_the_weights_digest_is_sha256_over_the_sorted_lines_of_the_tensors() -> None:
    lines = sorted(
        f"{tensor.name} {tensor.dtype} [{','.join(map(str, tensor.shape))}] {tensor.digest}\n"
        for tensor in example().tensors
        if tensor.name.startswith("layers/")
    )
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert str(example().weights_digest) == f"sha256:{expected}"


def test_the_architecture_digest_does_not_depend_on_the_order_of_keys() -> None:
    one, other = {"a": 1, "b": [True, None]}, {"b": [True, None], "a": 1}
    assert architecture_digest(one) == architecture_digest(other)
    assert architecture_digest(one) != architecture_digest({"a": 1, "b": [None, True]})


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(fingerprint_tensor("layers/dense/vars/0", KERNEL + 1), id="values"),
        pytest.param(fingerprint_tensor("layers/dense/vars/0", KERNEL.T.copy()), id="shape"),
        pytest.param(
            fingerprint_tensor("layers/dense/vars/0", KERNEL.view("int32")), id="dtype alone"
        ),
        pytest.param(fingerprint_tensor("layers/dense/vars/0", KERNEL.reshape(3, 2)), id="reshape"),
    ],
)
def test_a_changed_tensor_is_named(changed: Any) -> None:
    other = Fingerprint((changed, *example().tensors[1:]))
    assert example().differing(other, BOTH) == ["layers/dense/vars/0"]
    assert example().weights_digest != other.weights_digest
    assert example().optimizer_digest == other.optimizer_digest


def test_tensors_that_only_one_side_has_are_named() -> None:
    kernel, bias, iterations = example().tensors
    renamed = fingerprint_tensor("layers/new/vars/0", KERNEL)
    other = Fingerprint((renamed, bias))
    assert example().differing(other, BOTH) == [kernel.name, iterations.name, renamed.name]
    assert example().differing(other, (WEIGHTS_ROLE,)) == [kernel.name, renamed.name]
    assert example().differing(other, (OPTIMIZER_ROLE,)) == [iterations.name]


def test_names_for_people_are_no_part_of_the_digest() -> None:
    renamed = fingerprint_tensor("layers/dense/vars/0", KERNEL, layer="other", variable="w")
    assert example().differing(Fingerprint((renamed, *example().tensors[1:])), BOTH) == []


def test_a_tensor_is_found_by_name_and_has_a_label() -> None:
    assert example()["layers/dense/vars/0"].label == "head/kernel"
    assert example()["optimizer/vars/0"].label == "optimizer/vars/0"
    with pytest.raises(KeyError):
        example()["layers/none"]


def test_tensors_with_nan_are_found() -> None:
    assert [tensor.name for tensor in example().nonfinite()] == ["layers/dense/vars/1"]


def test_a_model_without_an_optimizer_has_no_optimizer_digest() -> None:
    fingerprint = Fingerprint(example().tensors[:2])
    assert fingerprint.optimizer_digest is None
    assert Fingerprint.from_json(fingerprint.to_json()).optimizer_digest is None


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("optimizer/vars/0", OPTIMIZER_ROLE),
        ("optimizer/inner_optimizer/vars/3", OPTIMIZER_ROLE),
        ("layers/optimizer/vars/0", WEIGHTS_ROLE),
        ("optimizer_like/vars/0", WEIGHTS_ROLE),
        ("vars/0", WEIGHTS_ROLE),
    ],
)
def test_tensors_of_the_compiled_optimizer_have_a_role_of_their_own(name: str, role: str) -> None:
    assert role_of(name) == role


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("tensors", 0, "digest"), str(Digest.of_bytes(b"other"))),
        (("tensors", 0, "shape"), [3, 2]),
        (("tensors", 0, "dtype"), "float16"),
        (("tensors", 0, "name"), "layers/other/vars/0"),
        (("weights_digest",), str(Digest.of_bytes(b"other"))),
        (("tensors", 2, "digest"), str(Digest.of_bytes(b"other"))),
        (("optimizer_digest",), None),
    ],
)
def test_a_fingerprint_that_contradicts_itself_is_refused(
    path: tuple[Any, ...], value: Any
) -> None:
    content = json.loads(example().to_json())
    target = content
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(IntegrityError, match="is inconsistent"):
        Fingerprint.from_json(json.dumps(content))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", "null", "not json", '{"schema_version": 1}', "[" * 100_000),
        '{"schema_version": 1e999}',
        '{"schema_version": 1, "tensors": 5, "architecture_digest": null}',
    ],
)
def test_what_is_no_fingerprint_is_said_to_be_none(text: str) -> None:
    with pytest.raises(IntegrityError, match=r"fingerprint\.json is not a fingerprint"):
        Fingerprint.from_json(text)


def test_a_newer_schema_is_told_as_such() -> None:
    content = json.loads(example().to_json()) | {"schema_version": 9}
    with pytest.raises(NewerSchemaError, match="schema version 9; this mlflow_ckpt reads up to 1"):
        Fingerprint.from_json(json.dumps(content))


def test_the_file_is_strict_json() -> None:
    named = []  # NaN, Infinity: what Python reads and JSON does not know
    content = json.loads(example().to_json(), parse_constant=named.append)
    assert content["tensors"]
    assert named == []
