"""Which run and checkpoint a person means, where the model registry has to be asked."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.reference import (
    RUNS_SCHEME,
    SCHEME,
    ArtifactReference,
    Reference,
    Selector,
)
from mlflow_ckpt._tracking import tags
from mlflow_ckpt._tracking.store import asking
from mlflow_ckpt.errors import CheckpointNotFoundError, SelectorError

MODELS_SCHEME = "models:"
_MISSING = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


def resolve(
    run: str, checkpoint: str | int = "latest", tracking_uri: str | None = None
) -> Reference:
    """Return the run and the checkpoint that are meant.

    Args:
        run: A run id, or a URI: `ckpt:/<run_id>/<selector>`, `runs:/<run_id>/checkpoints/<name>`,
            `models:/<name>/<version>`, `models:/<name>@<alias>`, `models:/<LoggedModel id>`.
        checkpoint: A selector. Beside a URI that names a checkpoint, this must be the same or the
            default.
        tracking_uri: The tracking server, and its registry; MLflow's current ones if None.

    Raises:
        SelectorError: If either does not parse, or they contradict each other.
        CheckpointNotFoundError: If the registry has no such model, or it is not a checkpoint.
        TrackingError: If the server fails.
    """
    if not isinstance(run, str) or not run.strip().startswith(MODELS_SCHEME):
        return Reference.parse(run, checkpoint)
    uri = run.strip()
    found = _find(uri, tracking_uri)
    if isinstance(found, ArtifactReference):
        raise _not_ours(uri, found.uri)
    return found.beside(Selector.parse(checkpoint), uri)


def locate(
    run: str, checkpoint: str | int = "latest", tracking_uri: str | None = None
) -> Reference | ArtifactReference:
    """Return the same, or the place of what may be a model that others wrote.

    Args:
        run: As in `resolve`; besides, `runs:/<run_id>/<path>` of any artifact, and registered or
            logged models of any kind.
        checkpoint: A selector; nothing but the default beside a URI of others.
        tracking_uri: As in `resolve`.

    Raises:
        SelectorError, CheckpointNotFoundError, TrackingError: As in `resolve`.
    """
    uri = run.strip() if isinstance(run, str) else ""
    found: Reference | ArtifactReference | None
    if uri.startswith(MODELS_SCHEME):
        found = _find(uri, tracking_uri)
    else:
        try:
            return Reference.parse(run, checkpoint)
        except SelectorError:
            found = ArtifactReference.of_runs_uri(uri)
            if found is None or is_ours(found.path):
                raise
    given = Selector.parse(checkpoint)
    if isinstance(found, Reference):
        return found.beside(given, uri)
    if given != Selector("latest"):
        raise SelectorError(
            f"Two checkpoints were named: {uri!r}, and {given} beside it. Name one.", received=uri
        )
    return found


def is_ours(path: str) -> bool:
    """Whether a run-relative path is that of a checkpoint, as this package names its own."""
    parts = path.split("/")
    return parts[:1] == [layout.CHECKPOINTS_DIR] and (
        len(parts) == 1 or (len(parts) == 2 and CheckpointName.parse(parts[1]) is not None)
    )


@dataclass(frozen=True)
class _ModelUri:
    """A `models:` URI, as MLflow documents it; empty or None for what it does not name."""

    name: str = ""
    version: str | None = None
    stage: str = ""
    alias: str | None = None
    model_id: str | None = None

    @classmethod
    def parse(cls, uri: str) -> _ModelUri:
        path = uri.removeprefix(MODELS_SCHEME)
        parts = path.lstrip("/").split("/")
        if not path.startswith("/") or len(parts) > 2 or not all(part.strip() for part in parts):
            raise SelectorError(
                f"The URI {uri!r} was not understood. Expected models:/<name>/<version>, "
                "models:/<name>@<alias>, or models:/<LoggedModel id>.",
                received=uri,
            )
        if len(parts) == 1:
            name, at, alias = parts[0].rpartition("@")
            return cls(name, alias=alias) if at else cls(model_id=parts[0])
        name, suffix = parts
        if suffix.isdigit():
            return cls(name, version=suffix)
        return cls(name, stage="" if suffix.lower() == "latest" else suffix)


def _find(uri: str, tracking_uri: str | None) -> Reference | ArtifactReference:
    parsed = _ModelUri.parse(uri)
    with asking(f"find the model {uri}", tracking_uri) as client:
        try:
            if parsed.model_id is not None:
                return _of_logged_model(uri, client.get_logged_model(parsed.model_id))
            version = _version(client, uri, parsed)
            own = version.source or ""
            if own.startswith(MODELS_SCHEME):
                # A copy of another version, or made of a LoggedModel.
                return _find(own, tracking_uri)
        except MlflowException as error:
            if error.error_code not in (_MISSING, "INVALID_PARAMETER_VALUE"):
                raise
            raise CheckpointNotFoundError(
                f"There is no model {uri}: {str(error).splitlines()[0]}", run_id=""
            ) from error
    return _of_source(uri, version)


def _version(client: MlflowClient, uri: str, parsed: _ModelUri) -> ModelVersion:
    name = parsed.name
    if parsed.alias is not None:
        return client.get_model_version_by_alias(name, parsed.alias)
    if parsed.version is not None:
        return client.get_model_version(name, parsed.version)
    quoted = name.replace("'", "''")
    versions = client.search_model_versions(f"name = '{quoted}'")
    stage = parsed.stage.lower()
    found = [each for each in versions if stage in ("", str(each.current_stage).lower())]
    if not found:
        raise CheckpointNotFoundError(f"There is no model {uri}: it has no versions.", run_id="")
    return max(found, key=lambda version: int(version.version))


def _of_logged_model(uri: str, model: LoggedModel) -> Reference | ArtifactReference:
    path = model.tags.get(tags.ARTIFACT_PATH, "")
    if not path or not model.source_run_id:
        return ArtifactReference(uri, model.source_run_id or "", model_id=model.model_id)
    return Reference.parse(f"{RUNS_SCHEME}/{model.source_run_id}/{path}")


def _of_source(uri: str, version: ModelVersion) -> Reference | ArtifactReference:
    source = version.source or ""
    if source.startswith((SCHEME, RUNS_SCHEME)):
        place = ArtifactReference.of_runs_uri(source)
        return place if place and not is_ours(place.path) else Reference.parse(source)
    parts = source.rstrip("/").split("/")
    # MLflow has the id of a run as a part of every location of its artifacts.
    if (
        version.run_id in parts
        and parts[-2:-1] == [layout.CHECKPOINTS_DIR]
        and CheckpointName.parse(parts[-1])
    ):
        return Reference.parse(f"{RUNS_SCHEME}/{version.run_id}/{'/'.join(parts[-2:])}")
    if version.run_id in parts and "artifacts" in parts[parts.index(version.run_id) :]:
        inside = parts[parts.index("artifacts", parts.index(version.run_id)) + 1 :]
        if inside:
            return ArtifactReference(source, version.run_id, "/".join(inside))
    raise _not_ours(uri, source)


def _not_ours(uri: str, what: str) -> CheckpointNotFoundError:
    return CheckpointNotFoundError(
        f"{uri} is not a checkpoint of mlflow_ckpt, but {what}. Expected a version that was made "
        "by mlflow-ckpt register, or of runs:/<run_id>/checkpoints/<name>. "
        "Loading it all the same, unverified: load_model(…, allow_unverified=True).",
        run_id="",
    )
