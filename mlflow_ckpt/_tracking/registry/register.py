"""Registers a checkpoint as a version of a registered model."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.reference import Query, uri_of
from mlflow_ckpt._format.signing.trust import SignedBy
from mlflow_ckpt._format.text import first_line
from mlflow_ckpt._format.verification import VerificationResult
from mlflow_ckpt._tracking import mlflow_private, own_model, tags
from mlflow_ckpt._tracking.checkpoint import Checkpoint
from mlflow_ckpt._tracking.find import find
from mlflow_ckpt._tracking.metric_names import allowed_names
from mlflow_ckpt._tracking.store import (
    EXISTS,
    INVALID,
    MISSING,
    RunStore,
    client_to,
    model_versions,
)
from mlflow_ckpt.errors import FormNotFoundError, InvalidArgumentError, VerificationError

# Reserved by MLflow: https://mlflow.org/docs/latest/ml/model-registry
_RESERVED_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Registered:
    """A version of a registered model that points at a checkpoint.

    Attributes:
        name: The registered model.
        version: Its version.
        alias: The alias set on the version; None if none was requested.
        source: Location of the checkpoint's files.
        checkpoint: The checkpoint.
        is_new: Whether the version was created; False if it already existed.
    """

    name: str
    version: int
    alias: str | None
    source: str
    checkpoint: Checkpoint
    is_new: bool

    @property
    def uri(self) -> str:
        """The URI that MLflow's and this package's functions and commands accept."""
        end = f"/{self.version}" if self.alias is None else f"@{self.alias}"
        return f"models:/{self.name}{end}"


def _check_names(name: str, alias: str | None, tracking_uri: str | None) -> None:
    """Raise InvalidArgumentError if MLflow would reject a model's name or an alias.

    MLflow checks their syntax on look-up, but rejects reserved aliases only when they are set. The
    alias is looked up in a model that does not exist, because an alias that an existing model does
    not have yet is reported just as an invalid one.
    """
    if alias is not None and _RESERVED_ALIAS.fullmatch(alias):
        raise _rejected_name("alias", alias, "it is reserved.")
    with client_to(f"look up the registered model {name!r}", tracking_uri) as client:
        _look_up("model name", name, lambda: client.get_registered_model(name))
        if alias is not None:
            unused = uuid.uuid4().hex
            _look_up("alias", alias, lambda: client.get_model_version_by_alias(unused, alias))


def _look_up(kind: str, name: str, request: Callable[[], object]) -> None:
    try:
        request()
    except MlflowException as error:
        if error.error_code == INVALID:
            raise _rejected_name(kind, name, first_line(error)) from error
        if error.error_code != MISSING:
            raise


def _rejected_name(kind: str, name: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"MLflow rejects the {kind} {name!r}: {reason}")


def register(
    run_id: str,
    checkpoint: str | int = "latest",
    *,
    name: str,
    alias: str | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
    signed_by: SignedBy = (),
) -> Registered:
    """Register a checkpoint as a version of a registered model.

    The version points at the run's artifact, and has tags for epoch, step, metrics and the digest
    of the weights. A checkpoint that is already a version of the model is not registered again.

    Args:
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…`.
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        name: The registered model, which is created if it does not exist.
        alias: An alias to set on the version; moved if it points at another version.
        monitor: For `"best"`, the metric to rank by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        tracking_uri: The tracking server and its registry; MLflow's current one if None.
        signed_by: By whom the checkpoint must be signed (docs/signing.md). Its files are then
            read and verified, which they are not otherwise.

    Raises:
        InvalidArgumentError: If MLflow would reject the name or the alias.
        FormNotFoundError: If the checkpoint is not an MLflow model (split form only).
        VerificationError: If files of the checkpoint are missing or differ in size.
        SignatureError: If it is not signed by whom it must be.
        IntegrityError: If MLflow would load the checkpoint by other code than Keras.
        RunNotFoundError, CheckpointNotFoundError, TrackingError: As in `get_checkpoint`.
    """
    _check_names(name, alias, tracking_uri)
    own = find(Query(run_id, checkpoint, monitor, mode, tracking_uri, signed_by))
    if own.catalog.trust.is_required:
        with own.open():
            pass
    return _register(own.catalog.store, own.checkpoint, name, alias)


def _register(store: RunStore, checkpoint: Checkpoint, name: str, alias: str | None) -> Registered:
    """Create the version, unless the checkpoint already has one."""
    if "full" not in checkpoint.manifest.forms:
        raise FormNotFoundError(
            f"{checkpoint.name} of run {checkpoint.run_id} has only the split form, which is not "
            "an MLflow model. Register one that was saved with forms=('full',).",
            available=checkpoint.manifest.forms,
        )
    _require_files(store, checkpoint)
    _require_own(store, checkpoint)
    with store.client_to(f"register {checkpoint.name} as {name}") as client:
        existing = _find_version(client, checkpoint, name)
        version = existing or _create_version(client, store, checkpoint, name)
        if alias is not None:
            client.set_registered_model_alias(name, alias, str(version.version))
    return Registered(
        name, int(version.version), alias, str(version.source), checkpoint, existing is None
    )


def _require_files(store: RunStore, checkpoint: Checkpoint) -> None:
    """Check that every file exists with the right size, without reading the files."""
    path = checkpoint.artifact_path
    sizes = {item.path.removeprefix(f"{path}/"): item.size for item in store.walk(path)}
    files = checkpoint.manifest.files
    missing = tuple(file.path for file in files if file.path not in sizes)
    altered = [file.path for file in files if sizes.get(file.path) not in (None, file.size)]
    if missing or altered:
        raise _damaged(checkpoint, [*missing, *altered][0], missing)


def _damaged(
    checkpoint: Checkpoint, first: str, missing: tuple[str, ...] = ()
) -> VerificationError:
    return VerificationError(
        f"The checkpoint {checkpoint.name} of run {checkpoint.run_id} is damaged ({first}), so "
        "it was not registered. See what else is: "
        f"mlflow-ckpt verify {uri_of(checkpoint.run_id, checkpoint.name)}",
        result=VerificationResult(checkpoint.name, missing=missing),
    )


def _require_own(store: RunStore, checkpoint: Checkpoint) -> None:
    """Check that MLflow loads a checkpoint by Keras alone."""
    entries = {entry.path: entry for entry in checkpoint.manifest.files}

    def read(path: str) -> bytes:
        text = store.read(f"{checkpoint.artifact_path}/{path}")
        if text is None or Digest.of_bytes(text) != entries[path].digest:
            raise _damaged(checkpoint, path)
        return text

    what = f"{checkpoint.name} of run {checkpoint.run_id}"
    own_model.require_own(what, {path: entry.size for path, entry in entries.items()}, read)


def _find_version(client: MlflowClient, checkpoint: Checkpoint, name: str) -> ModelVersion | None:
    quoted = name.replace("'", "''")
    condition = f"name = '{quoted}' AND run_id = '{checkpoint.run_id}'"
    digest = str(checkpoint.manifest.digest)
    versions = model_versions(client, condition)
    same = [version for version in versions if version.tags.get(tags.MANIFEST_DIGEST) == digest]
    return max(same, key=lambda version: int(version.version), default=None)


def _create_version(
    client: MlflowClient, store: RunStore, checkpoint: Checkpoint, name: str
) -> ModelVersion:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != EXISTS:
            raise
    # As in mlflow.register_model, the source is the location of the files, not the `runs:/` URI.
    source = mlflow_private.artifact_location(checkpoint.uri, store.tracking_uri)
    version: ModelVersion = client.create_model_version(
        name, source, checkpoint.run_id, tags=_tags(checkpoint)
    )
    return version


def _tags(checkpoint: Checkpoint) -> dict[str, Any]:
    manifest = checkpoint.manifest
    names = allowed_names(manifest.metrics)
    return {
        tags.EPOCH: str(manifest.epoch),
        tags.STEP: str(manifest.step),
        tags.WEIGHTS_DIGEST: str(manifest.weights_digest),
        tags.MANIFEST_DIGEST: str(manifest.digest),
        **{f"{tags.METRIC}{names[key]}": repr(value) for key, value in manifest.metrics.items()},
    }
