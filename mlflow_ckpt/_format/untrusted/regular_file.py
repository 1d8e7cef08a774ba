"""Opens files on disk that are nothing but files, and reads small ones."""

from __future__ import annotations

import errno
import io
import os
import stat
from io import BufferedReader
from pathlib import Path

from mlflow_ckpt.errors import UnsafeFileError

# Bytes of a file with JSON or other text: far more than any model's description.
MOST_TEXT = 64 << 20
_CHUNK = 1 << 24
# A FIFO without a writer would block. Windows has neither.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def open_regular(path: Path, *, follow: bool = False) -> BufferedReader:
    """Open a file for reading.

    Args:
        path: The file.
        follow: Whether it may be a link, because a user named it.

    Raises:
        UnsafeFileError: If it is a link, a directory, a FIFO, a socket or a device.
        OSError: If it cannot be opened.
    """
    try:
        descriptor = os.open(path, _FLAGS if follow else _FLAGS | _NO_LINK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_a_file(path, "a link") from error
        if error.errno in (errno.ENXIO, errno.EOPNOTSUPP):
            raise _not_a_file(path, "a socket or a device") from error
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO"}
        raise _not_a_file(path, kinds.get(stat.S_IFMT(mode), "a device"))
    return BufferedReader(io.FileIO(descriptor, "rb"))


def require_regular(path: Path, *, follow: bool = False) -> int:
    """Return a file's size in bytes. Arguments and errors as in `open_regular`."""
    with open_regular(path, follow=follow) as file:
        return size_of(file)


def read(path: Path, *, most: int = MOST_TEXT, follow: bool = False) -> bytes:
    """Read a small file. Other arguments and errors as in `open_regular`.

    Args:
        path: The file.
        most: Size in bytes beyond which it is not read.
        follow: Whether it may be a link.
    """
    with open_regular(path, follow=follow) as file:
        content = file.read(min(size_of(file), most) + 1)
    if len(content) > most:
        raise UnsafeFileError(
            f"{path.name} is larger than {most} bytes, so it was not read. Such files are small."
        )
    return content


def copy(path: Path, target: Path, *, most: int) -> None:
    """Copy a file, but at most one byte more than `most`. Errors as in `open_regular`."""
    with open_regular(path) as source, target.open("wb") as written:
        while (left := most + 1 - written.tell()) and (chunk := source.read(min(left, _CHUNK))):
            written.write(chunk)


def size_of(file: BufferedReader) -> int:
    """Return the size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def _not_a_file(path: Path, kind: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"{path} is {kind}, so it was not opened. Expected a file: replace it by a copy."
    )
