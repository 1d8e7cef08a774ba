"""Compares two checkpoints. Loads Keras only for foreign models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_ckpt._format.architecture import diff_architectures, read_architecture
from mlflow_ckpt._format.diff import Difference, Side, diff_tensors
from mlflow_ckpt._format.fingerprint import (
    OPTIMIZER_ROLE,
    WEIGHTS_ROLE,
    Fingerprint,
    read_fingerprint,
)
from mlflow_ckpt._format.reference import Query, Reference
from mlflow_ckpt._format.signing.trust import SignedBy
from mlflow_ckpt._format.weights_file import reading
from mlflow_ckpt._loading.convert import converter
from mlflow_ckpt._tracking.download import Progress
from mlflow_ckpt._tracking.find import FoundCheckpoint, OpenedCheckpoint, find
from mlflow_ckpt._tracking.removed import again_if_removed


@again_if_removed
def diff(
    a: str,
    b: str,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    architecture: str | Path | None = None,
    tracking_uri: str | None = None,
    signed_by: SignedBy = (),
    progress: Progress | None = None,
) -> Difference:
    """Compare two checkpoints: all layers, all tensors by digest, differing tensors by value.

        mlflow_ckpt.diff(f"ckpt:/{one}/4", f"ckpt:/{other}/4").identical

    The files of both are verified, except those of foreign models (see `verified` of either side).
    Identical checkpoints may differ in epoch, step, metrics and seed generators.

    Args:
        a: A run id (its latest checkpoint), or a URI: `ckpt:/…`, `runs:/…` or `models:/…`.
        b: Another checkpoint on the same tracking server.
        custom_objects: Custom classes and functions by name, to load foreign models.
        architecture: For foreign weights files: a file with the architecture.
        tracking_uri: The tracking server; MLflow's current one if None.
        signed_by: By whom both must be signed (docs/signing.md).
        progress: Called with bytes done and total bytes if files are downloaded.

    Raises:
        VerificationError: If a file is missing, extra or altered.
        SignatureError: If one is not signed by whom it must be.
        IntegrityError: If a verified file cannot be read.
        ModelError: If Keras cannot rebuild a foreign model.
        NotFoundError, SelectorError, TrackingError: As in `get_checkpoint`.
    """
    convert = converter(custom_objects, None if architecture is None else Path(architecture))
    queries = [Query(run, tracking_uri=tracking_uri, signed_by=signed_by) for run in (a, b)]
    first, second = (find(query, convert) for query in queries)
    return compare(first, second, progress)


def compare(a: FoundCheckpoint, b: FoundCheckpoint, progress: Progress | None = None) -> Difference:
    """Compare two checkpoints. Errors as in `diff`."""
    with (
        a.open(progress) as opened_a,
        b.open(progress) as opened_b,
        reading(opened_a.directory) as read_a,
        reading(opened_b.directory) as read_b,
    ):
        directories = (opened_a.directory, opened_b.directory)
        fingerprint_a, fingerprint_b = map(read_fingerprint, directories)
        uncompared = _uncompared(opened_a, fingerprint_a, opened_b, fingerprint_b)
        roles = {WEIGHTS_ROLE, OPTIMIZER_ROLE} - uncompared.keys()
        same = fingerprint_a.architecture_digest == fingerprint_b.architecture_digest
        return Difference(
            a=_side(a, opened_a),
            b=_side(b, opened_b),
            tensors=diff_tensors(fingerprint_a, fingerprint_b, read_a, read_b, roles),
            same_architecture=same,
            architecture=() if same else diff_architectures(*map(read_architecture, directories)),
            uncompared=uncompared,
        )


def _side(checkpoint: FoundCheckpoint, opened: OpenedCheckpoint) -> Side:
    uri = checkpoint.uri
    if checkpoint.verified:
        uri = str(Reference.parse(checkpoint.run_id, checkpoint.name))
    return Side(uri, checkpoint.epoch, opened.manifest.step, verified=checkpoint.verified)


def _uncompared(
    opened_a: OpenedCheckpoint, a: Fingerprint, opened_b: OpenedCheckpoint, b: Fingerprint
) -> dict[str, str]:
    """Return why the optimizer cannot be compared, by role, if only one checkpoint has it."""
    for name, opened, own, other in (("A", opened_a, a, b), ("B", opened_b, b, a)):
        if own.of_role(OPTIMIZER_ROLE) or not other.of_role(OPTIMIZER_ROLE):
            continue
        if opened.manifest.full_file is None:
            return {OPTIMIZER_ROLE: f"{name} holds the split form only"}
        if opened.lost is not None:
            return {OPTIMIZER_ROLE: f"{name} was loaded without {opened.lost}"}
    return {}
