"""File locks, which the operating system releases when their process ends."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

_TIMEOUT_SECONDS = 10
_MODE = 0o600


def take_new(path: Path) -> FileLock:
    """Create a lock and its directory, and acquire it.

    Raises:
        OSError: If the disk is full or not writable.
    """
    # Retry, because the process that sends the directory's last entry removes the directory,
    # perhaps before the lock is in it. Without a pause, threads would contend many times.
    retrying = Retrying(
        retry=retry_if_exception_type((FileExistsError, FileNotFoundError)),
        stop=stop_after_delay(_TIMEOUT_SECONDS),
        wait=wait_fixed(0.001),
        reraise=True,
    )
    return retrying(_acquire, path)


def _acquire(path: Path) -> FileLock:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(path, mode=_MODE)
    lock.acquire()
    return lock


def take_free(path: Path) -> FileLock:
    """Acquire a lock without waiting.

    Raises:
        Timeout: If the lock is held.
        FileNotFoundError: If its directory is removed meanwhile.
    """
    lock = FileLock(path, mode=_MODE)
    try:
        lock.acquire(blocking=False)
    except FileExistsError as error:
        # filelock creates the directory first; Python raises this if it vanishes meanwhile.
        raise FileNotFoundError(error.errno, "The directory vanished", str(path.parent)) from error
    return lock


def release(lock: FileLock, *, for_good: bool) -> None:
    """Release a lock, and remove its file if `for_good`.

    The file is removed while the lock is held: afterwards it may be another process's lock.
    """
    # On Windows an open file cannot be removed, and filelock removes it on release.
    if for_good and os.name != "nt":
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def unlink_if_free(lock_file: Path) -> None:
    """Remove the file of a lock unless it is held."""
    try:
        lock = take_free(lock_file)
    except (FileNotFoundError, Timeout):
        return  # its directory was removed, or it is held
    release(lock, for_good=True)
