"""Resources that pytest-xdist workers share: started on first use, ended after all tests."""

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
    """Return the directory that all workers of this test session share."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def started_once(directory: Path, name: str, start: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Start a resource unless a worker already did, and return the result of `start`.

    Args:
        directory: Directory of the test session.
        name: Name of the resource.
        start: Starts the resource in its own process group, and returns JSON values that its users
            need, including the group's id as `"group"`. Without a group, nothing is ended.
    """
    note = directory / f"{name}{_SUFFIX}"
    with FileLock(directory / f"{name}.lock"):
        if not note.exists():
            note.write_text(json.dumps(start()))
        return dict(json.loads(note.read_text()))


def end_all(directory: Path) -> None:
    """End all resources that were started."""
    for note in directory.glob(f"*{_SUFFIX}"):
        group = json.loads(note.read_text()).get("group")
        if group is not None:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        note.unlink()
