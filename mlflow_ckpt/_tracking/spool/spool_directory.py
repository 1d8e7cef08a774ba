"""The spool: what the tracking server has not confirmed yet, on this machine's disk.

    <spool>/<run id>/<token>/entry.json     what is to be sent, and where to
    <spool>/<run id>/<token>/files/         a checkpoint's files, the manifest among them
    <spool>/<run id>/<token>.draft/         the same while it is written
    <spool>/<run id>/<token>.lock           held by the process that writes or sends it

An entry appears by one rename, once everything in it has reached the disk. Locks are the operating
system's and end with the process, so what a dead process left is told from what a living one does.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
from filelock import Timeout

from mlflow_ckpt._tracking.spool import disk, locks
from mlflow_ckpt._tracking.spool.drafts import Draft
from mlflow_ckpt._tracking.spool.entries import FILES, Entry

ENVIRONMENT_VARIABLE = "MLFLOW_CKPT_SPOOL"

_DRAFT = ".draft"
_LOCK = ".lock"
_PLACE = "place.json"


class Spool:
    """The spool in one directory.

    Args:
        root: Its directory, made when needed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def default(cls) -> Spool:
        """Return the spool of this machine: `MLFLOW_CKPT_SPOOL`, or in the platform's cache."""
        given = os.environ.get(ENVIRONMENT_VARIABLE)
        return cls(Path(given).expanduser().absolute() if given else platform_root())

    @classmethod
    def usable(cls) -> tuple[Spool, OSError | None]:
        """Return a spool that can be written, and why it is not the default one, if it is not."""
        spool = cls.default()
        try:
            spool.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=spool.root):
                pass
        except OSError as error:
            return cls(Path(tempfile.mkdtemp(prefix="mlflow_ckpt_spool_"))), error
        return spool, None

    @contextmanager
    def draft(self, run_id: str, *, beside: Path | None = None) -> Iterator[Draft]:
        """Give a place to write an entry to; what is not committed is removed.

        Args:
            run_id: The run that it belongs to.
            beside: Directory, on the disk of the files' goal, to put the files in; in the spool
                itself if None.

        Raises:
            OSError: If the disk is full or cannot be written.
        """
        token = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        path = self._directory(run_id) / f"{token}{_DRAFT}"
        files = path / FILES if beside is None else beside / f".{token}"
        lock = locks.take_new(path.with_suffix(_LOCK))
        try:
            path.mkdir()
            place = {"host": socket.gethostname(), "files": str(files)}
            (path / _PLACE).write_text(json.dumps(place), encoding="utf-8")
            files.mkdir(parents=True)
            yield Draft(path, files)
        finally:
            shutil.rmtree(path, ignore_errors=True)
            shutil.rmtree(files, ignore_errors=True)
            locks.release(lock, for_good=not path.with_suffix("").exists())

    def put(self, run_id: str, **values: Any) -> Entry:
        """Add an entry without files.

        Args:
            run_id: The run that it belongs to.
            values: Its other attributes but the path.

        Raises:
            OSError: If the disk is full or cannot be written.
        """
        with self.draft(run_id) as draft:
            return draft.commit(run_id=run_id, **values)

    def entries(self, run_id: str | None = None) -> list[Entry]:
        """Return what is to be sent, of one run or of all, oldest first within a run."""
        runs = [self._directory(run_id)] if run_id is not None else disk.subdirectories(self.root)
        paths = [path for run in runs for path in disk.subdirectories(run) if not path.suffix]
        entries = [entry for path in paths if (entry := Entry.read(path)) is not None]
        # Ids of two runs may make one directory.
        return [entry for entry in entries if run_id in (None, entry.run_id)]

    @contextmanager
    def locked(self, entry: Entry) -> Iterator[bool]:
        """Hold an entry while the context lasts: True, or False if another process holds it.

        An entry that is gone was sent by another process: ask `entry.path.exists()`.
        """
        if not entry.path.exists():
            yield True
            return
        try:
            lock = locks.take_free(entry.path.with_suffix(_LOCK))
        except Timeout:
            yield False
            return
        except FileNotFoundError:
            yield True  # the whole directory went with the entry, this moment
            return
        try:
            yield True
        finally:
            gone = not entry.path.exists()
            locks.release(lock, for_good=gone)
            if gone:
                disk.remove_if_empty(entry.path.parent)

    def remove(self, entry: Entry) -> None:
        """Remove an entry that has been sent, in one step; the caller holds it."""
        doomed = entry.path.with_suffix(_DRAFT)
        try:
            entry.path.rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed, ignore_errors=True)

    def sweep(self, run_id: str | None = None) -> None:
        """Remove what processes left behind that died while they wrote.

        A checkpoint that such a process moved to its goal is still to be announced.
        """
        runs = [self._directory(run_id)] if run_id is not None else disk.subdirectories(self.root)
        for run in runs:
            for draft in disk.subdirectories(run):
                if draft.suffix == _DRAFT:
                    self._sweep_draft(draft)
            for lock in disk.files(run, _LOCK):
                if not (lock.with_suffix("").exists() or lock.with_suffix(_DRAFT).exists()):
                    locks.unlink_if_free(lock)
            disk.remove_if_empty(run)

    def _sweep_draft(self, draft: Path) -> None:
        host, beside = _place_of(draft)
        if host != socket.gethostname():
            return  # where several machines share a disk, not all of them see each other's locks
        try:
            lock = locks.take_free(draft.with_suffix(_LOCK))
        except (FileNotFoundError, Timeout):
            return  # its directory went, or its process lives
        try:
            if beside is not None and not beside.exists() and Entry.read(draft) is not None:
                draft.rename(draft.with_suffix(""))
                return
            if beside is not None:
                shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(draft, ignore_errors=True)
        finally:
            locks.release(lock, for_good=not draft.with_suffix("").exists())

    def _directory(self, run_id: str) -> Path:
        # A run id is the server's affair; a path must not come of it.
        return self.root / re.sub(r"[^\w-]", "_", run_id)


def platform_root() -> Path:
    """Return the directory of the spool where the environment names none."""
    return platformdirs.user_cache_path("mlflow_ckpt") / "spool"


def _place_of(draft: Path) -> tuple[str, Path | None]:
    """Return the machine that writes a draft, and where its files are if not in the draft."""
    try:
        place = json.loads((draft / _PLACE).read_bytes())
        host, files = str(place["host"]), Path(place["files"])
    except (OSError, LookupError, TypeError, ValueError):
        return socket.gethostname(), None
    # Written by ourselves, and still: never remove what is not a draft of ours.
    return host, files if files.name == f".{draft.stem}" else None
