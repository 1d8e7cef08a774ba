"""Entries of the spool, one directory per upload."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._shown import Logger
from mlflow_ckpt._tracking import local_files
from mlflow_ckpt._tracking.spool import disk
from mlflow_ckpt.errors import ManifestError

CHECKPOINT = "checkpoint"
ANNOUNCEMENT = "announcement"
METRICS = "metrics"
TAGS = "tags"
STATUS = "status"

# The directory of a checkpoint's files, and the file that describes the entry.
FILES = "files"
DESCRIPTION = "entry.json"

_logger = Logger(__name__)
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """A checkpoint or record that is still to be sent.

    Attributes:
        path: Its directory in the spool.
        kind: `"checkpoint"` (files to upload), `"announcement"` (of a checkpoint that has been
            written directly into the run's local artifacts), `"metrics"`, `"tags"` or `"status"`.
        run_id: The run that it belongs to.
        tracking_uri: The tracking server of that run.
        name: The checkpoint's name, such as `epoch_0003`; empty for other kinds.
        metrics: For metrics: values by name.
        step: For metrics: the x axis of MLflow's charts.
        timestamp: For metrics and a status: milliseconds since the Unix epoch.
        tags: For tags: values by name.
        status: For a status: the final status of the run, such as `"KILLED"`.
    """

    path: Path
    kind: str
    run_id: str
    tracking_uri: str
    name: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    timestamp: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    status: str = ""

    @property
    def token(self) -> str:
        """A globally unique id of the entry."""
        return self.path.name

    @property
    def files(self) -> Path:
        """Directory of a checkpoint's files."""
        return self.path / FILES

    @property
    def label(self) -> str:
        """A readable name."""
        return self.name or (f"metrics of step {self.step}" if self.kind == METRICS else self.kind)

    @property
    def size(self) -> int:
        """Bytes of its files; fewer if another process is removing them, or if the disk fails."""
        return disk.size_below(self.files)

    def manifest(self) -> Manifest | None:
        """Read the manifest of a checkpoint; return None if the entry was sent meanwhile.

        Raises:
            ManifestError: If it is missing or damaged.
            OutputError: If the disk fails.
        """
        try:
            text = (self.files / layout.MANIFEST).read_bytes()
        except OSError as error:
            if not local_files.is_gone(error):
                raise local_files.unreadable(f"The spool's copy of {self.name}", error) from error
            # An entry goes as a whole, by one rename.
            if not self.path.exists():
                return None
            raise ManifestError(
                f"The spool's copy of {self.name} cannot be read: {error}."
            ) from error
        return Manifest.from_json(text)

    def to_json(self) -> str:
        """Return the text of `entry.json`."""
        values = {name: value for name, value in vars(self).items() if name != "path"}
        content = {"schema_version": _SCHEMA_VERSION, **values}
        return json.dumps(content, indent=2, default=dict) + "\n"

    @classmethod
    def read(cls, path: Path) -> Entry | None:
        """Read the entry in a directory; return None if it is missing or unreadable."""
        try:
            content = json.loads((path / DESCRIPTION).read_bytes())
            if content.pop("schema_version") <= _SCHEMA_VERSION:
                return cls(path=path, **content)
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            if not _is_missing(path, error):
                _logger.warning("%s is left alone, because it cannot be read: %s", path, error)
            return None
        _logger.warning("%s is left alone, because a newer mlflow_ckpt wrote it.", path)
        return None


def _is_missing(path: Path, error: Exception) -> bool:
    """Whether an entry was sent meanwhile, or is a draft that was never completed."""
    is_gone = isinstance(error, OSError) and local_files.is_gone(error)
    return is_gone and (bool(path.suffix) or not path.exists())
