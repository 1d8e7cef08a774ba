"""The public function that compares two checkpoints, of one run or of two.

Loads Keras only for what others wrote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.architecture_diff import Tree, diff_architectures
from mlflow_ckpt._format.diff import Difference, Side, diff_tensors
from mlflow_ckpt._format.fingerprint import OPTIMIZER_ROLE, WEIGHTS_ROLE, Fingerprint
from mlflow_ckpt._format.query import Query
from mlflow_ckpt._format.reference import Reference
from mlflow_ckpt._format.weights_file import reading
from mlflow_ckpt._loading.convert import converter
from mlflow_ckpt._tracking.download import Progress
from mlflow_ckpt._tracking.find import FoundCheckpoint, OpenedCheckpoint, find
from mlflow_ckpt.errors import IntegrityError


def diff(
    a: str,
    b: str,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    architecture: str | Path | None = None,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
) -> Difference:
    """Compare two checkpoints: every tensor by digest, those that differ by value, every layer.

        mlflow_ckpt.diff(f"ckpt:/{one}/4", f"ckpt:/{other}/4").identical

    The files of both are verified, unless others wrote them, which `verified` of each side tells.
    Epoch, step, metrics and seed generators may differ between identical checkpoints.

    Args:
        a: A run id (its latest checkpoint), or a URI: `ckpt:/…`, `runs:/…` or `models:/…`.
        b: Another, of the same tracking server.
        custom_objects: Classes and functions by name, to load what others wrote.
        architecture: For weights alone, which others wrote: a file with their architecture.
        tracking_uri: The tracking server; MLflow's current one if None.
        progress: Called with bytes done and bytes in all, where files are downloaded.

    Raises:
        VerificationError: If a file is missing, extra or altered.
        IntegrityError: If a verified file cannot be read.
        ModelError: If Keras cannot rebuild what others wrote.
        NotFoundError, SelectorError, TrackingError: As in `get_checkpoint`.
    """
    path = None if architecture is None else Path(architecture)
    convert = converter(custom_objects, path)
    found_a, found_b = (find(Query(run, tracking_uri=tracking_uri), convert) for run in (a, b))
    return compare(found_a, found_b, progress)


def compare(a: FoundCheckpoint, b: FoundCheckpoint, progress: Progress | None = None) -> Difference:
    """Compare two checkpoints that were found. Errors as in `diff`."""
    with (
        a.open(progress) as opened_a,
        b.open(progress) as opened_b,
        reading(opened_a.directory) as read_a,
        reading(opened_b.directory) as read_b,
    ):
        of_a, of_b = _fingerprint(opened_a.directory), _fingerprint(opened_b.directory)
        uncompared = _uncompared(opened_a, of_a, opened_b, of_b)
        roles = {WEIGHTS_ROLE, OPTIMIZER_ROLE} - uncompared.keys()
        same = of_a.architecture_digest == of_b.architecture_digest
        return Difference(
            a=_side(a, opened_a),
            b=_side(b, opened_b),
            tensors=diff_tensors(of_a, of_b, read_a, read_b, roles),
            same_architecture=same,
            architecture=()
            if same
            else diff_architectures(_described(opened_a.directory), _described(opened_b.directory)),
            uncompared=uncompared,
        )


def _side(checkpoint: FoundCheckpoint, opened: OpenedCheckpoint) -> Side:
    uri = checkpoint.uri
    if checkpoint.verified:
        uri = str(Reference.parse(checkpoint.run_id, checkpoint.name))
    return Side(uri, checkpoint.epoch, opened.manifest.step, checkpoint.verified)


def _fingerprint(directory: Path) -> Fingerprint:
    return Fingerprint.from_json((directory / layout.FINGERPRINT).read_bytes())


def _described(directory: Path) -> Tree:
    try:
        architecture = json.loads((directory / layout.ARCHITECTURE_JSON).read_bytes())
    except (RecursionError, ValueError) as error:
        raise IntegrityError(f"architecture.json is not JSON: {error}.") from error
    if not isinstance(architecture, dict):
        raise IntegrityError("architecture.json holds no architecture. Expected an object.")
    return architecture


def _uncompared(
    opened_a: OpenedCheckpoint, of_a: Fingerprint, opened_b: OpenedCheckpoint, of_b: Fingerprint
) -> dict[str, str]:
    """Say why the optimizer cannot be compared: one form holds it, and the other does not."""
    for name, opened, own, other in (("A", opened_a, of_a, of_b), ("B", opened_b, of_b, of_a)):
        if own.of_role(OPTIMIZER_ROLE) or not other.of_role(OPTIMIZER_ROLE):
            continue
        if opened.manifest.full_file is None:
            return {OPTIMIZER_ROLE: f"{name} holds the split form only"}
        if opened.lost is not None:
            return {OPTIMIZER_ROLE: f"{name} was loaded without {opened.lost}"}
    return {}
