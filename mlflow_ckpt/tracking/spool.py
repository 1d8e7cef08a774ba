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
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from mlflow_ckpt.errors import ManifestError, OutputError
from mlflow_ckpt.format import layout
from mlflow_ckpt.format.manifest import Manifest

ENVIRONMENT_VARIABLE = "MLFLOW_CKPT_SPOOL"

CHECKPOINT = "checkpoint"
ANNOUNCEMENT = "announcement"
METRICS = "metrics"
TAGS = "tags"
STATUS = "status"
RECORDS = (METRICS, TAGS, STATUS)

_logger = logging.getLogger(__name__)
_SCHEMA_VERSION = 1
_ENTRY = "entry.json"
_FILES = "files"
_DRAFT = ".draft"
_LOCK = ".lock"
_PLACE = "place.json"
_TRIES = 200


@dataclass(frozen=True)
class Entry:
    """Something that is still to be sent.

    Attributes:
        path: Its directory in the spool.
        kind: `"checkpoint"` (files to upload), `"announcement"` (of a checkpoint that lies in its
            place already, on local disk), `"metrics"`, `"tags"` or `"status"`.
        run_id: The run that it belongs to.
        tracking_uri: The server of that run.
        name: The checkpoint, such as `epoch_0003`; empty for what is none.
        metrics: For metrics: values by name.
        step: For metrics: the x axis of MLflow's charts.
        timestamp: For metrics and a status: milliseconds since the epoch of Unix.
        tags: For tags: values by name.
        status: For a status: what the run ended as, such as `"KILLED"`.
    """

    path: Path
    kind: str
    run_id: str
    tracking_uri: str
    name: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    timestamp: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    status: str = ""

    @property
    def token(self) -> str:
        """What tells this entry from every other, on every machine."""
        return self.path.name

    @property
    def files(self) -> Path:
        """Directory of a checkpoint's files."""
        return self.path / _FILES

    @property
    def label(self) -> str:
        """What a person would call it."""
        return self.name or (f"metrics of step {self.step}" if self.kind == METRICS else self.kind)

    @property
    def size(self) -> int:
        """Bytes of its files; fewer where another process has sent it and removes it just now."""
        files = (Path(root) / name for root, _, names in os.walk(self.files) for name in names)
        return sum(_size(file) for file in files)

    def manifest(self) -> Manifest:
        """Read the manifest of a checkpoint.

        Raises:
            ManifestError: If it was altered or removed.
        """
        try:
            text = (self.files / layout.MANIFEST).read_bytes()
        except OSError as error:
            raise ManifestError(
                f"The spool's copy of {self.name} cannot be read: {error}."
            ) from error
        return Manifest.from_json(text)

    def to_json(self) -> str:
        """Return the text of `entry.json`."""
        content = {
            "schema_version": _SCHEMA_VERSION,
            "kind": self.kind,
            "run_id": self.run_id,
            "tracking_uri": self.tracking_uri,
            "name": self.name,
            "metrics": dict(self.metrics),
            "step": self.step,
            "timestamp": self.timestamp,
            "tags": dict(self.tags),
            "status": self.status,
        }
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> Entry | None:
        """Read the entry in a directory; None if it is gone, or none that this version can send."""
        try:
            content = json.loads((path / _ENTRY).read_bytes())
            if content.pop("schema_version") <= _SCHEMA_VERSION:
                return cls(path=path, **content)
        except FileNotFoundError:
            return None
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            _logger.warning("%s is left alone, because it cannot be read: %s", path, error)
            return None
        _logger.warning("%s is left alone, because a newer mlflow_ckpt wrote it.", path)
        return None


