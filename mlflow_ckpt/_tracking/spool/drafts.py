"""Entries of the spool that are being written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_ckpt._shown.escaping import redacted
from mlflow_ckpt._tracking.spool import disk, servers
from mlflow_ckpt._tracking.spool.entries import DESCRIPTION, Entry


class Draft:
    """An entry that is being written.

    Attributes:
        path: Its directory in the spool.
        files: An empty directory for a checkpoint's files.
    """

    def __init__(self, path: Path, files: Path) -> None:
        self.path = path
        self.files = files

    def commit(self, **values: Any) -> Entry:
        """Turn the draft into an entry once it has reached the disk."""
        entry = self._describe(values)
        self._rename(entry)
        return entry

    def move_to(self, target: Path, **values: Any) -> Entry:
        """Move the files to their final directory atomically, and turn the draft into an entry.

        Args:
            target: A directory that does not exist, on the same disk.
            values: Attributes of the entry except its path.

        Raises:
            FileExistsError: If the target exists and is not empty.
            OSError: If the disk fails.
        """
        disk.sync(self.files)
        # Before the move, so that a sweep can complete it if this process dies in between.
        entry = self._describe(values)
        try:
            self.files.rename(target)
        except OSError as error:
            if target.is_dir():
                raise FileExistsError(error.errno, error.strerror, str(target)) from error
            raise
        disk.sync_directory(target.parent)
        self._rename(entry)
        return entry

    def _describe(self, values: Mapping[str, Any]) -> Entry:
        address = redacted(values["tracking_uri"])
        entry = Entry(path=self.path.with_suffix(""), **{**values, "tracking_uri": address})
        servers.note(address)
        (self.path / DESCRIPTION).write_text(entry.to_json(), encoding="utf-8")
        # Nobody else has put a link into the draft; the first load has links to its files.
        disk.make_private(self.path, linked=True)
        disk.sync(self.path)
        return entry

    def _rename(self, entry: Entry) -> None:
        self.path.rename(entry.path)
        disk.sync_directory(entry.path.parent)
        disk.sync_directory(entry.path.parent.parent)
