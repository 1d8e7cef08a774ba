"""Makes a checkpoint a version of a registered model."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.tracking import MlflowClient

from mlflow_ckpt._format.query import Query
from mlflow_ckpt._format.verification import VerificationResult
from mlflow_ckpt._tracking import mlflow_private, tags
from mlflow_ckpt._tracking.checkpoint import Checkpoint
from mlflow_ckpt._tracking.find import find
from mlflow_ckpt._tracking.metric_names import allowed_names
from mlflow_ckpt._tracking.store import RunStore, asking
from mlflow_ckpt.errors import FormNotFoundError, InvalidArgumentError, VerificationError

_EXISTS = ErrorCode.Name(RESOURCE_ALREADY_EXISTS)
# https://mlflow.org/docs/latest/ml/model-registry: MLflow gives these their own meaning.
_RESERVED_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Registered:
    """A version of a registered model that points at a checkpoint.

    Attributes:
        name: The registered model.
        version: Its version.
        alias: The alias that points at it now; None if none was asked for.
        source: Where the checkpoint's files are.
        checkpoint: The checkpoint.
        is_new: Whether the version was made; False if it was there already.
    """

    name: str
    version: int
    alias: str | None
    source: str
    checkpoint: Checkpoint
    is_new: bool

    @property
    def uri(self) -> str:
        """The URI that MLflow's functions and commands take, and this package's."""
        end = f"/{self.version}" if self.alias is None else f"@{self.alias}"
        return f"models:/{self.name}{end}"


def _check_names(name: str, alias: str | None, tracking_uri: str | None) -> None:
    """Raise InvalidArgumentError if MLflow would refuse a model's name or an alias.

    MLflow checks them where they are looked up, and an alias's meaning only where it is set.
    """
    if alias is not None and _RESERVED_ALIAS.fullmatch(alias):
        raise _refused_name("alias", alias, "it is reserved.")
    with asking(f"look up the registered model {name!r}", tracking_uri) as client:
        _look_up("name of a registered model", name, lambda: client.get_registered_model(name))
        if alias is not None:
            _look_up("alias", alias, lambda: client.get_model_version_by_alias(name, alias))


def _look_up(what: str, given: str, look_up: Callable[[], object]) -> None:
    try:
        look_up()
    except MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise _refused_name(what, given, str(error).splitlines()[0]) from error
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _refused_name(what: str, given: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"MLflow takes no {what} like {given!r}: {reason}")


def register(
    run_id: str,
    checkpoint: str | int = "latest",
    *,
    name: str,
    alias: str | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
) -> Registered:
    """Make a checkpoint a version of a registered model.

    The version points at the run's artifact, and has tags for epoch, step, metrics and the digest
    of the weights. A checkpoint that is a version of that model already is not registered again.

    Args:
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…`.
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        name: The registered model, which is made if there is none.
        alias: An alias that is to point at the version, wherever it pointed before.
        monitor: For `"best"`, the metric to judge by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        tracking_uri: The tracking server and its registry; MLflow's current one if None.

    Raises:
        InvalidArgumentError: If MLflow would refuse the name or the alias.
        FormNotFoundError: If the checkpoint is no MLflow model (split form alone).
        VerificationError: If files of it are missing, or of another size.
        RunNotFoundError, CheckpointNotFoundError, TrackingError: As in `get_checkpoint`.
    """
    _check_names(name, alias, tracking_uri)
    found = find(Query(run_id, checkpoint, monitor, mode, tracking_uri))
    return _register(found.catalog.store, found.checkpoint, name, alias)


def _register(store: RunStore, checkpoint: Checkpoint, name: str, alias: str | None) -> Registered:
    """Make the version, unless there is one of the same checkpoint."""
    if "full" not in checkpoint.manifest.forms:
        raise FormNotFoundError(
            f"{checkpoint.name} of run {checkpoint.run_id} was saved in split form alone, which is "
            "no MLflow model. Register one that was saved with forms=('full',).",
            available=checkpoint.manifest.forms,
        )
    _require_files(store, checkpoint)
    with store.asking(f"register {checkpoint.name} as {name}") as client:
        found = _existing(client, checkpoint, name)
        version = _made(client, store, checkpoint, name) if found is None else found
        if alias is not None:
            client.set_registered_model_alias(name, alias, str(version.version))
    return Registered(
        name, int(version.version), alias, str(version.source), checkpoint, found is None
    )


def _require_files(store: RunStore, checkpoint: Checkpoint) -> None:
    """Look whether every file is there, without reading them."""
    path = checkpoint.artifact_path
    listed = {item.path.removeprefix(f"{path}/"): item.size for item in store.walk(path)}
    missing = tuple(e.path for e in checkpoint.manifest.files if e.path not in listed)
    altered = [
        entry
        for entry in checkpoint.manifest.files
        if listed.get(entry.path) not in (None, entry.size)
    ]
    if missing or altered:
        first = missing[0] if missing else altered[0].path
        raise VerificationError(
            f"The checkpoint {checkpoint.name} of run {checkpoint.run_id} is damaged ({first}), so "
            "it was not registered. See what else is: "
            f"mlflow-ckpt verify ckpt:/{checkpoint.run_id}/{checkpoint.name}",
            result=VerificationResult(checkpoint.name, missing=missing),
        )


def _existing(client: MlflowClient, checkpoint: Checkpoint, name: str) -> ModelVersion | None:
    quoted = name.replace("'", "''")
    found = client.search_model_versions(f"name = '{quoted}' AND run_id = '{checkpoint.run_id}'")
    digest = str(checkpoint.manifest.digest)
    same = [version for version in found if version.tags.get(tags.MANIFEST_DIGEST) == digest]
    return max(same, key=lambda version: int(version.version), default=None)


def _made(client: MlflowClient, store: RunStore, checkpoint: Checkpoint, name: str) -> ModelVersion:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != _EXISTS:
            raise
    # As mlflow.register_model does it: where the files are, not how they were found.
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
