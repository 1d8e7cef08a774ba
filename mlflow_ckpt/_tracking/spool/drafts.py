"""Entries of the spool while they are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_ckpt._tracking.spool import disk
from mlflow_ckpt._tracking.spool.entries import DESCRIPTION, Entry


class Draft:
    """An entry that is being written.

    Attributes:
        files: An empty directory for a checkpoint's files.
    """

    def __init__(self, path: Path, files: Path) -> None:
        self.path = path
        self.files = files

    def commit(self, **values: Any) -> Entry:
        """Make it an entry, once all of it has reached the disk.

        Args:
            values: Attributes of the entry but its path.
        """
        entry = self._describe(values)
        self._rename(entry)
        return entry

    def place(self, goal: Path, **values: Any) -> Entry:
        """Move the files to their goal in one step, and make the rest an entry that tells of them.

        Args:
            goal: A directory that does not exist, on the same disk.
            values: Attributes of the entry but its path.

        Raises:
            FileExistsError: If the goal exists and holds something.
            OSError: If the disk fails.
        """
        disk.sync(self.files)
        # Before the move: a sweep makes it an entry if this process dies in between.
        entry = self._describe(values)
        try:
            self.files.rename(goal)
        except OSError as error:
            if goal.is_dir():
                raise FileExistsError(error.errno, error.strerror, str(goal)) from error
            raise
        disk.sync_directory(goal.parent)
        self._rename(entry)
        return entry

    def _describe(self, values: Mapping[str, Any]) -> Entry:
        entry = Entry(path=self.path.with_suffix(""), **values)
        (self.path / DESCRIPTION).write_text(entry.to_json(), encoding="utf-8")
        disk.sync(self.path)
        return entry

    def _rename(self, entry: Entry) -> None:
        self.path.rename(entry.path)
        disk.sync_directory(entry.path.parent)
        disk.sync_directory(entry.path.parent.parent)
