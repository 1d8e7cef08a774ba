"""Writes HDF5 files so that a full disk raises an error, and reads them as Keras does.

The HDF5 library aborts the process if a write fails while it closes a file. So it lays files out in
memory, where large tensors are references to their arrays, and the finished layout is then copied
to disk sequentially.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from mlflow_ckpt._format.fingerprint import PIECE, TensorFingerprint, TensorFingerprinter

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

# Smaller tensors are copied: HDF5 collects small writes in a buffer of 64 KiB.
_REFERENCED = 1 << 16
_PAGE = 1 << 16


@dataclass(frozen=True)
class Segment:
    """A contiguous part of a file.

    Attributes:
        data: Its bytes.
        array: Index of the array whose bytes these are; None for other content.
    """

    data: Bytes
    array: int | None = None


@dataclass(frozen=True)
class _Extent:
    """The position of a tensor's bytes in the file."""

    start: int
    data: Bytes
    array: int

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class LaidOutFile:
    """A file object for h5py that keeps the content in memory, without copying the tensors.

    Args:
        arrays: The C-contiguous tensors that will be written. They must not change until the layout
            has been copied to disk.
    """

    def __init__(self, arrays: Iterable[np.ndarray[Any, Any]] = ()) -> None:
        references = [
            (array.ctypes.data, array.reshape(-1).view(np.uint8), index)
            for index, array in enumerate(arrays)
            if array.nbytes >= _REFERENCED and array.flags.c_contiguous
        ]
        self._arrays = sorted(references, key=lambda reference: reference[0])
        self._addresses = [address for address, _, _ in self._arrays]
        self._extents: dict[int, _Extent] = {}
        # All other content, in pages, because HDF5 writes it in any order.
        self._pages: dict[int, bytearray] = {}
        self._position = 0
        self.size = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, as for any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the current position."""
        return self._position

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size."""
        self.size = self._position if size is None else size
        return self.size

    def write(self, data: memoryview) -> int:
        """Store bytes: by reference if they are one of the tensors, else by value."""
        content = np.asarray(data)
        if not self._refer(content):
            self._copy(content)
        self._position += len(content)
        self.size = max(self.size, self._position)
        return len(content)

    def readinto(self, target: memoryview) -> int:
        """Read into a buffer; parts that were never written are zeros."""
        buffer = np.asarray(target)
        start, end = self._position, self._position + len(buffer)
        for offset, page, inside in self._split(start, end):
            stored = self._pages.get(page)
            piece = buffer[offset : offset + len(inside)]
            piece[:] = 0 if stored is None else np.frombuffer(stored, np.uint8)[_slice(inside)]
        for extent in self._extents.values():
            low, high = max(start, extent.start), min(end, extent.end)
            if low < high:
                buffer[low - start : high - start] = extent.data[
                    low - extent.start : high - extent.start
                ]
        self._position = end
        return len(buffer)

    def read(self, size: int) -> bytes:
        """Read bytes; h5py recognizes a file by this method."""
        content = bytearray(max(0, min(size, self.size - self._position)))
        self.readinto(memoryview(content))
        return bytes(content)

    def segments(self) -> Iterator[Segment]:
        """Yield the file's content from start to end."""
        position = 0
        for extent in sorted(self._extents.values(), key=lambda extent: extent.start):
            yield from self._between(position, extent.start)
            yield Segment(extent.data, extent.array)
            position = extent.end
        yield from self._between(position, self.size)

    def _between(self, start: int, end: int) -> Iterator[Segment]:
        for _, page, inside in self._split(start, end):
            stored = self._pages.get(page)
            content = bytes(len(inside)) if stored is None else stored[_slice(inside)]
            yield Segment(np.frombuffer(content, np.uint8))

    def _refer(self, content: Bytes) -> bool:
        if len(content) < _REFERENCED:
            return False
        address = content.ctypes.data
        index = bisect_right(self._addresses, address) - 1
        if index < 0:
            return False
        first, data, array = self._arrays[index]
        # Only whole tensors: HDF5 copies what it converts or splits into its own buffer.
        if address != first or len(content) != len(data):
            return False
        self._extents[self._position] = _Extent(self._position, data, array)
        return True

    def _copy(self, content: Bytes) -> None:
        # This may overwrite a tensor that HDF5 has moved.
        end = self._position + len(content)
        for extent in list(self._extents.values()):
            if extent.start < end and self._position < extent.end:
                del self._extents[extent.start]
                self._copy_at(extent.start, extent.data)
        self._copy_at(self._position, content)

    def _copy_at(self, start: int, content: Bytes) -> None:
        for offset, page, inside in self._split(start, start + len(content)):
            stored = self._pages.setdefault(page, bytearray(_PAGE))
            stored[_slice(inside)] = content[offset : offset + len(inside)].tobytes()

    @staticmethod
    def _split(start: int, end: int) -> Iterator[tuple[int, int, range]]:
        """Split a range by pages: yield offset in the range, page, and range within the page."""
        position = start
        while position < end:
            page, first = divmod(position, _PAGE)
            last = min(_PAGE, first + end - position)
            yield position - start, page, range(first, last)
            position += last - first


@contextmanager
def laid_out(
    arrays: Iterable[np.ndarray[Any, Any]] = (),
) -> Iterator[tuple[h5py.File, LaidOutFile]]:
    """Yield an HDF5 file to write to and its layout, which is complete when the context exits."""
    layout = LaidOutFile(arrays)
    with h5py.File(layout, "w") as file:
        yield file, layout


def write_out(
    layout: LaidOutFile,
    write: Callable[[memoryview], Any],
    arrays: Sequence[np.ndarray[Any, Any]] = (),
    fingerprinters: Mapping[int, TensorFingerprinter] | None = None,
) -> dict[int, TensorFingerprint]:
    """Write a file sequentially.

    Each piece is written, hashed and summarized while it is in the processor's cache.

    Args:
        layout: The file.
        write: Writes the next bytes.
        arrays: The tensors that the file was laid out with.
        fingerprinters: Fingerprinters by the tensor's index in `arrays`.

    Returns:
        The fingerprints of the tensors that are contiguous in the file, by index.
    """
    fingerprinters = fingerprinters or {}
    fingerprints: dict[int, TensorFingerprint] = {}
    for segment in layout.segments():
        fingerprinter = None if segment.array is None else fingerprinters.get(segment.array)
        if segment.array is None or fingerprinter is None:
            write(segment.data.data)
            continue
        flat = arrays[segment.array].reshape(-1)
        for start in range(0, flat.size, PIECE):
            piece = flat[start : start + PIECE]
            write(piece.view(np.uint8).data)
            fingerprinter.update(piece)
        fingerprints[segment.array] = fingerprinter.result()
    return fingerprints


def native(dataset: h5py.Dataset) -> np.ndarray[Any, Any]:
    """Return a dataset's values in their dtype; Keras stores bfloat16 as plain bytes."""
    array = np.asarray(dataset)
    kind = dataset.attrs.get("dtype")
    if isinstance(kind, str) and kind == "bfloat16" and array.dtype.itemsize == 2:
        return array.view(ml_dtypes.bfloat16)
    return array


def _slice(inside: range) -> slice:
    return slice(inside.start, inside.stop)
