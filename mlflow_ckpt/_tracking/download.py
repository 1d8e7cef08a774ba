"""Downloads a directory of artifacts and reports the progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from threading import Thread

from mlflow_ckpt._format.manifest import safe_path
from mlflow_ckpt._tracking.store import RunStore

# Stores report no progress within a file, so its size is polled while it grows.
_POLL_SECONDS = 0.1
# Called with bytes done and total bytes.
Progress = Callable[[int, int], None]


def download(store: RunStore, path: str, directory: Path, progress: Progress | None) -> None:
    """Download all files of a run below a path, listed in a manifest or not.

    Args:
        store: The run.
        path: Run-relative path of a directory.
        directory: The target directory.
        progress: Called with bytes done and total bytes.

    Raises:
        TrackingError: If the store fails.
        ManifestError: If a path in the store's listing leads out of the directory.
    """
    show = progress or (lambda _, __: None)
    items = list(store.walk(path))
    total = sum(item.size or 0 for item in items)
    done = 0
    for item in items:
        inside = PurePosixPath(item.path).relative_to(path)
        # The store's listing is untrusted: it must not lead out of the directory.
        target = directory / safe_path(str(inside))
        target.parent.mkdir(parents=True, exist_ok=True)
        for size in _downloading(store, item.path, target):
            show(done + size, total)
        done += item.size or 0
        show(done, total)


def _downloading(store: RunStore, path: str, target: Path) -> Iterator[int]:
    """Download one file, and yield its size while it grows."""
    failures: list[Exception] = []

    def fetch() -> None:
        try:
            store.download(path, target)
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)

    # A daemon, so that Ctrl-C does not wait for the rest of a large file.
    thread = Thread(target=fetch, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        yield target.stat().st_size if target.exists() else 0
    if failures:
        raise failures[0]
