"""Downloads a directory of artifacts and reports the progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from threading import Thread

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest, safe_path
from mlflow_ckpt._format.signing.trust import LARGEST_SIGNATURE
from mlflow_ckpt._format.untrusted import regular_file
from mlflow_ckpt._tracking.store import RunStore, StoredFile
from mlflow_ckpt.errors import UnsafeFileError

# Stores report no progress within a file, so its size is polled while it grows.
_POLL_SECONDS = 0.1
# What a download may be ahead of the limit before it is given up.
_CHUNK = 4 << 20
# Of a file that takes no space on the disk.
_LARGEST = 1 << 40
# Called with bytes done and total bytes.
Progress = Callable[[int, int], None]


def download(
    store: RunStore,
    path: str,
    directory: Path,
    progress: Progress | None,
    manifest: Manifest | None = None,
) -> None:
    """Download the files of a run below a path, each as far as its size goes.

    Args:
        store: The run.
        path: Run-relative path of a directory.
        directory: The target directory.
        progress: Called with bytes done and total bytes.
        manifest: Tells the files and their sizes. Of a file that is larger than it says, the
            beginning is downloaded; of one that it does not list, nothing: the file is empty. If
            None, the listing tells the sizes.

    Raises:
        TrackingError: If the store fails.
        UnsafeFileError: If a file is larger than the listing says, or the listing does not end.
        ManifestError: If a path in the store's listing leads out of the directory.
    """
    show = progress or (lambda _, __: None)
    items = list(store.walk(path))
    sizes = None if manifest is None else _sizes(manifest)
    total = sum(item.size or 0 for item in items)
    done = 0
    for item in items:
        # The store's listing is untrusted: it must not lead out of the directory.
        target = directory / safe_path(_inside(item, path))
        target.parent.mkdir(parents=True, exist_ok=True)
        most = _expected(item, path, sizes)
        try:
            for size in _downloading(store, item.path, target, most):
                show(done + size, total)
        except UnsafeFileError:
            if sizes is None:
                raise
            # Verification will find it, and tell its size.
            os.truncate(target, max(min(item.size or 0, _LARGEST), target.stat().st_size))
        done += item.size or 0
        show(done, total)


def _sizes(manifest: Manifest) -> dict[str, int]:
    sizes = {entry.path: entry.size for entry in manifest.files}
    return {
        **sizes,
        layout.MANIFEST: regular_file.MOST_TEXT,
        layout.SIGNATURE: LARGEST_SIGNATURE,
    }


def _inside(item: StoredFile, path: str) -> str:
    return str(PurePosixPath(item.path).relative_to(path))


def _expected(item: StoredFile, path: str, sizes: Mapping[str, int] | None) -> int | None:
    """Return how many bytes to download of a file; None if unknown."""
    return item.size if sizes is None else sizes.get(_inside(item, path), 0)


def _downloading(store: RunStore, path: str, target: Path, most: int | None) -> Iterator[int]:
    """Download one file of at most so many bytes, and yield its size while it grows."""
    if most == 0:
        target.touch()
        return
    failures: list[Exception] = []

    def fetch() -> None:
        try:
            store.download(path, target, most)
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)

    # A daemon, so that Ctrl-C does not wait for the rest of a large file.
    thread = Thread(target=fetch, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        size = target.stat().st_size if target.exists() else 0
        if most is not None and size > most + _CHUNK:
            # Not every store can be told to stop: what more it sends is not looked at.
            raise UnsafeFileError(f"The artifact store sends more of {path} than {most} bytes.")
        yield size
    if failures:
        raise failures[0]
