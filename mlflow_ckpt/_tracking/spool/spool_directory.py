"""The spool: data on this machine's disk that the tracking server has not confirmed yet.

    <spool>/<run id>/<token>/entry.json     the entry: content and destination
    <spool>/<run id>/<token>/files/         a checkpoint's files, including the manifest
    <spool>/<run id>/<token>.draft/         the same while it is being written
    <spool>/<run id>/<token>.lock           held by the process that writes or sends the entry

Only this user has access to any of it, and nothing is followed, sent or removed that another user
may have put there.

An entry appears by one rename, once all of it has reached the disk. The operating system releases
the locks of a dead process, which distinguishes its leftovers from entries in use.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs
from filelock import Timeout

from mlflow_ckpt._shown.escaping import Logger
from mlflow_ckpt._tracking.spool import disk, locks
from mlflow_ckpt._tracking.spool.drafts import Draft
from mlflow_ckpt._tracking.spool.entries import FILES, Entry

ENVIRONMENT_VARIABLE = "MLFLOW_CKPT_SPOOL"

_DRAFT = ".draft"
_LOCK = ".lock"
_LOCATION = "place.json"
_TOKEN = re.compile(r"\d{20}-[0-9a-f]{8}")
_logger = Logger(__name__)


class Spool:
    """The spool in one directory.

    Attributes:
        root: The directory.
        is_temporary: Whether it replaces one that cannot be written; no `flush` looks there unless
            it is told to.
    """

    def __init__(self, root: Path, *, is_temporary: bool = False) -> None:
        self.root = root
        self.is_temporary = is_temporary
        self._is_protected = False

    @classmethod
    def default(cls) -> Spool:
        """Return this machine's spool: `MLFLOW_CKPT_SPOOL`, or the platform's cache directory."""
        root = os.environ.get(ENVIRONMENT_VARIABLE)
        return cls(Path(root).expanduser().absolute() if root else platform_root())

    @classmethod
    def usable(cls) -> tuple[Spool, OSError | None]:
        """Return a writable spool, and the error of the default one if that is not writable."""
        spool = cls.default()
        try:
            spool.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=spool.root):
                pass
        except OSError as error:
            return cls.temporary(), error
        return spool, None

    @classmethod
    def temporary(cls) -> Spool:
        """Return a new spool in a temporary directory."""
        return cls(Path(tempfile.mkdtemp(prefix="mlflow_ckpt_spool_")), is_temporary=True)

    @contextmanager
    def draft(self, run_id: str, *, beside: Path | None = None) -> Iterator[Draft]:
        """Yield a draft to write an entry to, and remove it unless it is committed.

        Args:
            run_id: The run that the entry belongs to.
            beside: Parent directory for the files, on the disk of their target; None for the spool.

        Raises:
            OSError: If the disk is full or not writable.
        """
        token = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        self._require_own(self._directory(run_id))
        path = self._directory(run_id) / f"{token}{_DRAFT}"
        files = path / FILES if beside is None else beside / f".{token}"
        lock = locks.take_new(path.with_suffix(_LOCK))
        try:
            path.mkdir(mode=0o700)
            location = {"host": socket.gethostname(), "files": str(files)}
            (path / _LOCATION).write_text(json.dumps(location), encoding="utf-8")
            disk.make_private(path)
            files.mkdir(parents=True)
            yield Draft(path, files)
        finally:
            shutil.rmtree(path, ignore_errors=True)
            shutil.rmtree(files, ignore_errors=True)
            locks.release(lock, for_good=not path.with_suffix("").exists())

    def put(self, run_id: str, **values: Any) -> Entry:
        """Add an entry without files.

        Raises:
            OSError: If the disk is full or not writable.
        """
        with self.draft(run_id) as draft:
            return draft.commit(run_id=run_id, **values)

    def entries(self, run_id: str | None = None) -> list[Entry]:
        """Return the entries of one run, or of all, oldest first within a run."""
        runs = self._runs(run_id)
        paths = [path for run in runs for path in disk.subdirectories(run) if not path.suffix]
        own = [path for path in paths if _is_own(path)]
        entries = [entry for path in own if (entry := Entry.read(path)) is not None]
        # Different run ids may map to one directory.
        return [entry for entry in entries if run_id in (None, entry.run_id)]

    @contextmanager
    def locked(self, entry: Entry) -> Iterator[bool]:
        """Lock an entry for the duration of the context; yield False if another process holds it.

        Yields True for an entry that another process has sent: check `entry.path.exists()`.
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
            yield True  # the run's directory was removed meanwhile
            return
        try:
            yield True
        finally:
            sent = not entry.path.exists()
            locks.release(lock, for_good=sent)
            if sent:
                disk.remove_if_empty(entry.path.parent)

    def remove(self, entry: Entry) -> None:
        """Remove a sent entry atomically. The caller holds its lock."""
        draft = entry.path.with_suffix(_DRAFT)
        try:
            entry.path.rename(draft)
        except FileNotFoundError:
            return
        shutil.rmtree(draft, ignore_errors=True)

    def sweep(self, run_id: str | None = None) -> None:
        """Remove the drafts of processes that died while writing.

        A draft whose files had already been moved to the run becomes an entry, to be announced.
        """
        for run in self._runs(run_id):
            for draft in disk.subdirectories(run):
                is_draft = draft.suffix == _DRAFT and _TOKEN.fullmatch(draft.stem)
                if is_draft and _is_own(draft):
                    self._sweep_draft(draft)
            for lock in disk.files(run, _LOCK):
                if not (lock.with_suffix("").exists() or lock.with_suffix(_DRAFT).exists()):
                    locks.unlink_if_free(lock)
            disk.remove_if_empty(run)

    def _sweep_draft(self, draft: Path) -> None:
        host, files = _read_location(draft)
        if host != socket.gethostname():
            return  # locks may not work across machines that share a disk
        try:
            lock = locks.take_free(draft.with_suffix(_LOCK))
        except (FileNotFoundError, Timeout):
            return  # its directory was removed, or its process is alive
        try:
            if files is not None and not files.exists() and Entry.read(draft) is not None:
                draft.rename(draft.with_suffix(""))
                return
            if files is not None:
                shutil.rmtree(files, ignore_errors=True)
            shutil.rmtree(draft, ignore_errors=True)
        finally:
            locks.release(lock, for_good=not draft.with_suffix("").exists())

    def _runs(self, run_id: str | None) -> list[Path]:
        """Return the directories of one run, or of all, that nobody else can have written."""
        self._protect()
        runs = [self._directory(run_id)] if run_id is not None else disk.subdirectories(self.root)
        return [run for run in runs if _is_own(run)]

    def _protect(self) -> None:
        """Deny others access, once: an older version of this package made the spool.

        What else is in its directory, which a user may have chosen for other things too, is left
        as it is.
        """
        if self._is_protected:
            return
        self._is_protected = True
        with suppress(OSError):
            runs = {run: _written_in(run) for run in self.root.iterdir()}
            for run, written in runs.items():
                for path in written:
                    disk.make_private(path)
                if written:
                    disk.deny_others(run)
            if runs and all(runs.values()):
                disk.deny_others(self.root)

    def _require_own(self, run: Path) -> None:
        """Make a run's directory, unless it exists, and check that it is this user's alone.

        Raises:
            OSError: If it is not, or if the disk is full or not writable.
        """
        self._protect()
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # what sent its last entry removed it
            with suppress(FileExistsError):  # raised too if it is removed at this moment
                run.mkdir(mode=0o700, exist_ok=True)
            reason = disk.reason_against(run, is_dir=True)
            if reason is not None:
                raise PermissionError(errno.EPERM, f"Not used, because {reason}", str(run))

    def _directory(self, run_id: str) -> Path:
        # The server chooses run ids, so they must not be used as paths unchecked.
        return self.root / re.sub(r"[^\w-]", "_", run_id)