class Draft:
    """An entry that is being written.

    Attributes:
        files: An empty directory for a checkpoint's files.
    """

    def __init__(self, path: Path, files: Path) -> None:
        self.path = path
        self.files = files

    def commit(self, **values: Any) -> Entry:
        """Make it an entry, once all of it has reached the disk.

        Args:
            values: Attributes of the entry but its path.
        """
        entry = self._describe(values)
        self._rename(entry)
        return entry

    def place(self, goal: Path, **values: Any) -> Entry:
        """Move the files to their goal in one step, and make the rest an entry that tells of them.

        Args:
            goal: A directory that does not exist, on the same disk.
            values: Attributes of the entry but its path.

        Raises:
            FileExistsError: If the goal exists and holds something.
            OSError: If the disk fails.
        """
        sync(self.files)
        # Before the move: a sweep makes it an entry if this process dies in between.
        entry = self._describe(values)
        try:
            self.files.rename(goal)
        except OSError as error:
            if goal.is_dir():
                raise FileExistsError(error.errno, error.strerror, str(goal)) from error
            raise
        _sync_directory(goal.parent)
        self._rename(entry)
        return entry

    def _describe(self, values: Mapping[str, Any]) -> Entry:
        entry = Entry(path=self.path.with_suffix(""), **values)
        (self.path / _ENTRY).write_text(entry.to_json(), encoding="utf-8")
        sync(self.path)
        return entry

    def _rename(self, entry: Entry) -> None:
        self.path.rename(entry.path)
        _sync_directory(entry.path.parent)
        _sync_directory(entry.path.parent.parent)


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
        files = path / _FILES if beside is None else beside / f".{token}"
        lock = _new_lock(path.with_suffix(_LOCK))
        try:
            path.mkdir()
            place = {"host": socket.gethostname(), "files": str(files)}
            (path / _PLACE).write_text(json.dumps(place), encoding="utf-8")
            files.mkdir(parents=True)
            yield Draft(path, files)
        finally:
            shutil.rmtree(path, ignore_errors=True)
            shutil.rmtree(files, ignore_errors=True)
            _release(lock, for_good=not path.with_suffix("").exists())

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
        runs = [self._directory(run_id)] if run_id is not None else _children(self.root)
        paths = [path for run in runs for path in _children(run) if not path.suffix]
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
        lock = FileLock(entry.path.with_suffix(_LOCK))
        try:
            lock.acquire(blocking=False)
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
            _release(lock, for_good=gone)
            if gone:
                _remove_if_empty(entry.path.parent)

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
        runs = [self._directory(run_id)] if run_id is not None else _children(self.root)
        for run in runs:
            for draft in _children(run):
                if draft.suffix == _DRAFT:
                    self._sweep_draft(draft)
            for lock in run.glob(f"*{_LOCK}"):
                if not (lock.with_suffix("").exists() or lock.with_suffix(_DRAFT).exists()):
                    _unlink_if_free(lock)
            _remove_if_empty(run)

    def _sweep_draft(self, draft: Path) -> None:
        host, beside = _place_of(draft)
        if host != socket.gethostname():
            return  # where several machines share a disk, not all of them see each other's locks
        lock = FileLock(draft.with_suffix(_LOCK))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return
        try:
            if beside is not None and not beside.exists() and Entry.read(draft) is not None:
                draft.rename(draft.with_suffix(""))
                return
            if beside is not None:
                shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(draft, ignore_errors=True)
        finally:
            _release(lock, for_good=not draft.with_suffix("").exists())

    def _directory(self, run_id: str) -> Path:
        # A run id is the server's affair; a path must not come of it.
        return self.root / re.sub(r"[^\w-]", "_", run_id)


def platform_root() -> Path:
    """Return the directory of the spool where the environment names none."""
    return platformdirs.user_cache_path("mlflow_ckpt") / "spool"


def sync(directory: Path) -> None:
    """Wait until all files below a directory have reached the disk."""
    for root, _, names in os.walk(directory):
        for name in names:
            with (Path(root) / name).open("rb+") as file:
                os.fsync(file.fileno())
        _sync_directory(Path(root))


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":
        return  # Windows has no handle of a directory to wait for
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        # Some network file systems know no such thing, and keep their own order.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise OutputError(f"The spool {directory} cannot be read: {error}.") from error


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        return  # it is not, or another process was quicker


def _place_of(draft: Path) -> tuple[str, Path | None]:
    """Return the machine that writes a draft, and where its files are if not in the draft."""
    try:
        place = json.loads((draft / _PLACE).read_bytes())
        host, files = str(place["host"]), Path(place["files"])
    except (OSError, LookupError, TypeError, ValueError):
        return socket.gethostname(), None
    # Written by ourselves, and still: never remove what is not a draft of ours.
    return host, files if files.name == f".{draft.stem}" else None


def _unlink_if_free(lock_file: Path) -> None:
    lock = FileLock(lock_file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return
    _release(lock, for_good=True)


def _new_lock(path: Path) -> FileLock:
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


def _release(lock: FileLock, *, for_good: bool) -> None:
    """Release a lock; for good, together with its file.

    The file goes while the lock is held: afterwards it may be another process's lock.
    """
    # On Windows, the file cannot go while it is open, and filelock removes it.
    if for_good and os.name != "nt":
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
