"""Write a file or a directory as a whole, or not at all.

Also where others may write, such as /tmp: temporary names cannot be foreseen, and a link is
replaced or refused, never followed.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mlflow_ckpt._tracking.local_files import set_usual_mode
from mlflow_ckpt.errors import MlflowCkptError, OutputError

_PREFIX = ".mlflow_ckpt_"
# Errors of file systems that have no hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def refuse_occupied(target: Path, *, overwrite: bool) -> None:
    """Raise unless a directory may be written to.

    Raises:
        OutputError: If it is a file or a link, or is not empty and must not be overwritten.
    """
    _refuse_link(target)
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


def refuse_special(target: Path) -> None:
    """Raise unless a path is free, or that of a regular file or a link, which can be replaced.

    Raises:
        OutputError: If it is a directory, a device or the like.
    """
    if target.is_dir():
        raise OutputError(f"The output {target} is a directory. Expected the name of a file.")
    if os.path.lexists(target) and not (target.is_symlink() or target.is_file()):
        raise OutputError(f"The output {target} is no file. Expected the name of a regular file.")


@contextmanager
def new_file(target: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Yield a file that gets its name once it is whole.

    Args:
        target: The name. A link of that name is replaced, not followed.
        overwrite: Whether to replace an existing file.

    Raises:
        OutputError: If it cannot be written, or exists and must not be overwritten.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=_PREFIX, suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
            set_usual_mode(temporary)
            _put(temporary, target, overwrite=overwrite)
        finally:
            temporary.unlink(missing_ok=True)
    except MlflowCkptError:
        # Some of the package's errors are OSErrors too.
        raise
    except OSError as error:
        raise OutputError(f"The output file {target} cannot be written: {error}.") from error


def _put(temporary: Path, target: Path, *, overwrite: bool) -> None:
    if not overwrite:
        try:
            os.link(temporary, target)  # fails if it exists
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        else:
            return
    temporary.replace(target)


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Yield a temporary directory on the target's file system.

    Raises:
        OutputError: If it cannot be made or written to.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=_PREFIX, suffix=".tmp"
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
    _refuse_link(target)
    target.mkdir(exist_ok=True)
    for item in staging.iterdir():
        path = target / item.name
        if path.is_symlink():
            raise _in_the_way(path, "no link")
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


def _refuse_link(target: Path) -> None:
    """Raise OutputError if a directory is a link, which somebody else may have made."""
    if target.is_symlink():
        raise OutputError(
            f"The output directory {target} is a link to {target.readlink()}. Name that directory "
            "itself with --output. Nothing was restored."
        )


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
