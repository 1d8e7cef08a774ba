"""Statistics equal NumPy's own in float64, however the tensor is cut into chunks."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mlflow_ckpt._format import statistics as module
from mlflow_ckpt._format.statistics import Statistics, statistics
from tests.support.strategies import arrays

NOTHING = Statistics(None, None, None, None, None, 0, 0)


@pytest.fixture(params=[1, 3, 1 << 18])
def chunk_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", request.param)


@pytest.mark.usefixtures("chunk_size")
@pytest.mark.parametrize(
    "values",
    [
        pytest.param([0.0], id="one"),
        pytest.param([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], id="several"),
        pytest.param([1e8 + 1, 1e8 - 1, 1e8, 1e8 + 2], id="mean large beside the deviation"),
        pytest.param([-1e-30, 1e-30, 3e-30], id="tiny"),
        pytest.param([5.0] * 9, id="constant"),
    ],
)
def test_statistics_equal_numpy(values: list[float]) -> None:
    array = np.array(values)
    stats = statistics(array)
    assert stats.mean == pytest.approx(np.mean(array), rel=1e-14)
    assert stats.std == pytest.approx(np.std(array), rel=1e-9, abs=1e-300)
    assert (stats.min, stats.max) == (array.min(), array.max())
    assert stats.norm == pytest.approx(np.linalg.norm(array), rel=1e-14)
    assert (stats.nan_count, stats.inf_count) == (0, 0)


@given(
    st.integers(1, 7),
    npst.arrays(
        st.sampled_from(["float16", "float32", "float64", "int32", "uint8", "bool"]),
        npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
    ),
)
def test_statistics_equal_numpy_for_any_array(chunk: int, array: np.ndarray[Any, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        stats = statistics(array)
    wide = array.astype(np.float64).reshape(-1)
    finite = wide[np.isfinite(wide)]
    assert stats.nan_count == np.isnan(wide).sum()
    assert stats.inf_count == np.isinf(wide).sum()
    if not finite.size:
        assert (stats.mean, stats.std, stats.min, stats.max, stats.norm) == (None,) * 5
        return
    assert (stats.min, stats.max) == (finite.min(), finite.max())
    with np.errstate(all="ignore"):
        largest = float(np.abs(finite).max())
        mean, norm = float(finite.mean()), math.sqrt(float(np.dot(finite, finite)))
        std = float(finite.std())
    tolerance = 1e-12 * largest
    if math.isfinite(mean) and math.isfinite(norm) and largest < 1e150:
        assert stats.mean == pytest.approx(mean, rel=1e-9, abs=tolerance)
        assert stats.norm == pytest.approx(norm, rel=1e-9)
        assert stats.std == pytest.approx(std, rel=1e-6, abs=1e-7 * largest)


@pytest.mark.usefixtures("chunk_size")
def test_nan_and_infinite_elements_are_counted_and_left_out() -> None:
    array = np.array([np.nan, 1.0, np.inf, 3.0, -np.inf, np.nan, np.nan], "float32")
    assert statistics(array) == Statistics(2.0, 1.0, 1.0, 3.0, math.sqrt(10.0), 3, 2)


@pytest.mark.usefixtures("chunk_size")
def test_a_tensor_of_nothing_but_nan_has_counts_only() -> None:
    assert statistics(np.full(5, np.nan)) == Statistics(None, None, None, None, None, 5, 0)


def test_an_empty_tensor_has_no_statistics() -> None:
    assert statistics(np.zeros((0, 3), "float32")) == NOTHING


def test_values_too_large_to_square_have_no_norm_but_the_rest() -> None:
    stats = statistics(np.array([1e300, -1e300]))
    assert stats.norm is None
    assert stats.std is None
    assert (stats.mean, stats.min, stats.max) == (0.0, -1e300, 1e300)


def test_integers_past_float32_keep_their_values() -> None:
    assert statistics(np.array([2**40 + 1], "int64")).max == 2.0**40 + 1


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_small_float_types_have_statistics(dtype: Any) -> None:
    stats = statistics(np.array([1.0, 3.0, np.nan], dtype))
    assert (stats.mean, stats.min, stats.max, stats.nan_count) == (2.0, 1.0, 3.0, 1)


def test_complex_numbers_have_no_statistics() -> None:
    assert statistics(np.array([1 + 2j])) == NOTHING


@given(arrays())
def test_statistics_never_fail(array: np.ndarray[Any, Any]) -> None:
    stats = statistics(array)
    numbers = (stats.mean, stats.std, stats.min, stats.max, stats.norm)
    assert all(number is None or math.isfinite(number) for number in numbers)


def test_a_signalling_nan_is_a_nan() -> None:
    assert statistics(np.array([0x7F800001], "uint32").view("float32")).nan_count == 1
