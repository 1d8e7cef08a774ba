"""The manifest: a checkpoint's content, with size and SHA-256 of each file (docs/format.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.monitor import MODES, Monitor
from mlflow_ckpt._format.untrusted import fields, json_text
from mlflow_ckpt.errors import ManifestError, NewerSchemaError

SCHEMA_VERSION = 1
# Longer paths cannot be written on any disk.
_LONGEST_PATH = 1000
# JSON cannot represent these values, which occur in the metrics of diverged runs.
_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class FileEntry:
    """One file of a checkpoint.

    Attributes:
        path: POSIX path relative to the checkpoint's directory.
        size: Size in bytes.
        digest: SHA-256 of its bytes.
    """

    path: str
    size: int
    digest: Digest

    @classmethod
    def of(cls, directory: Path, path: str) -> FileEntry:
        """Describe the file at `path` in `directory`."""
        file = directory / path
        return cls(path, file.stat().st_size, Digest.of_file(file))


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        run_id: The MLflow run that saved the checkpoint.
        name: The checkpoint's name, such as `epoch_0003`.
        epoch: Number of completed epochs.
        step: `optimizer.iterations`.
        created: Time of the snapshot (ISO 8601, UTC).
        forms: `"full"`, `"split"` or both.
        full_format: `"keras"` or `"h5"`; None without the full form.
        files: All files of the checkpoint except the manifest.
        metrics: Metrics that the training loop reported with the checkpoint.
        monitor: The metric that decides which checkpoint is best; None if none was usable.
        weights_digest: Digest of all weights.
        architecture_digest: Digest of the architecture.
        versions: Versions of the packages that wrote the checkpoint, and the Keras backend.
        lineage: The checkpoint that the training was resumed from; empty if it was not resumed.
        metadata: The user's data to keep with the model, such as class names.
        interrupted: What interrupted the training and caused the save, such as `"SIGTERM"`; None
            for a regular checkpoint.
    """

    run_id: str
    name: str
    epoch: int
    step: int
    created: str
    forms: tuple[str, ...]
    full_format: str | None
    files: tuple[FileEntry, ...]
    weights_digest: Digest
    architecture_digest: Digest
    metrics: Mapping[str, float] = field(default_factory=dict)
    monitor: Monitor | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    interrupted: str | None = None

    @property
    def size(self) -> int:
        """Size of all files in bytes, without the manifest."""
        return sum(entry.size for entry in self.files)

    @property
    def chart_step(self) -> int:
        """Position on the x axis of MLflow's charts: the epoch, or the step if saved by step."""
        return self.step if self.name.startswith("step") else self.epoch

    @property
    def full_file(self) -> str | None:
        """Path of the file with the full form; None without that form."""
        return None if self.full_format is None else layout.FULL_FILES[self.full_format]

    @property
    def digest(self) -> Digest:
        """Digest of the manifest, which identifies the checkpoint."""
        return _seal(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `manifest.json`, without its own digest."""
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "name": self.name,
            "epoch": self.epoch,
            "step": self.step,
            "created": self.created,
            "forms": list(self.forms),
            "full_format": self.full_format,
            "weights_digest": str(self.weights_digest),
            "architecture_digest": str(self.architecture_digest),
            "metrics": {name: _jsonable(value) for name, value in self.metrics.items()},
            "monitor": self.monitor and {"name": self.monitor.name, "mode": self.monitor.mode},
            "files": {
                entry.path: {"size": entry.size, "digest": str(entry.digest)}
                for entry in sorted(self.files, key=lambda entry: entry.path)
            },
            "versions": dict(self.versions),
            "lineage": dict(self.lineage),
            "metadata": dict(self.metadata),
            **({"interrupted": self.interrupted} if self.interrupted is not None else {}),
        }

    def to_json(self) -> str:
        """Return the text of `manifest.json`, sealed with a digest of its content."""
        content = self.to_dict()
        content["manifest_digest"] = str(_seal(content))
        return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Parse the text of `manifest.json`.

        Raises:
            NewerSchemaError: If a newer mlflow_ckpt wrote it.
            ManifestError: If it is malformed, or was altered after it was written.
        """
        try:
            content = fields.table(json_text.parse(text))
            version = fields.count(content["schema_version"])
            if version > SCHEMA_VERSION:
                raise NewerSchemaError.of("The manifest", version, SCHEMA_VERSION)
            _require_seal(content.pop("manifest_digest"), content)
            return cls._from_dict(content)
        except ManifestError:
            raise
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise ManifestError(
                f"manifest.json is not a manifest as docs/format.md describes it ({error!r})."
            ) from error

    @classmethod
    def _from_dict(cls, content: Mapping[str, Any]) -> Manifest:
        manifest = cls(
            run_id=fields.text(content["run_id"]),
            name=fields.text(content["name"]),
            epoch=fields.count(content["epoch"]),
            step=fields.count(content["step"]),
            created=_timestamp(content["created"]),
            forms=tuple(fields.texts(content["forms"])),
            full_format=fields.optional(fields.text, content["full_format"]),
            weights_digest=Digest.parse(content["weights_digest"]),
            architecture_digest=Digest.parse(content["architecture_digest"]),
            metrics={
                name: _number(value) for name, value in fields.table(content["metrics"]).items()
            },
            monitor=fields.optional(_monitor, content["monitor"]),
            files=tuple(
                FileEntry(
                    safe_path(path), fields.count(entry["size"]), Digest.parse(entry["digest"])
                )
                for path, entry in fields.table(content["files"]).items()
            ),
            versions={
                name: fields.text(version)
                for name, version in fields.table(content["versions"]).items()
            },
            lineage=_lineage(fields.table(content["lineage"])),
            metadata=fields.table(content["metadata"]),
            interrupted=fields.optional(fields.text, content.get("interrupted")),
        )
        manifest._check()
        return manifest

    def _check(self) -> None:
        """Raise ValueError if the fields contradict each other."""
        self._check_forms()
        name = CheckpointName.parse(self.name)
        if name is None or (name.unit == "epoch" and name.number != self.epoch):
            raise ValueError(f"name {self.name!r} is not that of epoch {self.epoch}")
        if self.monitor and self.monitor.mode not in MODES:
            raise ValueError(f"unknown mode {self.monitor.mode!r}")
        needed = {*layout.ALWAYS, *([layout.WEIGHTS] if "split" in self.forms else [])}
        needed |= {self.full_file, layout.MLMODEL} if self.full_file else set()
        if lacking := needed - {entry.path for entry in self.files}:
            raise ValueError(f"it does not list {', '.join(sorted(lacking))}")

    def _check_forms(self) -> None:
        if not self.forms or not set(self.forms) <= set(layout.FORMS):
            raise ValueError(f"unknown forms {self.forms!r}")
        if self.full_format not in (layout.FULL_FORMATS if "full" in self.forms else (None,)):
            raise ValueError(f"full_format {self.full_format!r} for the forms {self.forms!r}")


def hash_files(directory: Path, paths: Iterable[str]) -> tuple[FileEntry, ...]:
    """Return the manifest's entries for the files at `paths` in `directory`."""
    return tuple(FileEntry.of(directory, path) for path in sorted(paths))


def _require_seal(sealed: str, content: Mapping[str, Any]) -> None:
    if sealed != str(_seal(content)):
        raise ManifestError(
            "manifest.json was altered after it was written: its content does not have the digest "
            f"it states ({sealed})."
        )


def _seal(content: Mapping[str, Any]) -> Digest:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return Digest.of_bytes(canonical.encode())


def _jsonable(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _number(value: float | str) -> float:
    return _NONFINITE[value] if isinstance(value, str) else fields.number(value)


def _monitor(value: Any) -> Monitor:
    return Monitor(fields.text(value["name"]), fields.text(value["mode"]))


def _lineage(value: dict[str, Any]) -> dict[str, Any]:
    for key in {"run_id", "checkpoint", "weights_digest"} & value.keys():
        fields.text(value[key])
    return value


def _timestamp(value: Any) -> str:
    if datetime.fromisoformat(fields.text(value)).tzinfo is None:
        raise ValueError(f"expected a time with its zone, received {value!r}")
    return str(value)


def safe_path(path: str) -> str:
    """Return a relative POSIX path from a store to which others may write, after a check.

    Raises:
        ManifestError: If the path leads out of the checkpoint's directory.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise ManifestError(f"The checkpoint names a file outside its directory: {path[:200]!r}.")
    if len(path) > _LONGEST_PATH:
        raise ManifestError(f"The checkpoint names a file by {len(path)} characters.")
    return path
