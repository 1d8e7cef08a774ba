"""Downloads a directory of artifacts, and tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from threading import Thread

from mlflow_ckpt._format.manifest import safe_path
from mlflow_ckpt._tracking.store import RunStore

# Stores give no progress within a file; the file that grows does.
_WATCH_SECONDS = 0.1
Progress = Callable[[int, int], None]


def download(store: RunStore, path: str, directory: Path, progress: Progress | None) -> None:
    """Download all that a run has below a path, listed in a manifest or not.

    Args:
        store: The run.
        path: Run-relative path of a directory.
        directory: Where the files go.
        progress: Called with bytes done and bytes in all.

    Raises:
        TrackingError: If the store fails.
        ManifestError: If the store's listing leads out of the directory.
    """
    tell = progress or _silent
    items = list(store.walk(path))
    total = sum(item.size or 0 for item in items)
    done = 0
    for item in items:
        inside = PurePosixPath(item.path).relative_to(path)
        # The store's listing is not ours: it must not lead out of the directory.
        target = directory / safe_path(str(inside))
        target.parent.mkdir(parents=True, exist_ok=True)
        for size in _downloading(store, item.path, target):
            tell(done + size, total)
        done += item.size or 0
        tell(done, total)


def _downloading(store: RunStore, path: str, target: Path) -> Iterator[int]:
    """Download one file, and yield how much of it is there while it grows."""
    failures: list[Exception] = []

    def fetch() -> None:
        try:
            store.download(path, target)
        except Exception as error:  # noqa: BLE001 - raised again below, for the caller
            failures.append(error)

    # A daemon: Ctrl-C need not wait for the rest of a large file.
    thread = Thread(target=fetch, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_WATCH_SECONDS)
        yield target.stat().st_size if target.exists() else 0
    if failures:
        raise failures[0]


def _silent(done: int, total: int) -> None:
    """Take progress and show nothing."""
