"""Plain values and arrays come back from JSON and named arrays as they were."""

from __future__ import annotations

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlflow_ckpt._format.values import UnpackableError, pack, unpack

ARRAYS = hnp.arrays(
    st.sampled_from(["float32", "float16", "int64", "uint8", "bool", "complex64"]),
    hnp.array_shapes(min_dims=0, max_side=4),
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | ARRAYS
    | st.floats(width=32).map(np.float32)
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(
            st.text() | st.integers() | st.sampled_from(["$array"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (float, np.floating)):
        return bool(a == b) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


@given(VALUES)
def test_what_is_packed_is_unpacked(value: Any) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    packed = json.loads(json.dumps(pack(value, "state", arrays), allow_nan=False))
    assert same(unpack(packed, arrays), value)


def test_types_that_numpy_files_do_not_know_keep_their_bytes() -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    value = np.arange(4).astype(ml_dtypes.bfloat16)
    packed = pack({"best": value}, "x", arrays)
    assert arrays["x/best"].dtype == np.uint16
    assert same(unpack(packed, arrays), {"best": value})


def test_arrays_are_copied_unless_nobody_writes_to_them() -> None:
    value, copies, views = np.zeros(3), {}, {}  # type: ignore[var-annotated]
    pack(value, "a", copies)
    pack(value, "a", views, copy=False)
    value[0] = 1
    assert copies["a"][0] == 0
    assert views["a"][0] == 1


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", [print], np.array([None])])
def test_anything_else_is_refused_by_its_place(value: Any) -> None:
    with pytest.raises(UnpackableError, match="state/inner"):
        pack({"inner": value}, "state", {})
