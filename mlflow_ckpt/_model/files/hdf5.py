"""HDF5 files: written so that a full disk is an error and not a crash, and read as Keras does.

The HDF5 library ends the process where a write to disk fails while it closes a file. So it never
writes to disk here: it lays a file out in memory, where large tensors are kept as references to the
arrays that hold them, and the finished layout is then copied to its goal from front to back.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

# What is smaller is copied: HDF5 gathers small writes in a buffer of its own, of 64 KiB.
_REFERENCED = 1 << 16
_PAGE = 1 << 16


@dataclass(frozen=True)
class Segment:
    """A stretch of a file.

    Attributes:
        data: Its bytes.
        array: Position of the tensor that they are, among those given; None for the rest.
    """

    data: Bytes
    array: int | None = None


@dataclass(frozen=True)
class _Extent:
    """Where in the file a tensor's bytes lie."""

    start: int
    data: Bytes
    array: int

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class LaidOutFile:
    """A file object for h5py that remembers what is written, without copying the tensors.

    Args:
        arrays: The tensors that will be written, C-contiguous. They must stay as they are until the
            layout has been copied to its goal.
    """

    def __init__(self, arrays: Iterable[np.ndarray[Any, Any]] = ()) -> None:
        places = [
            (array.ctypes.data, array.reshape(-1).view(np.uint8), index)
            for index, array in enumerate(arrays)
            if array.nbytes >= _REFERENCED and array.flags.c_contiguous
        ]
        self._arrays = sorted(places, key=lambda place: place[0])
        self._addresses = [place[0] for place in self._arrays]
        self._extents: dict[int, _Extent] = {}
        # Everything else, page by page: HDF5 leaves room for tensors between its own structures.
        self._pages: dict[int, bytearray] = {}
        self._position = 0
        self.size = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, as in any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the current place."""
        return self._position

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size."""
        self.size = self._position if size is None else size
        return self.size

    def write(self, data: memoryview) -> int:
        """Remember bytes: by reference if they are one of the tensors, else by value."""
        given = np.asarray(data)
        if not self._refer(given):
            self._copy(given)
        self._position += len(given)
        self.size = max(self.size, self._position)
        return len(given)

    def readinto(self, target: memoryview) -> int:
        """Read back what was written; what never was reads as zeros."""
        wanted = np.asarray(target)
        start, end = self._position, self._position + len(wanted)
        for offset, page, inside in self._split(start, end):
            stored = self._pages.get(page)
            piece = wanted[offset : offset + len(inside)]
            piece[:] = 0 if stored is None else np.frombuffer(stored, np.uint8)[_slice(inside)]
        for extent in self._extents.values():
            low, high = max(start, extent.start), min(end, extent.end)
            if low < high:
                wanted[low - start : high - start] = extent.data[
                    low - extent.start : high - extent.start
                ]
        self._position = end
        return len(wanted)

    def read(self, size: int) -> bytes:
        """Read back as bytes; h5py takes what has this method for a file."""
        content = bytearray(max(0, min(size, self.size - self._position)))
        self.readinto(memoryview(content))
        return bytes(content)

    def segments(self) -> Iterator[Segment]:
        """Give the file's content from front to back."""
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

    def _refer(self, given: Bytes) -> bool:
        if len(given) < _REFERENCED:
            return False
        address = given.ctypes.data
        index = bisect_right(self._addresses, address) - 1
        if index < 0:
            return False
        first, data, array = self._arrays[index]
        # A tensor in one piece; one that HDF5 converts or splits comes from a buffer of its own.
        if address != first or len(given) != len(data):
            return False
        self._extents[self._position] = _Extent(self._position, data, array)
        return True

    def _copy(self, given: Bytes) -> None:
        # The same place may have held a tensor before, if HDF5 moved it.
        end = self._position + len(given)
        for extent in list(self._extents.values()):
            if extent.start < end and self._position < extent.end:
                del self._extents[extent.start]
                self._copy_at(extent.start, extent.data)
        self._copy_at(self._position, given)

    def _copy_at(self, start: int, given: Bytes) -> None:
        for offset, page, inside in self._split(start, start + len(given)):
            stored = self._pages.setdefault(page, bytearray(_PAGE))
            stored[_slice(inside)] = given[offset : offset + len(inside)].tobytes()

    @staticmethod
    def _split(start: int, end: int) -> Iterator[tuple[int, int, range]]:
        """Split a stretch at the pages' ends: offset in it, page, and the range within the page."""
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
    """Give an HDF5 file to write to, and its layout, complete once the context is left."""
    layout = LaidOutFile(arrays)
    with h5py.File(layout, "w") as file:
        yield file, layout


@contextmanager
def written_to(path: Path) -> Iterator[h5py.File]:
    """Give an HDF5 file that is written to `path` once it is complete.

    Raises:
        OSError: If the disk is full or the place cannot be written.
    """
    with laid_out() as (file, layout):
        yield file
    with path.open("wb") as target:
        for segment in layout.segments():
            target.write(segment.data.data)


def native(dataset: h5py.Dataset) -> np.ndarray[Any, Any]:
    """Return a dataset's values in their own type; Keras stores bfloat16 as plain bytes."""
    array = np.asarray(dataset)
    if dataset.attrs.get("dtype") == "bfloat16":
        return array.view(ml_dtypes.bfloat16)
    return array


def _slice(inside: range) -> slice:
    return slice(inside.start, inside.stop)
