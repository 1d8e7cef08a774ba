"""Reads tensors from Keras's files with h5py: `.weights.h5`, `.keras` and legacy `.h5`."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.digest import Digest, array_bytes
from mlflow_ckpt._format.dtypes import dtype_named
from mlflow_ckpt._format.fingerprint import TensorFingerprint
from mlflow_ckpt._format.layout import WEIGHTS_IN_ARCHIVE
from mlflow_ckpt._format.untrusted import hdf5_structure
from mlflow_ckpt._format.untrusted.hdf5_structure import StoredTensor
from mlflow_ckpt._format.untrusted.regular_file import open_regular, require_regular
from mlflow_ckpt._format.untrusted.zip_archive import open_zip, read
from mlflow_ckpt.errors import IntegrityError

# Reads the values of a tensor; None if they are not found.
Reader = Callable[[TensorFingerprint], np.ndarray[Any, Any] | None]
# Loading opens a file several times: the tensors of the last ones that were checked, by state.
_MOST_CHECKED = 8
_checked: dict[Any, dict[str, StoredTensor]] = {}
# What h5py raises for a damaged file, whose sizes may be any numbers.
UNREADABLE = (
    *(OSError, KeyError, RuntimeError, TypeError, ValueError, OverflowError, MemoryError),
    *(struct.error, zipfile.BadZipFile),
)


@contextmanager
def open_weights(path: Path) -> Iterator[h5py.File]:
    """Open the HDF5 file at `path`, or the one inside the `.keras` archive at `path`.

    Raises:
        UnsafeFileError: If something in it leads elsewhere, or declares what it does not hold.
        OSError, KeyError, zipfile.BadZipFile: If there is no such file, or it is damaged.
    """
    with _opened(path) as (file, size):
        _check(path, file, size)
        yield file


def require_safe(path: Path) -> dict[str, StoredTensor]:
    """Check a file before Keras opens it; return the tensors in it by their paths.

    Errors as in `open_weights`.
    """
    with _opened(path) as (file, size):
        return _check(path, file, size)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[h5py.File, int]]:
    """Open an HDF5 file, which is not checked yet; yield its size too."""
    if path.suffix != ".keras":
        size = require_regular(path, follow=True)
        with h5py.File(path, "r") as file:
            yield file, size
        return
    with open_zip(path, follow=True) as archive, open_regular(path, follow=True) as raw:
        member = archive.getinfo(WEIGHTS_IN_ARCHIVE)
        with _content(archive, member, raw) as source, h5py.File(source, "r") as file:
            yield file, member.file_size


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, raw: BinaryIO) -> io.IOBase:
    """Return a member of an archive as a file."""
    # `zipfile` seeks backwards by reading from the start again, and HDF5 seeks often. Keras stores
    # this member uncompressed, so it can be read in place.
    if member.compress_type == zipfile.ZIP_STORED:
        return _StoredMember(raw, member)
    return io.BytesIO(read(archive, member.filename, most=member.file_size))


def _check(path: Path, file: h5py.File, size: int) -> dict[str, StoredTensor]:
    """Check an open file, unless it has not changed since it was checked."""
    status = path.stat()
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    tensors = _checked.get(state)
    if tensors is None:
        tensors = hdf5_structure.check(file, size, path.name)
        while len(_checked) >= _MOST_CHECKED:
            _checked.pop(next(iter(_checked), None), None)
        _checked[state] = tensors
    return tensors


class _StoredMember(io.RawIOBase):
    """A file object for an uncompressed member of an archive."""

    def __init__(self, file: BinaryIO, member: zipfile.ZipInfo) -> None:
        self._file = file
        self._start = _content_start(file, member)
        self._size = member.file_size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, target: Any) -> int:
        buffer = memoryview(target)[: max(0, self._size - self._position)]
        self._file.seek(self._start + self._position)
        # A buffered file fills the buffer, except at its end.
        count = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._position += count
        return int(count)


@contextmanager
def reading(directory: Path) -> Iterator[Reader]:
    """Return a context manager with a function that reads single tensors of a checkpoint.

    Legacy `.h5` has other names for tensors, so there they are looked up by digest.

    Raises:
        IntegrityError: If a weights file cannot be opened.
    """
    with ExitStack() as stack:

        def opened(path: str) -> h5py.File:
            try:
                return stack.enter_context(open_weights(directory / path))
            except UNREADABLE as error:
                raise IntegrityError(
                    f"{path} is unchanged, but cannot be opened ({error}). Expected a file written "
                    "by Keras. Choose another checkpoint by its epoch or step."
                ) from error

        present = [
            (path, opened(path), require_safe(directory / path))
            for path in (layout.WEIGHTS, layout.FULL_KERAS)
            if (directory / path).is_file()
        ]
        legacy = opened(layout.FULL_H5) if (directory / layout.FULL_H5).is_file() else None

        @cache
        def legacy_names() -> dict[str, str]:
            datasets = () if legacy is None else tensors(legacy)
            return {str(Digest.of_array(array)): name for name, array in datasets}

        def read_tensor(tensor: TensorFingerprint) -> np.ndarray[Any, Any] | None:
            for path, file, stored in present:
                if tensor.name in stored:
                    _require_as_listed(path, stored[tensor.name], tensor)
                    return _as_saved(np.asarray(file[tensor.name]), tensor)
            name = legacy_names().get(str(tensor.digest))
            if legacy is None or name is None:
                return None
            return _as_saved(np.asarray(legacy[name]), tensor)

        yield read_tensor


def _require_as_listed(path: str, stored: StoredTensor, tensor: TensorFingerprint) -> None:
    """Raise IntegrityError unless a tensor in a file is as the fingerprint says."""
    size = dtype_named(tensor.dtype)
    if stored.shape != tensor.shape or (size is not None and size.itemsize != stored.item_size):
        raise IntegrityError(
            f"{tensor.name} in {path} has the shape {list(stored.shape)} with {stored.item_size} "
            f"bytes per element. Expected {tensor.dtype} {list(tensor.shape)}, as "
            f"{layout.FINGERPRINT} says: the two were not saved together."
        )


def _as_saved(
    array: np.ndarray[Any, Any], tensor: TensorFingerprint
) -> np.ndarray[Any, Any] | None:
    # HDF5 has no bfloat16: Keras stores the bytes. And a lookup by digest may return another tensor
    # with the same bytes: zeros are equal in any dtype and shape.
    dtype = dtype_named(tensor.dtype)
    if dtype is None or array.nbytes != math.prod(tensor.shape) * dtype.itemsize:
        return None
    return np.asarray(array_bytes(array)).view(dtype).reshape(tensor.shape)


def has_assets(archive: Path) -> bool:
    """Whether a `.keras` archive holds files of layers, such as vocabularies."""
    with open_zip(archive) as opened:
        return any(name.startswith("assets/") for name in opened.namelist())


def tensors(file: h5py.File) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield the path and the stored values of every dataset in an open file.

    bfloat16 is stored as two-byte void, with the same bytes and so the same digest.
    """
    names: list[str] = []
    file.visititems(
        lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
    )
    for name in names:
        yield name, np.asarray(file[name])


