"""HDF5 files laid out in memory: the bytes are those that h5py writes, and no tensor is copied."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_ckpt._format.fingerprint import fingerprint_tensor
from mlflow_ckpt._model.files.captured import Tensor
from mlflow_ckpt._model.files.hdf5 import LaidOutFile, laid_out, write_out

LARGE = 1 << 16

DTYPES = ("float32", "float64", "float16", "int64", "uint8", "bool")
# Around the size from which a tensor is kept by reference, and far on both sides of it.
SIZES = st.sampled_from([0, 1, 7, 1000, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE + 5])


@st.composite
def tensors(draw: st.DrawFn) -> list[np.ndarray[Any, Any]]:
    count = draw(st.integers(0, 6))
    arrays = []
    for seed in range(count):
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        size = draw(SIZES) // dtype.itemsize
        data = np.random.default_rng(seed).integers(0, 2, size, np.uint8).astype(dtype)
        arrays.append(data.reshape(-1, 1) if draw(st.booleans()) else data)
    return arrays


def fill(file: h5py.File, arrays: list[np.ndarray[Any, Any]]) -> None:
    for index, array in enumerate(arrays):
        group = file.create_group(f"layers/layer_{index}/vars")
        group.attrs["name"] = f"layer_{index}"
        group.create_dataset("0", data=array)


def written_by_h5py(arrays: list[np.ndarray[Any, Any]]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file, arrays)
    return buffer.getvalue()


def content(layout: LaidOutFile) -> bytes:
    return b"".join(segment.data.tobytes() for segment in layout.segments())


@settings(max_examples=40)
@given(tensors(), st.booleans())
def test_the_bytes_are_those_that_h5py_writes(
    arrays: list[np.ndarray[Any, Any]], referenced: bool
) -> None:
    with laid_out(arrays if referenced else ()) as (file, layout):
        fill(file, arrays)
    written = content(layout)
    assert written == written_by_h5py(arrays)
    assert len(written) == layout.size


def test_a_large_tensor_is_kept_by_reference() -> None:
    arrays = [np.arange(LARGE, dtype="float32"), np.arange(8, dtype="float32")]
    with laid_out(arrays) as (file, layout):
        fill(file, arrays)
    (large,) = [segment for segment in layout.segments() if segment.array is not None]
    assert large.array == 0
    assert np.shares_memory(large.data, arrays[0])


def test_what_was_written_can_be_read_back_while_the_file_is_open() -> None:
    array = np.random.default_rng(0).normal(size=LARGE).astype("float32")
    small = np.arange(5)
    with laid_out([array]) as (file, _):
        fill(file, [array, small])
        file.flush()
        assert np.array_equal(file["layers/layer_0/vars/0"][:], array)
        assert np.array_equal(file["layers/layer_1/vars/0"][:], small)
        file["layers/layer_0/vars/0"][3] = 7.0
        assert file["layers/layer_0/vars/0"][3] == 7.0
    assert array[3] != 7.0, "a tensor is never written to"


def test_a_part_that_is_written_over_is_the_new_one() -> None:
    array = np.ones(LARGE, "float32")
    with laid_out([array]) as (file, layout):
        fill(file, [array])
        file["layers/layer_0/vars/0"][5:9] = 2.0
    with h5py.File(io.BytesIO(content(layout))) as file:
        expected = array.copy()
        expected[5:9] = 2.0
        assert np.array_equal(file["layers/layer_0/vars/0"][:], expected)


def test_tensors_are_fingerprinted_on_their_way_to_the_disk() -> None:
    arrays = [
        np.random.default_rng(0).normal(size=(300, 1001)).astype("float32"),
        np.array([1.0, np.nan], "float32"),
        np.arange(LARGE).reshape(2, -1),
    ]
    wanted = [
        Tensor(f"layers/layer_{i}/vars/0", array, None, None, "weights")
        for i, array in enumerate(arrays)
    ]
    with laid_out(arrays) as (file, layout):
        fill(file, arrays)
    stream = io.BytesIO()
    done = write_out(
        layout, stream.write, arrays, {i: t.fingerprinter() for i, t in enumerate(wanted)}
    )
    assert stream.getvalue() == written_by_h5py(arrays)
    # The small one lies among HDF5's own structures.
    assert sorted(done) == [0, 2]
    for index, fingerprint in done.items():
        assert fingerprint == fingerprint_tensor(wanted[index].name, arrays[index], role="weights")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_full_disk_is_an_error_and_not_a_crash() -> None:
    with laid_out() as (file, layout):
        fill(file, [np.zeros(LARGE, "float32")])
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space left"):
        write_out(layout, full.write)
        full.flush()
