"""Opens zip archives that others wrote: `.keras` and `.npz`."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from mlflow_ckpt._format.untrusted.regular_file import MOST_TEXT, open_regular, size_of
from mlflow_ckpt.errors import UnsafeFileError

# By how much members may grow when they are unpacked; Keras's own limit too.
_MOST_GROWTH = 100
# Members that are unpacked to less than that are no bombs; inputs that a user chose may be mostly
# zeros.
HARMLESS = 16 << 20
HARMLESS_INPUT = 256 << 20
_MOST_MEMBERS = 100_000
# Of the directory at the archive's end, which `zipfile` reads at once.
_MOST_DIRECTORY = 16 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1
# What `zipfile` raises for damaged archives.
_DAMAGED = (
    *(EOFError, IndexError, NotImplementedError, OverflowError, RuntimeError, UnicodeError),
    *(struct.error, zlib.error),
)


@contextmanager
def open_zip(
    path: Path, *, follow: bool = False, harmless: int = HARMLESS
) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose members are what they say, and stay inside of it.

    Args:
        path: The archive.
        follow: Whether it may be a link.
        harmless: Bytes that it may hold however well they are compressed.

    Raises:
        UnsafeFileError: If it is no file, or its members would grow beyond reason when unpacked,
            lead elsewhere, or are hidden behind each other.
        zipfile.BadZipFile: If it is damaged.
        OSError: If it cannot be opened.
    """
    with open_regular(path, follow=follow) as file:
        limited = _LimitedReads(file)
        try:
            archive = zipfile.ZipFile(cast(BinaryIO, limited))
        except _DAMAGED as error:
            raise zipfile.BadZipFile(f"{path.name}: {error}") from error
        limited.most = None
        with archive:
            _check(archive, size_of(file), path.name, harmless)
            yield archive


def read(archive: zipfile.ZipFile, name: str, *, most: int = MOST_TEXT) -> bytes:
    """Read a member of an archive from `open_zip`.

    Args:
        archive: The archive.
        name: The member.
        most: Size in bytes beyond which it is not read.

    Raises:
        KeyError: If there is no such member.
        UnsafeFileError: If it is too large.
        zipfile.BadZipFile: If it is damaged.
    """
    member = archive.getinfo(name)
    if member.file_size > most:
        raise UnsafeFileError(
            f"{name} in the archive has {member.file_size} bytes, more than {most}, so it was not "
            "read. Such files are small."
        )
    try:
        return archive.read(member)
    except _DAMAGED as error:
        raise zipfile.BadZipFile(f"{name}: {error}") from error


class _LimitedReads:
    """A file whose single reads are limited, while `zipfile` reads what it is told to."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.most: int | None = _MOST_DIRECTORY

    def read(self, count: int = -1) -> bytes:
        if self.most is not None and count > self.most:
            raise UnsafeFileError(
                f"The directory of the zip archive has {count} bytes, so it was not read."
            )
        return self._file.read(count)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def _check(archive: zipfile.ZipFile, size: int, name: str, harmless: int) -> None:
    """Raise UnsafeFileError unless an archive of `size` bytes is what it seems to be."""
    members = archive.infolist()
    names = {member.filename for member in members}
    if len(members) > _MOST_MEMBERS:
        raise _unsafe(name, f"has {len(members)} members")
    if len(names) < len(members):
        raise _unsafe(name, "has several members of one name")
    for member in members:
        if problem := _problem(member, size, harmless):
            raise _unsafe(name, f"has a member {member.filename[:100]!r} that {problem}")
    packed = sum(member.compress_size for member in members)
    unpacked = sum(member.file_size for member in members)
    if packed > size:
        raise _unsafe(name, "has members that overlap")
    if unpacked > max(harmless, _MOST_GROWTH * size):
        raise _unsafe(name, f"would unpack {size} bytes to {unpacked}: save it uncompressed")


def _problem(member: zipfile.ZipInfo, size: int, harmless: int) -> str | None:
    path = member.filename
    if path.startswith("/") or "\\" in path or ":" in path.partition("/")[0]:
        return "is not inside of it"
    if ".." in PurePosixPath(path).parts or "\0" in member.orig_filename:
        return "is not inside of it"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if member.compress_type not in _METHODS:
        return f"is compressed by an unusual method ({member.compress_type})"
    if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
        return f"says it has {member.file_size} bytes and has {member.compress_size}"
    if member.header_offset < 0 or member.header_offset + member.compress_size > size:
        return "is beyond the archive"
    if member.file_size > max(harmless, _MOST_GROWTH * member.compress_size):
        return (
            f"would grow from {member.compress_size} to {member.file_size} bytes: save it "
            "uncompressed"
        )
    return None


def _unsafe(name: str, problem: str) -> UnsafeFileError:
    return UnsafeFileError(f"{name} was not read: it {problem}. No model or checkpoint does.")
