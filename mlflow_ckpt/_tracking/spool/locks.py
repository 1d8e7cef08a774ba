"""Locks of files, which end with the process that holds them."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

_SECONDS_TO_BEGIN = 10


def take_new(path: Path) -> FileLock:
    """Take a new lock, and make its directory.

    Raises:
        OSError: If the disk is full or cannot be written.
    """
    # Whoever sends the directory's last entry removes it, perhaps before the lock is in it. The
    # pause lets them finish: threads of one process else hinder each other many times.
    beginning = Retrying(
        retry=retry_if_exception_type((FileExistsError, FileNotFoundError)),
        stop=stop_after_delay(_SECONDS_TO_BEGIN),
        wait=wait_fixed(0.001),
        reraise=True,
    )
    return beginning(_take, path)


def _take(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    lock.acquire()
    return lock


def take_free(path: Path) -> FileLock:
    """Take a lock at once.

    Raises:
        Timeout: If somebody holds it.
        FileNotFoundError: If its directory goes at this moment.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except FileExistsError as error:
        # filelock makes the directory first: it was there, and was gone when Python looked again.
        raise FileNotFoundError(error.errno, "The directory went", str(path.parent)) from error
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
    try:
        lock = take_free(lock_file)
    except (FileNotFoundError, Timeout):
        return  # its directory went, or somebody holds it
    release(lock, for_good=True)
