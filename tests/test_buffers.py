"""Snapshots share memory with each other, never with the model."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest

from mlflow_ckpt._format.fingerprint import OPTIMIZER_ROLE, WEIGHTS_ROLE
from mlflow_ckpt._model.capture import snapshot
from mlflow_ckpt._model.capture.buffers import Buffers, Views, host_view
from tests.support.training import BATCHES, fit, small_model


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "bool"])
def test_a_copy_is_the_tensor_and_not_its_memory(shape: tuple[int, ...], dtype: str) -> None:
    variable = keras.Variable(np.ones(shape), dtype=dtype)
    copy = Buffers().copy("x", variable)
    expected = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    assert (copy.shape, copy.dtype) == (shape, expected)
    variable.assign(np.zeros(shape))
    assert (copy == 1).all()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_an_array_of_any_layout_becomes_a_plain_one(order: Any, byte_order: str) -> None:
    array = np.asarray(np.arange(6.0).reshape(2, 3), dtype=f"{byte_order}f8", order=order)
    copy = Buffers().copy("x", array)
    assert copy.flags.c_contiguous
    assert copy.dtype == np.float64
    assert copy.dtype.isnative
    assert np.array_equal(copy, array)


def test_memory_is_used_again_until_the_tensor_changes_its_shape() -> None:
    buffers = Buffers()
    first = buffers.copy("x", np.zeros(4))
    second = buffers.copy("x", np.ones(4))
    assert np.shares_memory(first, second)
    assert buffers.copy("x", np.ones(5)).shape == (5,)
    assert buffers.copy("y", np.ones(4)).sum() == 4
    assert second.sum() == 4


def test_reserved_memory_is_what_the_snapshot_uses() -> None:
    model = small_model()
    views = Views()
    with closing(snapshot.take(model, buffers=views)):
        pass
    buffers = Buffers()
    buffers.reserve(views.shapes)
    reserved = {name: buffers.copy(name, np.zeros(s, d)) for name, (s, d) in views.shapes.items()}
    with closing(snapshot.take(model, buffers=buffers)) as taken:
        arrays = [tensor.array for tensor in taken.tensors]
    assert len(arrays) == len(reserved)
    for array in arrays:
        assert array.size == 0 or any(np.shares_memory(array, other) for other in reserved.values())


def test_two_sets_of_buffers_hold_two_moments() -> None:
    model = small_model()
    fit(model, epochs=1)
    one, two = Buffers(), Buffers()
    with closing(snapshot.take(model, buffers=one)) as before:
        expected = before.fingerprint()
        fit(model, epochs=1)
        with closing(snapshot.take(model, buffers=two)) as after:
            assert before.fingerprint() == expected
            assert after.fingerprint().differing(expected, (WEIGHTS_ROLE,))


def test_without_the_full_form_the_optimizer_is_not_copied() -> None:
    model = small_model(optimizer="adam")
    fit(model, epochs=1)
    with closing(snapshot.take(model, full_format=None)) as taken:
        assert {tensor.role for tensor in taken.tensors} == {WEIGHTS_ROLE}
        assert taken.step == BATCHES
    with closing(snapshot.take(model)) as taken:
        assert {tensor.role for tensor in taken.tensors} == {WEIGHTS_ROLE, OPTIMIZER_ROLE}


def test_the_optimizer_is_left_as_it_was() -> None:
    model = small_model(optimizer="adam")
    before = set(vars(model.optimizer))
    with closing(snapshot.take(model)):
        pass
    assert set(vars(model.optimizer)) == before
    assert model.optimizer.save_own_variables.__func__ is (
        keras.optimizers.Optimizer.save_own_variables
    )


def test_a_view_of_a_variable_is_no_copy_where_the_backend_lends_its_memory() -> None:
    variable = keras.Variable(np.zeros(1000), dtype="float32")
    if keras.config.backend() != "tensorflow":
        pytest.skip("the other backends are tried elsewhere")
    assert np.shares_memory(host_view(variable), host_view(variable))
