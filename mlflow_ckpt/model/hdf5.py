"""HDF5 files: written so that a full disk is an error and not a crash, and read as Keras does."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np


@contextmanager
def in_memory() -> Iterator[tuple[h5py.File, io.BytesIO]]:
    """Give an HDF5 file in memory, and the buffer that holds its bytes once it is closed.

    The HDF5 library ends the process where a write to disk fails while it closes a file.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        yield file, buffer


@contextmanager
def written_to(path: Path) -> Iterator[h5py.File]:
    """Give an HDF5 file that is written to `path` once it is complete.

    Raises:
        OSError: If the disk is full or the place cannot be written.
    """
    with in_memory() as (file, buffer):
        yield file
    path.write_bytes(buffer.getbuffer())


def native(dataset: h5py.Dataset) -> np.ndarray[Any, Any]:
    """Return a dataset's values in their own type; Keras stores bfloat16 as plain bytes."""
    array = np.asarray(dataset)
    if dataset.attrs.get("dtype") == "bfloat16":
        return array.view(ml_dtypes.bfloat16)
    return array
