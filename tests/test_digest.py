"""Anyone can check a digest with hashlib."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_ckpt._format.digest import Digest, array_bytes
from tests.support.strategies import arrays


def little_endian_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """The definition in docs/format.md, element by element."""
    elements = (array[(*index, np.newaxis)] for index in np.ndindex(array.shape))
    bigs = array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big")
    return b"".join(e.tobytes()[::-1] if bigs else e.tobytes() for e in elements)


@given(arrays())
def test_digest_of_an_array_is_sha256_of_its_little_endian_c_order_bytes(
    array: np.ndarray[Any, Any],
) -> None:
    expected = little_endian_bytes(array)
    assert bytes(array_bytes(array)) == expected
    assert str(Digest.of_array(array)) == "sha256:" + hashlib.sha256(expected).hexdigest()


def test_digest_does_not_depend_on_byte_order_or_memory_layout() -> None:
    array = np.arange(12, dtype="<f4").reshape(3, 4)
    same = [array.astype(">f4"), np.asfortranarray(array), array.T.copy().T, array[::1]]
    assert {Digest.of_array(one) for one in same} == {Digest.of_array(array)}


def test_an_array_that_is_ready_is_hashed_without_a_copy() -> None:
    array = np.zeros((4, 4), "<f4")
    view = array_bytes(array)
    array[0, 0] = 1.0
    assert bytes(view) == array.tobytes()


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float16])
def test_small_float_types_are_hashed_as_stored(dtype: Any) -> None:
    array = np.array([1.0, -2.0, 0.5], dtype)
    assert Digest.of_array(array).value == hashlib.sha256(array.tobytes()).hexdigest()


@given(st.binary())
def test_digest_of_bytes_and_of_a_file_agree_with_hashlib(data: bytes) -> None:
    assert Digest.of_bytes(data).value == hashlib.sha256(data).hexdigest()


def test_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000_003)
    assert Digest.of_file(path) == Digest.of_bytes(path.read_bytes())


@given(st.binary())
def test_a_digest_survives_being_printed(data: bytes) -> None:
    digest = Digest.of_bytes(data)
    assert Digest.parse(str(digest)) == digest


@pytest.mark.parametrize(
    "text",
    [
        *("", "sha256:", "sha256:" + "0" * 63, "sha256:" + "0" * 65, "0" * 64),
        *("md5:" + "0" * 32, "sha256:" + "A" * 64, "sha256:" + "g" * 64, "SHA256:" + "0" * 64),
        *("sha256:" + "0" * 64 + "\n", None, 5),
    ],
)
def test_what_is_not_a_digest_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="Expected 'sha256:' and 64 hexadecimal digits"):
        Digest.parse(text)
