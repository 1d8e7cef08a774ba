"""Entries of the spool, one directory per upload."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._shown.escaping import Logger, redacted
from mlflow_ckpt._tracking import local_files
from mlflow_ckpt._tracking.spool import disk
from mlflow_ckpt.errors import ManifestError

CHECKPOINT = "checkpoint"
ANNOUNCEMENT = "announcement"
METRICS = "metrics"
TAGS = "tags"
STATUS = "status"
KINDS = (CHECKPOINT, ANNOUNCEMENT, METRICS, TAGS, STATUS)

# The directory of a checkpoint's files, and the file that describes the entry.
FILES = "files"
DESCRIPTION = "entry.json"

_logger = Logger(__name__)
_SCHEMA_VERSION = 1
# What reading any JSON as an entry may raise.
_UNREADABLE = (OSError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
# Metrics of a million weights.
_MOST_BYTES = 1 << 28


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

    def _checked(self) -> Entry:
        """Return the entry without credentials; raise ValueError if a value cannot be one."""
        numbers = (self.step, self.timestamp)
        texts = (self.run_id, self.tracking_uri, self.name, self.status)
        plausible = (
            self.kind in KINDS
            and all(isinstance(text, str) for text in texts)
            and all(isinstance(number, int) for number in numbers)
            and all(isinstance(value, (int, float)) for value in self.metrics.values())
            and all(isinstance(value, str) for value in self.tags.values())
            and (not self.name or CheckpointName.parse(self.name) is not None)
            and bool(self.name) == (self.kind in (CHECKPOINT, ANNOUNCEMENT))
        )
        if not plausible:
            raise ValueError("it has values that no entry has")
        return replace(self, tracking_uri=redacted(self.tracking_uri))

    @classmethod
    def read(cls, path: Path) -> Entry | None:
        """Read the entry in a directory; return None if it is missing or unreadable."""
        try:
            content = json.loads(_read(path / DESCRIPTION))
            if content.pop("schema_version") <= _SCHEMA_VERSION:
                return cls(path=path, **content)._checked()
        except _UNREADABLE as error:
            if not _is_missing(path, error):
                _logger.warning("%s is left alone, because it cannot be read: %s", path, error)
            return None
        _logger.warning("%s is left alone, because a newer mlflow_ckpt wrote it.", path)
        return None


def _read(description: Path) -> bytes:
    """Return the text of an entry; raise ValueError if another user may have written it."""
    reason = disk.reason_against(description, is_dir=False)
    if reason is not None:
        raise ValueError(f"{description.name} is not this user's: {reason}")
    if description.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{description.name} is larger than any entry")
    return description.read_bytes()


def _is_missing(path: Path, error: Exception) -> bool:
    """Whether an entry was sent meanwhile, or is a draft that was never completed."""
    is_gone = isinstance(error, OSError) and local_files.is_gone(error)
    return is_gone and (bool(path.suffix) or not path.exists())
