"""File system operations of the spool: syncing to disk, listing directories, and access to them."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from mlflow_ckpt.errors import OutputError


def sync(directory: Path) -> None:
    """Wait until all files below a directory have reached the disk."""
    for root, _, names in os.walk(directory):
        for name in names:
            with (Path(root) / name).open("rb+") as file:
                os.fsync(file.fileno())
        sync_directory(Path(root))


def sync_directory(directory: Path) -> None:
    """Wait until a directory's list of entries has reached the disk."""
    if os.name == "nt":
        return  # Windows cannot sync directories
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        # Some network file systems do not support it.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def subdirectories(directory: Path) -> list[Path]:
    """Return the sorted subdirectories of a directory; empty if it does not exist.

    Raises:
        OutputError: If it cannot be read.
    """
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise OutputError(f"The spool {directory} cannot be read: {error}.") from error


def files(directory: Path, suffix: str) -> list[Path]:
    """Return the sorted files of a directory with a suffix; empty if it does not exist."""
    try:
        return sorted(path for path in directory.glob(f"*{suffix}") if not path.is_symlink())
    except FileNotFoundError:
        return []  # Python's glob ignores a missing directory, but not one that vanishes


def remove_if_empty(directory: Path) -> None:
    """Remove a directory if it is empty."""
    try:
        directory.rmdir()
    except OSError:
        return  # not empty, or removed by another process


def make_private(directory: Path, *, linked: bool = False) -> None:
    """Deny others access to a directory of this user's, and to all that is below it.

    What belongs to others, and what vanishes meanwhile, is left as it is.

    Args:
        directory: The directory, or a file.
        linked: Whether also to files that have another name as well, perhaps outside of it.
    """
    for path in (directory, *_below(directory)):
        deny_others(path, linked=linked)


def deny_others(path: Path, *, linked: bool = False) -> None:
    """Deny others access to one directory or file. Arguments and exceptions as `make_private`."""
    with suppress(OSError):
        status = path.lstat()
        is_dir = stat.S_ISDIR(status.st_mode)
        is_plain = is_dir or (stat.S_ISREG(status.st_mode) and (linked or status.st_nlink == 1))
        mode = 0o700 if is_dir else 0o600
        if is_plain and stat.S_IMODE(status.st_mode) != mode and _is_own(status, path):
            path.chmod(mode)


_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def _below(directory: Path) -> Iterator[Path]:
    """Yield the paths below a directory, without following links."""
    for root, directories, names in os.walk(directory):
        for name in (*directories, *names):
            yield Path(root, name)


def reason_against(path: Path, *, is_dir: bool) -> str | None:
    """Return why others may have written a directory or file; None if only this user can have.

    Args:
        path: Its path.
        is_dir: Whether it is expected to be a directory.

    Raises:
        OSError: If it does not exist.
    """
    status = path.lstat()
    if not (stat.S_ISDIR(status.st_mode) if is_dir else stat.S_ISREG(status.st_mode)):
        return f"it is no {'directory' if is_dir else 'file'}"
    if not _is_own(status, path):
        return "it belongs to another user"
    if status.st_mode & _BY_OTHERS and _keeps_modes(status.st_dev, path.parent):
        return "other users may write to it"
    return None


@cache
def _keeps_modes(device: int, directory: Path) -> bool:  # noqa: ARG001 - the key of the cache
    """Whether a file system keeps who may write to a file: not so on Windows, CIFS and many others.

    There, all files look alike, and the file system itself decides whom it lets in.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=directory) as probe:  # which is made for its user only
            return os.name != "nt" and not os.fstat(probe.fileno()).st_mode & _BY_OTHERS
    except OSError:
        return os.name != "nt"


def is_own_directory(path: Path) -> bool:
    """Whether a path is a directory of this user's, though others may be allowed to write to it.

    Raises:
        OSError: If it does not exist.
    """
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and _is_own(status, path)


def reason_against_all(directory: Path) -> str | None:
    """Return the first `reason_against` a directory and what is below it, with its path.

    Raises:
        OSError: If something vanishes meanwhile.
    """
    for path in (directory, *_below(directory)):
        # A link to a directory is no directory.
        reason = reason_against(path, is_dir=path.is_dir() and not path.is_symlink())
        if reason is not None:
            return f"{path}: {reason}"
    return None


def _is_own(status: os.stat_result, path: Path) -> bool:
    """Whether this user wrote a file. Some file systems show other owners than those who wrote."""
    if os.name == "nt" or status.st_uid == os.geteuid():
        return True
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            return os.fstat(probe.fileno()).st_uid == status.st_uid
    except OSError:
        return False


def size_below(directory: Path) -> int:
    """Return the total bytes of the files below a directory, skipping files that vanish.

    Those of a failing disk are skipped as well: reading them raises an error that says so.
    """
    files = (Path(root) / name for root, _, names in os.walk(directory) for name in names)
    return sum(_size(file) for file in files)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
