"""Verification: is a directory exactly the checkpoint that its manifest describes?"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.fingerprint import WEIGHTS_ROLE, Fingerprint
from mlflow_ckpt._format.manifest import FileEntry, Manifest
from mlflow_ckpt._format.weights_file import damaged_tensors
from mlflow_ckpt.errors import IntegrityError, ManifestError, VerificationError

# MLflow itself adds this file to a checkpoint that a registered model version points at, when it is
# loaded from a local store.
_MLFLOW_ADDS = frozenset({"registered_model_meta"})


@dataclass(frozen=True)
class FileMismatch:
    """A file whose bytes are not those that were saved.

    Attributes:
        expected: Size and digest that the manifest states.
        size: Size found, in bytes.
        digest: Digest found; None where the size alone tells.
        tensors: Names of the tensors that differ, where the file still opens.
    """

    expected: FileEntry
    size: int
    digest: Digest | None
    tensors: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return what differs, in a few words."""
        if self.digest is None:
            what = f"{self.expected.path} has {self.size} bytes instead of {self.expected.size}"
        else:
            what = f"{self.expected.path} has {self.digest} instead of {self.expected.digest}"
        return f"{what} (tensors: {_listed(self.tensors)})" if self.tensors else what


@dataclass(frozen=True)
class VerificationResult:
    """What verification found.

    Attributes:
        name: The checkpoint, such as `epoch_0003`.
        files: Number of files that the manifest lists.
        size: Their bytes.
        missing: Files that the manifest lists and the directory lacks.
        extra: Files in the directory that the manifest does not list.
        mismatched: Files whose bytes differ.
        error: Why the manifest or the fingerprint itself cannot be used; None if they can.
    """

    name: str
    files: int = 0
    size: int = 0
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    mismatched: tuple[FileMismatch, ...] = ()
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the checkpoint is exactly what was saved."""
        return not (self.missing or self.extra or self.mismatched or self.error)

    def __str__(self) -> str:
        """Return one line for people."""
        if self.ok:
            return f"{self.name}: ok, {self.files} files, {self.size} bytes"
        problems = [self.error] if self.error else []
        if self.missing:
            problems.append(f"missing {_listed(self.missing)}")
        if self.extra:
            problems.append(f"not in the manifest {_listed(self.extra)}")
        problems += [str(mismatch) for mismatch in self.mismatched]
        return f"{self.name}: " + "; ".join(problems)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "name": self.name,
            "ok": self.ok,
            "files": self.files,
            "size": self.size,
            "missing": list(self.missing),
            "extra": list(self.extra),
            "mismatched": [
                {
                    "path": mismatch.expected.path,
                    "expected": {
                        "size": mismatch.expected.size,
                        "digest": str(mismatch.expected.digest),
                    },
                    "received": {
                        "size": mismatch.size,
                        "digest": None if mismatch.digest is None else str(mismatch.digest),
                    },
                    "tensors": list(mismatch.tensors),
                }
                for mismatch in self.mismatched
            ],
            "error": self.error,
        }

    def raise_if_damaged(self) -> None:
        """Raise unless the checkpoint is exactly what was saved.

        Raises:
            VerificationError: With this result.
        """
        if not self.ok:
            raise VerificationError(
                f"The checkpoint is not what was saved: {self}. "
                "Load another checkpoint of the run, or restore the file from a copy.",
                result=self,
            )


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a checkpoint's directory.

    Raises:
        ManifestError: If there is none, or it cannot be read.
    """
    try:
        text = (directory / layout.MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise ManifestError(
            f"There is no {layout.MANIFEST} in {directory}: it is not a complete checkpoint."
        ) from error
    return Manifest.from_json(text)


def verify_directory(
    directory: Path, manifest: Manifest, *, only: Collection[str] | None = None
) -> VerificationResult:
    """Compare every file of a directory with the manifest.

    Args:
        directory: The checkpoint's files.
        manifest: What it should hold.
        only: Paths to look at; other files of the manifest may be absent. None means all.
    """
    present = set(_files(directory)) - {layout.MANIFEST} - _MLFLOW_ADDS
    # Of a process that died once the checkpoint was complete.
    present = {path for path in present if not layout.is_claim(path)}
    listed = {entry.path: entry for entry in manifest.files}
    wanted = listed if only is None else {path: listed[path] for path in only}
    mismatches = [
        mismatch
        for path, entry in sorted(wanted.items())
        if path in present and (mismatch := _compare(directory, entry))
    ]
    damaged, error = _name_tensors(directory, mismatches)
    return VerificationResult(
        name=manifest.name,
        files=len(wanted),
        size=sum(entry.size for entry in wanted.values()),
        missing=tuple(sorted(wanted.keys() - present)),
        extra=tuple(sorted(present - listed.keys())),
        mismatched=damaged,
        error=error,
    )


def _files(directory: Path) -> list[str]:
    return [
        (Path(root) / name).relative_to(directory).as_posix()
        for root, _, names in os.walk(directory)
        for name in names
        # A link to nowhere is a file that is missing.
        if (Path(root) / name).is_file()
    ]


def _compare(directory: Path, entry: FileEntry) -> FileMismatch | None:
    size = (directory / entry.path).stat().st_size
    if size != entry.size:
        return FileMismatch(entry, size, None)
    digest = Digest.of_file(directory / entry.path)
    return None if digest == entry.digest else FileMismatch(entry, size, digest)


def _name_tensors(
    directory: Path, mismatches: list[FileMismatch]
) -> tuple[tuple[FileMismatch, ...], str | None]:
    """Add to each altered weights file the names of the tensors that differ."""
    weights_files = {layout.FULL_KERAS, layout.FULL_H5, layout.WEIGHTS}
    altered = {mismatch.expected.path for mismatch in mismatches}
    if not altered & weights_files or layout.FINGERPRINT in altered:
        return tuple(mismatches), None
    try:
        fingerprint = Fingerprint.from_json((directory / layout.FINGERPRINT).read_bytes())
    except FileNotFoundError:
        return tuple(mismatches), None
    except IntegrityError as error:
        return tuple(mismatches), str(error)
    named = []
    for mismatch in mismatches:
        path = mismatch.expected.path
        tensors: tuple[str, ...] = ()
        if path in weights_files:
            expected = {
                tensor.name: tensor.digest
                for tensor in fingerprint.tensors
                if path != layout.WEIGHTS or tensor.role == WEIGHTS_ROLE
            }
            tensors = damaged_tensors(directory / path, expected)
        named.append(FileMismatch(mismatch.expected, mismatch.size, mismatch.digest, tensors))
    return tuple(named), None


def _listed(names: Collection[str], most: int = 5) -> str:
    shown = list(names)[:most]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
