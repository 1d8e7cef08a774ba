"""Verifies that a directory is exactly the checkpoint that its manifest describes."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.fingerprint import WEIGHTS_ROLE, read_fingerprint
from mlflow_ckpt._format.manifest import FileEntry, Manifest
from mlflow_ckpt._format.text import listed
from mlflow_ckpt._format.untrusted import regular_file
from mlflow_ckpt._format.weights_file import damaged_tensors
from mlflow_ckpt._shown.escaping import shown
from mlflow_ckpt.errors import (
    IntegrityError,
    ManifestError,
    UnsafeFileError,
    VerificationError,
)

# MLflow adds this file to a registered model version that it loads from a local store.
_ADDED_BY_MLFLOW = frozenset({"registered_model_meta"})


@dataclass(frozen=True)
class FileMismatch:
    """A file whose content is not what was saved.

    Attributes:
        expected: Size and digest according to the manifest.
        size: Actual size in bytes.
        digest: Actual digest; None if the size differs already.
        tensors: Names of the tensors that differ, if the file can be opened.
    """

    expected: FileEntry
    size: int
    digest: Digest | None
    tensors: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a short description of the difference."""
        if self.digest is None:
            what = f"{self.expected.path} has {self.size} bytes instead of {self.expected.size}"
        else:
            what = f"{self.expected.path} has {self.digest} instead of {self.expected.digest}"
        return f"{what} (tensors: {listed(self.tensors)})" if self.tensors else what


@dataclass(frozen=True)
class VerificationResult:
    """The result of verifying a checkpoint.

    Attributes:
        name: The checkpoint's name, such as `epoch_0003`.
        files: Number of files that were checked.
        size: Size of these files in bytes.
        missing: Files of the manifest that are not in the directory.
        extra: Files in the directory that are not in the manifest.
        mismatched: Files whose content differs.
        error: Why the manifest or the fingerprint cannot be read, how files disagree, or why the
            checkpoint is not signed as required; None if all is well.
        signed_by: By whom it is signed, as was required; None if no signature was.
    """

    name: str
    files: int = 0
    size: int = 0
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    mismatched: tuple[FileMismatch, ...] = ()
    error: str | None = None
    signed_by: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the checkpoint is exactly what was saved."""
        return not (self.missing or self.extra or self.mismatched or self.error)

    def __str__(self) -> str:
        """Return a one-line summary."""
        if self.ok:
            signed = "" if self.signed_by is None else f", signed by {shown(self.signed_by)}"
            return f"{shown(self.name)}: ok, {self.files} files, {self.size} bytes{signed}"
        problems = [self.error] if self.error else []
        if self.missing:
            problems.append(f"missing {listed(self.missing)}")
        if self.extra:
            problems.append(f"not in the manifest {listed(self.extra)}")
        problems += [str(mismatch) for mismatch in self.mismatched]
        return shown(f"{self.name}: " + "; ".join(problems))

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
                    "path": m.expected.path,
                    "expected": {"size": m.expected.size, "digest": str(m.expected.digest)},
                    "received": {"size": m.size, "digest": m.digest and str(m.digest)},
                    "tensors": list(m.tensors),
                }
                for m in self.mismatched
            ],
            "error": self.error,
            "signed_by": self.signed_by,
        }

    def raise_if_damaged(self) -> None:
        """Raise an error unless the checkpoint is exactly what was saved.

        Raises:
            VerificationError: If a file is missing, extra or altered; carries this result.
        """
        if not self.ok:
            raise VerificationError(
                f"The checkpoint is not what was saved: {self}. "
                "Load another checkpoint of the run, or restore the file from a copy.",
                result=self,
            )


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest in a checkpoint's directory.

    Raises:
        ManifestError: If there is no manifest, or it is malformed or altered.
    """
    return Manifest.from_json(read_manifest_text(directory))


def read_manifest_text(directory: Path) -> bytes:
    """Return the bytes of the manifest in a checkpoint's directory.

    Raises:
        ManifestError: If there is no manifest, or it is not a small file.
    """
    try:
        return regular_file.read(directory / layout.MANIFEST)
    except FileNotFoundError as error:
        raise ManifestError(
            f"There is no {layout.MANIFEST} in {directory}: it is not a complete checkpoint."
        ) from error
    except UnsafeFileError as error:
        raise ManifestError(str(error)) from error


def verify_directory(directory: Path, manifest: Manifest) -> VerificationResult:
    """Compare the files in a directory with a manifest.

    Raises:
        OSError: If the disk fails.
    """
    found = _files(directory)
    if irregular := [path for path in found if _is_irregular(directory / path)]:
        return VerificationResult(
            manifest.name,
            error=f"{listed(irregular)} is a link or a device, which is not opened: replace it by "
            "a copy of the file",
        )
    present = set(found) - {layout.MANIFEST, layout.SIGNATURE} - _ADDED_BY_MLFLOW
    # A process that died after it completed the checkpoint leaves its claim.
    present = {path for path in present if not layout.is_claim(path)}
    entries = {entry.path: entry for entry in manifest.files}
    mismatches = []
    for path in sorted(entries.keys() & present):
        try:
            mismatch = _compare(directory, entries[path])
        except FileNotFoundError:
            present.remove(path)  # another process removed it meanwhile
            continue
        mismatches += [mismatch] if mismatch else []
    damaged, error = _name_tensors(directory, mismatches)
    return VerificationResult(
        name=manifest.name,
        files=len(entries),
        size=sum(entry.size for entry in entries.values()),
        missing=tuple(sorted(entries.keys() - present)),
        extra=tuple(sorted(present - entries.keys())),
        mismatched=damaged,
        error=error,
    )


def _files(directory: Path) -> list[str]:
    return [
        (Path(root) / name).relative_to(directory).as_posix()
        for root, directories, names in os.walk(directory)
        for name in (*names, *(name for name in directories if (Path(root) / name).is_symlink()))
    ]


def _is_irregular(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False  # another process removed it meanwhile


def _compare(directory: Path, entry: FileEntry) -> FileMismatch | None:
    size = (directory / entry.path).stat().st_size
    if size != entry.size:
        return FileMismatch(entry, size, None)
    digest = Digest.of_file(directory / entry.path)
    return None if digest == entry.digest else FileMismatch(entry, size, digest)


def _name_tensors(
    directory: Path, mismatches: list[FileMismatch]
) -> tuple[tuple[FileMismatch, ...], str | None]:
    """Add the names of the tensors that differ to the altered weights files."""
    weights_files = {layout.FULL_KERAS, layout.FULL_H5, layout.WEIGHTS}
    altered = {mismatch.expected.path for mismatch in mismatches}
    if not altered & weights_files or layout.FINGERPRINT in altered:
        return tuple(mismatches), None
    try:
        fingerprint = read_fingerprint(directory)
    except FileNotFoundError:
        return tuple(mismatches), None
    except IntegrityError as error:
        return tuple(mismatches), str(error)

    def with_tensors(mismatch: FileMismatch) -> FileMismatch:
        path = mismatch.expected.path
        if path not in weights_files:
            return mismatch
        tensors = (
            fingerprint.of_role(WEIGHTS_ROLE) if path == layout.WEIGHTS else fingerprint.tensors
        )
        digests = {tensor.name: tensor.digest for tensor in tensors}
        return replace(mismatch, tensors=damaged_tensors(directory / path, digests))

    return tuple(with_tensors(mismatch) for mismatch in mismatches), None
