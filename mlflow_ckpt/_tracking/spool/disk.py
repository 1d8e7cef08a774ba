"""File system operations of the spool: syncing to disk, and listing directories."""

from __future__ import annotations

import os
from contextlib import suppress
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
        return sorted(directory.glob(f"*{suffix}"))
    except FileNotFoundError:
        return []  # Python's glob ignores a missing directory, but not one that vanishes


def remove_if_empty(directory: Path) -> None:
    """Remove a directory if it is empty."""
    try:
        directory.rmdir()
    except OSError:
        return  # not empty, or removed by another process


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