def _written_in(run: Path) -> list[Path]:
    """Return what the spool wrote into a directory; none if it is a link, or cannot be read."""
    try:
        written = [path for path in run.iterdir() if _TOKEN.fullmatch(path.stem)]
    except OSError:
        return []  # no directory, or another user's
    return [] if run.is_symlink() else written


def platform_root() -> Path:
    """Return the default directory of the spool."""
    return platformdirs.user_cache_path("mlflow_ckpt") / "spool"


def _read_location(draft: Path) -> tuple[str, Path | None]:
    """Return the host that writes a draft, and its files' directory if outside the draft.

    The file may be altered, and what it names will be removed. So it must name a directory of this
    user's that has the name of this draft, which no other directory has.
    """
    try:
        location = json.loads((draft / _LOCATION).read_bytes())
        host, files = str(location["host"]), Path(location["files"])
    except (OSError, LookupError, RecursionError, TypeError, ValueError):
        return socket.gethostname(), None
    if files.name != f".{draft.stem}" or not _TOKEN.fullmatch(draft.stem):
        return host, None
    try:
        # Among a run's artifacts, where a group may be allowed to write.
        return host, files if disk.is_own_directory(files) else None
    except OSError:
        return host, files  # it was moved to the run


def _is_own(path: Path) -> bool:
    """Whether nobody else can have written a directory of the spool; log it if somebody can."""
    try:
        reason = disk.reason_against(path, is_dir=True)
    except OSError:
        return False  # it was removed meanwhile
    if reason is not None:
        _logger.warning(
            "%s in the spool is left alone, because %s. If it is yours, give it to this user alone "
            "(chown, chmod go-rwx), else delete it.",
            *(path, reason),
        )
    return reason is None
