"""Locks of files whose directory other processes remove."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from mlflow_ckpt._tracking.spool import locks


def test_a_lock_whose_directory_cannot_be_made_is_told_as_one_that_is_gone(tmp_path: Path) -> None:
    """As where the directory goes between two looks at it, which filelock reports as 'exists'."""
    directory = tmp_path / "run"
    directory.write_text("no directory")
    with pytest.raises(FileNotFoundError, match="The directory vanished"):
        locks.take_free(directory / "entry.lock")
    locks.unlink_if_free(directory / "entry.lock")
    assert directory.read_text() == "no directory"


def test_a_lock_that_somebody_holds_is_neither_taken_nor_removed(tmp_path: Path) -> None:
    path = tmp_path / "entry.lock"
    with FileLock(path):
        with pytest.raises(Timeout):
            locks.take_free(path)
        locks.unlink_if_free(path)
        assert path.exists()
    locks.unlink_if_free(path)
    assert not path.exists()
