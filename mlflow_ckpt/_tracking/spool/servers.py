"""The servers that this user named: entries of the spool are sent to no others.

An entry names its server without credentials, and whoever sends it may have some, which another
server must not get. So a training notes its server in a file of the user's, outside of the spool.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import mlflow
import platformdirs

from mlflow_ckpt._shown.escaping import redacted
from mlflow_ckpt._tracking.spool import disk
from mlflow_ckpt._tracking.store import absolute

_noted: set[tuple[Path, str]] = set()


def is_same(one: str, other: str) -> bool:
    """Whether two URIs name the same server, whatever credentials they hold."""
    return redacted(one).rstrip("/") == redacted(other).rstrip("/")


def note(uri: str) -> None:
    """Note the server of a training, so that its entries may be sent to it later."""
    path, line = _path(), redacted(uri)
    if (path, line) in _noted:
        return
    # Where there is no place for it, the server has to be named again.
    with suppress(OSError):
        if line not in _read(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(path, flags, 0o600)
            try:
                os.write(descriptor, f"{line}\n".encode())
            finally:
                os.close(descriptor)
        _noted.add((path, line))


def address_of(uri: str) -> str | None:
    """Return the URI to send an entry to, with credentials; None if the user never named it.

    Args:
        uri: The server that the entry names.
    """
    current = absolute(mlflow.get_tracking_uri())
    if is_same(uri, current):
        return current
    return uri if any(is_same(uri, line) for line in _read(_path())) else None


def _path() -> Path:
    return platformdirs.user_state_path("mlflow_ckpt") / "servers"


def _read(path: Path) -> list[str]:
    """Return the noted servers; none if the file is not this user's alone."""
    try:
        if disk.reason_against(path, is_dir=False) is not None:
            return []
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