def damaged_tensors(path: Path, expected: dict[str, Digest]) -> tuple[str, ...]:
    """Return the names of the tensors that a weights file should hold but does not.

    Args:
        path: A `.keras` or `.weights.h5` file, where tensors are looked up by name; or a legacy
            `.h5`, which has other names, so tensors are looked up by digest.
        expected: Digests of the tensors by name.

    Returns:
        The names, in the order of `expected`; empty if the file cannot be opened, or if all tensors
        are intact.
    """
    try:
        size = require_regular(path)
        source = _archived_bytes(path) if path.suffix == ".keras" else path
        with h5py.File(source, "r") as file:
            hdf5_structure.check(file, size, path.name)
            digests = {name: str(Digest.of_array(array)) for name, array in tensors(file)}
    except UNREADABLE:
        # The caller knows already that the file is damaged.
        return ()
    if path.suffix == ".keras" or path.name.endswith(".weights.h5"):
        return tuple(name for name, digest in expected.items() if digests.get(name) != str(digest))
    present = set(digests.values())
    return tuple(name for name, digest in expected.items() if str(digest) not in present)


def _archived_bytes(path: Path) -> io.BytesIO:
    """Return the weights file in a damaged `.keras` archive, where Keras stores it uncompressed.

    `zipfile` refuses to read a member with a wrong checksum.
    """
    with open_zip(path) as archive, open_regular(path) as file:
        member = archive.getinfo(WEIGHTS_IN_ARCHIVE)
        file.seek(_content_start(file, member))
        return io.BytesIO(file.read(member.file_size))


def _content_start(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Return the offset of a member's content in an archive."""
    # A member's header: 26 bytes, the lengths of two fields, the two fields.
    file.seek(member.header_offset + 26)
    lengths = file.read(4)
    if len(lengths) < 4:
        raise zipfile.BadZipFile(f"{member.filename} begins beyond the archive")
    name_length, extra_length = struct.unpack("<HH", lengths)
    return int(member.header_offset + 30 + name_length + extra_length)
