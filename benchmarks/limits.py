"""Measures the machine's limits for a model's state, which no way of saving can beat."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = list[npt.NDArray[Any]]

# A small state is measured repeatedly, because of the clock's resolution and the caches.
_SMALL_BYTES = 32_000_000
_REPEATS = 9


def measure_limits(state: Arrays, directory: Path) -> dict[str, float]:
    """Measure how long basic operations on the bytes of `state` take.

    Args:
        state: Arrays in host memory.
        directory: A directory on the store's disk.

    Returns:
        Seconds by operation.
    """
    buffers = [np.zeros_like(array) for array in state]
    views = [array.reshape(-1).view(np.uint8).data for array in state]
    repeats = _REPEATS if sum(array.nbytes for array in state) < _SMALL_BYTES else 1

    def copy() -> None:
        for array, buffer in zip(state, buffers, strict=True):
            np.copyto(buffer, array)

    def hash_all() -> None:
        digest = hashlib.sha256()
        for view in views:
            digest.update(view)

    def checksum() -> None:
        value = 0
        for view in views:
            value = zlib.crc32(view, value)

    operations: dict[str, Callable[[], None]] = {
        "copy to a warm buffer": copy,
        "write to a file": lambda: _write(views, directory, sync=False),
        "write to a file and fsync": lambda: _write(views, directory, sync=True),
        "SHA-256": hash_all,
        "CRC-32": checksum,
    }
    return {
        name: statistics.median(_seconds(operation, directory) for _ in range(repeats))
        for name, operation in operations.items()
    }


def _write(views: list[memoryview], directory: Path, *, sync: bool) -> None:
    with (directory / "state.bin").open("wb", buffering=0) as file:
        for view in views:
            rest = view
            while rest:
                rest = rest[file.write(rest) :]
        if sync:
            os.fsync(file.fileno())


def _seconds(operation: Callable[[], None], directory: Path) -> float:
    """Return the seconds of an operation, after a first call that warms up memory and disk."""
    operation()
    (directory / "state.bin").unlink(missing_ok=True)
    started = time.perf_counter()
    operation()
    seconds = time.perf_counter() - started
    (directory / "state.bin").unlink(missing_ok=True)
    return seconds
