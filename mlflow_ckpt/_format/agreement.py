"""Whether the files of a checkpoint agree with each other, and with the manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.architecture import read_architecture
from mlflow_ckpt._format.fingerprint import (
    OPTIMIZER_ROLE,
    WEIGHTS_ROLE,
    Fingerprint,
    architecture_digest,
    read_fingerprint,
)
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.text import listed
from mlflow_ckpt._format.untrusted import fields, json_text, regular_file, yaml_text
from mlflow_ckpt._format.weights_file import UNREADABLE, require_safe
from mlflow_ckpt.errors import IntegrityError, NewerSchemaError

# Where legacy `.h5` files hold the tensors of the optimizer.
_OPTIMIZER_WEIGHTS = "optimizer_weights/"


def disagreement(directory: Path, manifest: Manifest) -> str | None:
    """Return how the files of a checkpoint disagree, as a sentence; None if they agree.

    The manifest proves that no file was altered since it was written. Who writes files that were
    not saved together can write a manifest too.

    Args:
        directory: The checkpoint's files, as the manifest lists them.
        manifest: The manifest.

    Raises:
        NewerSchemaError: If a newer mlflow_ckpt wrote a file.
        OSError: If a file cannot be read.
    """
    try:
        return next(_disagreements(directory, manifest), None)
    except NewerSchemaError:
        raise
    except IntegrityError as error:
        return str(error)


def _disagreements(directory: Path, manifest: Manifest) -> Iterator[str]:
    fingerprint = read_fingerprint(directory)
    if fingerprint.weights_digest != manifest.weights_digest:
        yield f"{layout.FINGERPRINT} is not that of the weights which the manifest names"
    architecture = architecture_digest(read_architecture(directory))
    if {architecture, fingerprint.architecture_digest} != {manifest.architecture_digest}:
        yield f"{layout.ARCHITECTURE_JSON} is not the architecture that the manifest names"
    yield from _of_training_state(directory, manifest)
    yield from _of_mlmodel(directory, manifest)
    yield from _of_weights(directory, manifest, fingerprint)


def _of_training_state(directory: Path, manifest: Manifest) -> Iterator[str]:
    try:
        content = fields.table(
            json_text.parse(regular_file.read(directory / layout.TRAINING_STATE))
        )
        position = fields.count(content["epoch"]), fields.count(content["step"])
    except (LookupError, TypeError, ValueError) as error:
        yield f"{layout.TRAINING_STATE} is not as docs/format.md describes it ({error!r})"
        return
    if position != (manifest.epoch, manifest.step):
        epoch, step = position
        yield (
            f"{layout.TRAINING_STATE} is of epoch {epoch} and step {step}, and the manifest of "
            f"epoch {manifest.epoch} and step {manifest.step}"
        )


def _of_mlmodel(directory: Path, manifest: Manifest) -> Iterator[str]:
    """Compare the run and the place in `MLmodel`, which MLflow records there."""
    path = directory / layout.MLMODEL
    if not path.is_file():
        return
    try:
        content: dict[str, Any] = fields.table(yaml_text.parse(regular_file.read(path)))
    except (TypeError, ValueError) as error:
        yield f"{layout.MLMODEL} is not as MLflow writes it ({error})"
        return
    place = layout.artifact_path(manifest.name)
    for key, expected in (("run_id", manifest.run_id), ("artifact_path", place)):
        if content.get(key, expected) != expected:
            yield f"{layout.MLMODEL} has the {key} {content[key]!r}, and the manifest {expected!r}"


def _of_weights(directory: Path, manifest: Manifest, fingerprint: Fingerprint) -> Iterator[str]:
    """Compare the tensors in the files with those in the fingerprint, both ways."""
    names = {role: {tensor.name for tensor in fingerprint.of_role(role)} for role in _ROLES}
    if "split" in manifest.forms:
        yield from _of_tensors(directory, layout.WEIGHTS, names[WEIGHTS_ROLE])
    if manifest.full_format == "keras":
        every = names[WEIGHTS_ROLE] | names[OPTIMIZER_ROLE]
        yield from _of_tensors(directory, layout.FULL_KERAS, every)
    elif manifest.full_format == "h5":
        stored = _names_in(directory, layout.FULL_H5)
        held, known = sum(map(_is_of_optimizer, stored)), len(names[OPTIMIZER_ROLE])
        # Legacy files have other names for them.
        if held > known:
            yield (
                f"{layout.FULL_H5} holds {held} tensors of an optimizer, and {layout.FINGERPRINT} "
                f"lists only {known}"
            )


_ROLES = (WEIGHTS_ROLE, OPTIMIZER_ROLE)


def _of_tensors(directory: Path, path: str, expected: set[str]) -> Iterator[str]:
    found = _names_in(directory, path)
    if found != expected:
        yield (
            f"the tensors in {path} are not those in {layout.FINGERPRINT}: "
            f"{listed(sorted(found ^ expected))} is in one of them only"
        )


def _names_in(directory: Path, path: str) -> set[str]:
    try:
        return set(require_safe(directory / path))
    except IntegrityError:
        raise
    except UNREADABLE as error:
        raise IntegrityError(
            f"{path} is unchanged, but cannot be opened ({error}). Expected a file written by "
            "Keras. Choose another checkpoint by its epoch or step."
        ) from error


def _is_of_optimizer(name: str) -> bool:
    return name.startswith(_OPTIMIZER_WEIGHTS)
