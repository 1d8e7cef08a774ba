"""Write a directory as a whole, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow_ckpt.errors import MlflowCkptError, OutputError


def refuse_occupied(target: Path, *, overwrite: bool) -> None:
    """Raise unless a directory may be written to.

    Raises:
        OutputError: If it is a file, or is not empty and must not be overwritten.
    """
    try:
        is_file, occupied = target.is_file(), target.is_dir() and any(target.iterdir())
    except OSError as error:
        raise OutputError(f"The output directory {target} cannot be used: {error}.") from error
    if is_file:
        raise OutputError(
            f"The output {target} is a file. Expected a directory, or a path that does not exist."
        )
    if occupied and not overwrite:
        raise OutputError(
            f"The output directory {target} exists and is not empty. "
            "Name another with --output, or pass --overwrite to replace files of the same names."
        )


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Yield a temporary directory on the target's file system.

    Raises:
        OutputError: If it cannot be made or written to.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"
        ) as staging:
            yield Path(staging)
    except MlflowCkptError:
        # Some of the package's errors are OSErrors too.
        raise
    except OSError as error:
        raise OutputError(
            f"The output directory {target} cannot be written: {error}. Nothing was restored."
        ) from error


def move(staging: Path, target: Path) -> None:
    """Move everything into place by renames, so that no file is half written.

    Raises:
        OutputError: If a file that must not be replaced is in the way.
    """
    target.mkdir(exist_ok=True)
    for item in staging.iterdir():
        path = target / item.name
        if path.exists() and path.is_dir() != item.is_dir():
            raise _in_the_way(path, "a directory" if item.is_dir() else "a file")
        if strangers := _files_below(path) - _files_below(item):
            raise _in_the_way(path / min(strangers), "only files that are replaced")
    for item in sorted(staging.iterdir()):
        path = target / item.name
        if path.is_dir():
            # A rename cannot replace a directory: move the old one aside, and delete it last.
            path.rename(staging.with_name(f"{staging.name}.{path.name}.old"))
        item.replace(path)
        shutil.rmtree(staging.with_name(f"{staging.name}.{path.name}.old"), ignore_errors=True)


def _files_below(directory: Path) -> set[Path]:
    if not directory.is_dir():
        return set()
    files = {item.relative_to(directory) for item in directory.rglob("*") if item.is_file()}
    # The numbers of a SavedModel's data shards differ between exports.
    return {path for path in files if not path.name.startswith("variables.data-")}


def _in_the_way(path: Path, expected: str) -> OutputError:
    return OutputError(
        f"{path} is in the way. Expected {expected} there. Move it away, or name another "
        "directory with --output. Nothing was restored."
    )
