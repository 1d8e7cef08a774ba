"""Reads `.npy` and `.npz` files that others wrote."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy

from mlflow_ckpt._format.untrusted.regular_file import open_regular, size_of
from mlflow_ckpt._format.untrusted.zip_archive import HARMLESS, HARMLESS_INPUT, open_zip
from mlflow_ckpt.errors import UnsafeFileError

Array = np.ndarray[Any, Any]
# What an `.npy` file begins with.
MAGIC = b"\x93NUMPY"
_ENDING = ".npy"
_LONGEST_REASON = 200
# What NumPy raises for a malformed header.
_MALFORMED = (
    *(AttributeError, EOFError, IndexError, KeyError, MemoryError, OverflowError, TokenError),
    *(RecursionError, SyntaxError, TypeError, UnicodeError, zipfile.BadZipFile, zlib.error),
)


def load_array(path: Path, *, follow: bool = False) -> Array:
    """Read an `.npy` file.

    Args:
        path: The file.
        follow: Whether it may be a link.

    Raises:
        UnsafeFileError: If it is no file, or is not as large as it declares, or holds objects.
        ValueError: If it is not an `.npy` file.
        OSError: If it cannot be opened.
    """
    with open_regular(path, follow=follow) as file:
        return _read(file, size_of(file), path.name)


def load_arrays(
    path: Path, names: Collection[str] | None = None, *, prefix: str = "", follow: bool = False
) -> dict[str, Array]:
    """Read arrays of an `.npz` file by name. Other arguments and errors as in `load_array`.

    Args:
        path: The file.
        names: Names of the arrays to read; all if None.
        prefix: Only names that begin so are read.
        follow: Whether it may be a link.

    Raises:
        zipfile.BadZipFile: If it is not a zip archive, or is damaged.
    """
    arrays = {}
    with open_zip(path, follow=follow, harmless=_harmless(follow)) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(_ENDING)
            if name == member.filename or not name.startswith(prefix):
                continue
            if names is None or name in names:
                with archive.open(member) as file:
                    arrays[name] = _read(cast(BinaryIO, file), member.file_size, name)
    return arrays


def names_in(path: Path, *, follow: bool = False) -> list[str]:
    """Return the names of the arrays in an `.npz` file. Errors as in `load_arrays`."""
    with open_zip(path, follow=follow, harmless=_harmless(follow)) as archive:
        names = archive.namelist()
    return [name.removesuffix(_ENDING) for name in names if name.endswith(_ENDING)]


def _harmless(follow: bool) -> int:
    """Return what an archive may hold however well it is compressed: more if a user chose it."""
    return HARMLESS_INPUT if follow else HARMLESS


def _read(file: BinaryIO, size: int, name: str) -> Array:
    """Read an array from a seekable file of `size` bytes, if that is what its header declares."""
    try:
        shape, _, dtype = _header(file)
        _require_size(shape, dtype, size - file.tell(), name)
        file.seek(0)
        return np.asarray(npy.read_array(file, allow_pickle=False))
    except UnsafeFileError:
        raise
    except (ValueError, *_MALFORMED) as error:
        reason = str(error)[:_LONGEST_REASON]
        raise ValueError(f"{name} is not an array as NumPy stores it ({reason}).") from error


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"its format version {version} is not that of an array of numbers")
    return readers[version](file)


def _require_size(shape: tuple[int, ...], dtype: np.dtype[Any], left: int, name: str) -> None:
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        raise UnsafeFileError(
            f"{name} was not read: it holds objects (dtype {dtype}), not numbers."
        )
    declared = math.prod(shape)
    if any(size < 0 for size in shape) or (declared and not dtype.itemsize):
        raise UnsafeFileError(f"{name} was not read: it declares the shape {shape} of {dtype}.")
    if declared * dtype.itemsize != left:
        raise UnsafeFileError(
            f"{name} was not read: it declares {declared * dtype.itemsize} bytes and has {left}."
        )
