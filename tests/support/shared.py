"""What all workers of pytest-xdist share: started by the first that needs it, ended after all."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

_SUFFIX = ".shared.json"


def root(factory: pytest.TempPathFactory) -> Path:
    """Return the directory of this test session, of all its workers."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def started_once(directory: Path, name: str, start: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Start something unless a worker did, and return what `start` returned.

    Args:
        directory: Of the test session.
        name: Of the thing.
        start: Starts it in a process group of its own, whose number it returns as `"group"`, and
            returns with it what users of the thing must know, as JSON can hold it. Without
            a group, there is nothing to end.
    """
    note = directory / f"{name}{_SUFFIX}"
    with FileLock(directory / f"{name}.lock"):
        if not note.exists():
            note.write_text(json.dumps(start()))
        return dict(json.loads(note.read_text()))


def end_all(directory: Path) -> None:
    """End whatever was started."""
    for note in directory.glob(f"*{_SUFFIX}"):
        group = json.loads(note.read_text()).get("group")
        if group is not None:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        note.unlink()
