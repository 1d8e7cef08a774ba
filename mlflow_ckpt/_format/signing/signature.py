"""The signature of a checkpoint: over the files of its manifest, and the manifest itself.

The manifest has the run, the name and the time of the checkpoint, so they are signed as well.
"""

from __future__ import annotations

from pathlib import Path

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.signing import library
from mlflow_ckpt._format.signing.keys import SigningKey
from mlflow_ckpt._format.signing.library import Digests
from mlflow_ckpt._format.signing.trust import Trust
from mlflow_ckpt._format.verification import read_manifest_text
from mlflow_ckpt.errors import ManifestError


def sign(directory: Path, manifest: Manifest, key: SigningKey, target: Path) -> None:
    """Sign a checkpoint whose files are those of its manifest.

    Args:
        directory: Its directory.
        manifest: Its manifest.
        key: What to sign with.
        target: The file to write.

    Raises:
        ManifestError: If the directory has another manifest.
        SigningError: If it cannot be signed.
    """
    library.sign(manifest.name, _digests(directory, manifest), key, target)


def require(directory: Path, manifest: Manifest, trust: Trust) -> str | None:
    """Check that a checkpoint whose files are those of its manifest is signed as required.

    Returns who signed it; None if nobody needs to have.

    Args:
        directory: Its directory, which nobody else can write to.
        manifest: Its manifest.
        trust: By whom it must be signed.

    Raises:
        ManifestError: If the directory has another manifest.
        SignatureError: If it is not signed by whom it must be.
    """
    if not trust.is_required:
        return None
    what = f"The checkpoint {manifest.name} of run {manifest.run_id}"
    return trust.require(directory / layout.SIGNATURE, _digests(directory, manifest), what)


def _digests(directory: Path, manifest: Manifest) -> Digests:
    # Read once, so that what is compared is what is signed.
    text = read_manifest_text(directory)
    if Manifest.from_json(text) != manifest:
        raise ManifestError(
            f"{layout.MANIFEST} of {manifest.name} changed while it was read. Try again."
        )
    digests = {entry.path: entry.digest for entry in manifest.files}
    return {**digests, layout.MANIFEST: Digest.of_bytes(text)}
