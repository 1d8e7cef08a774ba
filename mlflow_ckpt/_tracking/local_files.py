"""Files on this machine: removed by another process meanwhile, or on a disk that fails."""

from __future__ import annotations

import errno
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from mlflow_ckpt.errors import OutputError

# Errors of a path that another process removed; the last one, through a network file system.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
_CHUNK = 1 << 20


def is_gone(error: OSError) -> bool:
    """Whether an error says that a file is not there, rather than that the disk fails."""
    return error.errno in _GONE


def unreadable(what: str, error: OSError) -> OutputError:
    """Return the error for a file that cannot be read."""
    return OutputError(f"{what} cannot be read: {error}.")


def require_readable(file: Path, *, to_its_end: bool = False) -> None:
    """Read the beginning of a file, or all of it.

    Raises:
        OutputError: If it is not there, or the disk fails.
    """
    try:
        with file.open("rb") as stream:
            while stream.read(_CHUNK) and to_its_end:
                pass
    except OSError as error:
        raise unreadable(str(file), error) from error


def usual_mode() -> int:
    """Return the mode that files get which this process creates with Python's `open`."""
    with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as directory:
        file = Path(directory) / "file"
        file.touch()
        return stat.S_IMODE(file.stat().st_mode)


def set_usual_mode(path: Path) -> None:
    """Give a file the mode that it would have if this process had created it."""
    with suppress(OSError):  # another process removed it, or it belongs to another user
        path.chmod(usual_mode())


def remove(path: Path) -> None:
    """Remove a file or directory, also while another process removes it."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    while path.exists():
        with suppress(FileNotFoundError):
            shutil.rmtree(path)
