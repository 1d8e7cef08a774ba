"""Locks of files, which end with the process that holds them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

_TRIES = 200


def take_new(path: Path) -> FileLock:
    """Take a new lock, and make its directory.

    Raises:
        OSError: If the disk is full or cannot be written.
    """
    # Whoever sends the directory's last entry removes it, perhaps before the lock is in it.
    for _ in range(_TRIES - 1):
        with suppress(FileExistsError, FileNotFoundError):
            return _take(path)
    return _take(path)


def _take(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    lock.acquire()
    return lock


def release(lock: FileLock, *, for_good: bool) -> None:
    """Release a lock; for good, together with its file.

    The file goes while the lock is held: afterwards it may be another process's lock.
    """
    # On Windows, the file cannot go while it is open, and filelock removes it.
    if for_good and os.name != "nt":
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def unlink_if_free(lock_file: Path) -> None:
    """Remove a lock that nobody holds."""
    lock = FileLock(lock_file)
    try:
        lock.acquire(blocking=False)
    except (FileNotFoundError, Timeout):
        return  # its directory went, or somebody holds it
    release(lock, for_good=True)
