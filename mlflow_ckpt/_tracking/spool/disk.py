"""What the spool asks of a disk: that files have reached it, and what is in a directory."""

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
    """Wait until what a directory lists has reached the disk."""
    if os.name == "nt":
        return  # Windows has no handle of a directory to wait for
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        # Some network file systems know no such thing, and keep their own order.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def subdirectories(directory: Path) -> list[Path]:
    """Return the directories in a directory, sorted; none where there is no such directory.

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
    """Return the files in a directory whose names end so; none where there is no such directory."""
    try:
        return sorted(directory.glob(f"*{suffix}"))
    except FileNotFoundError:
        return []  # Python's glob means to tell nothing, but the directory may go under it


def remove_if_empty(directory: Path) -> None:
    """Remove a directory that holds nothing."""
    try:
        directory.rmdir()
    except OSError:
        return  # it is not, or another process was quicker


def size_below(directory: Path) -> int:
    """Return the bytes of all files below a directory; fewer while another process removes it."""
    files = (Path(root) / name for root, _, names in os.walk(directory) for name in names)
    return sum(_size(file) for file in files)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
