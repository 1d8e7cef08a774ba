"""Claims: which process uploads a checkpoint (docs/format.md).

Through MLflow, no artifact store creates a file only if it does not exist. So an uploading process
first writes a claim file into the checkpoint's directory, and continues only if there is no other
claim. It rewrites the claim while it uploads: one that changes no more is a dead process's.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.untrusted import fields, json_text
from mlflow_ckpt._tracking import index, visibility
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import (
    CheckpointBusyError,
    MlflowCkptError,
    TrackingError,
)

# Seconds between two heartbeats of an upload, and after which a claim without one is dead.
BEAT_SECONDS = 30.0
DEAD_SECONDS = 150.0
# Age at which a claim without heartbeats, as earlier versions write them, expires.
_EXPIRY_SECONDS = 3600


class ClaimUndecidedError(CheckpointBusyError):
    """Another process holds a claim, and whether it lives is known within `DEAD_SECONDS`."""


class Claim:
    """This process's claim to the directory of a checkpoint.

    Args:
        store: The run.
        name: The checkpoint's name.
        token: Identifies the upload; the same on every attempt, from any process.

    Attributes:
        path: Run-relative path of its file.
    """

    def __init__(self, store: RunStore, name: str, token: str) -> None:
        self.path = f"{layout.artifact_path(name)}/{layout.claim_name(token)}"
        self._store = store
        self._name = name
        self._beat = 0
        self._changing = threading.Lock()
        self._over = threading.Event()

    def take(self) -> None:
        """Claim the directory.

        Raises:
            CheckpointBusyError: If another process has claimed it.
            TrackingError: If the server or the store fails, or loses what is written to it.
        """
        self._refuse_others()
        self._write()
        if not self._store.is_listed and not self._store.exists(self.path):
            raise visibility.unlisted_error(self._store, self.path)
        try:
            # Again: if two processes looked before either wrote its claim, both give up now.
            self._refuse_others()
        except CheckpointBusyError:
            self.withdraw()
            raise

    def require(self) -> None:
        """Check that no other process took over because it considered this one dead.

        Raises:
            CheckpointBusyError: If one did.
        """
        claims = _claims(self._store, self._name)
        if self.path not in claims:
            raise _busy_error(self._store.run_id, self._name, "that took over", is_alive=True)
        self._refuse(claims)

    def withdraw(self) -> None:
        """Delete the claim; if that fails, readers ignore it and it expires."""
        _delete(self._store, self.path)

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Rewrite the claim from time to time, for the duration of the context."""
        thread = threading.Thread(target=self._keep_alive, name="mlflow_ckpt claim", daemon=True)
        with suppress(RuntimeError):  # Python is shutting down: the upload may still be in time
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            with self._changing:  # so that a late heartbeat does not write it again
                pass

    def _keep_alive(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            # Not even a retry of MLflow's may happen here, whose waits draw from Python's `random`.
            with self._changing, suppress(MlflowCkptError, OSError):
                alive = not self._over.is_set() and self._store.answers()
                if alive and self._store.exists(self.path):
                    self._write()

    def _write(self) -> None:
        self._beat += 1
        content = {**_process(), "time": time.time(), "beat": self._beat}
        self._store.write_text(self.path, json.dumps(content))

    def _refuse_others(self) -> None:
        self._refuse(_claims(self._store, self._name))

    def _refuse(self, claims: Sequence[str]) -> None:
        for path in claims:
            holder = None if path == self.path else _holder(self._store, path)
            if holder is not None:
                raise _busy_error(
                    self._store.run_id, self._name, holder.process, is_alive=holder.is_alive
                )


def end_all(store: RunStore) -> None:
    """Withdraw the claims that an earlier training left in a run, which is over.

    Its process, if it lives after all, notices before it completes a checkpoint. Claims of live
    processes on this machine stay.

    Raises:
        TrackingError: If the server or the store fails.
    """
    names = index.checkpoint_names(store.list(layout.CHECKPOINTS_DIR))
    complete = index.read(store) if names else {}
    for name in names:
        for path in _claims(store, name) if name not in complete else ():
            content = _parse(store.read(path) or b"")
            if not (_is_here(content) and _is_alive(content["pid"])):
                _delete(store, path)


def _claims(store: RunStore, name: str) -> list[str]:
    listed = store.list(layout.artifact_path(name))
    return [item.path for item in listed if layout.is_claim(item.name)]


def _delete(store: RunStore, path: str) -> None:
    with suppress(TrackingError):
        store.delete(path)


def _busy_error(run_id: str, name: str, process: str, *, is_alive: bool) -> CheckpointBusyError:
    kind = CheckpointBusyError if is_alive else ClaimUndecidedError
    doubt = "" if is_alive else f", or died at it less than {DEAD_SECONDS:.0f} seconds ago"
    return kind(
        f"The process {process} is also saving the checkpoint {name} of run {run_id}{doubt}. "
        "Let only one process at a time train in a run.",
        run_id=run_id,
        name=name,
    )


# --- whose claim it is, and whether that process lives -------------------------------------------


@dataclass(frozen=True)
class _Holder:
    process: str
    is_alive: bool


@dataclass(frozen=True)
class _Sighting:
    """A claim as this process read it first.

    Attributes:
        text: Its content.
        since: When, on this process's own clock: that of another host may differ.
        has_changed: Whether its content was another one before.
    """

    text: bytes
    since: float
    has_changed: bool


# By run and path.
_sightings: dict[tuple[str, str], _Sighting] = {}


def _holder(store: RunStore, path: str) -> _Holder | None:
    """Return the process that holds a claim; None if it has ended or the claim has expired."""
    text = store.read(path)
    if text is None:
        _sightings.pop((store.run_id, path), None)
        return None
    content, now = _parse(text), time.monotonic()
    sighting = _see(store.run_id, path, text, now)
    is_unchanged = now - sighting.since > DEAD_SECONDS
    if not content:
        # Stores may show a file before it is complete.
        is_new = _has_young_token(path) and not is_unchanged
        return _Holder(f"of {path}", is_alive=True) if is_new else None
    here = _is_here(content)
    if here and not _is_alive(content["pid"]):
        return None
    process = f"{content['pid']} on {content['host']}"
    if content["beat"] is None:
        is_old = time.time() - content["time"] > _EXPIRY_SECONDS
        return None if is_old else _Holder(process, is_alive=True)
    if is_unchanged:
        return None
    return _Holder(process, is_alive=here or sighting.has_changed)


# Larger than any that a system gives.
_LARGEST_PID = 2**30


def _see(run_id: str, path: str, text: bytes, now: float) -> _Sighting:
    before = _sightings.get((run_id, path))
    if before is not None and before.text == text:
        return before
    sighting = _Sighting(text, now, has_changed=before is not None)
    _sightings[run_id, path] = sighting
    return sighting


def _parse(text: bytes) -> dict[str, Any]:
    """Return the content of a claim; empty if it is not complete."""
    try:
        content = json_text.parse(text)
        return {
            "host": fields.text(content["host"]),
            "pid": min(fields.count(content["pid"]), _LARGEST_PID),
            "namespace": fields.optional(fields.text, content.get("namespace")),
            "time": fields.number(content["time"]),
            "beat": fields.optional(fields.count, content.get("beat")),
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _process() -> dict[str, Any]:
    """Return what identifies this process to others."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "namespace": _namespace()}


def _namespace() -> str | None:
    """Return what process ids are unique in: a boot of a machine, and a container.

    Hosts' names are not: a pod that is restarted has the name, and often the process ids, of the
    one that died.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return None


def _is_here(content: dict[str, Any]) -> bool:
    """Whether a claim's process id tells, on this machine, whether the process lives."""
    if content.get("host") != socket.gethostname():
        return False
    return content["namespace"] in (None, _namespace())


def _has_young_token(path: str) -> bool:
    """Whether the timestamp in a claim's name is recent."""
    match = re.search(r"upload-(\d+)-", path)
    return match is not None and time.time() - int(match[1]) / 1e9 < _EXPIRY_SECONDS


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # on Windows, signal 0 would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
