"""Resolves run ids and URIs to runs and checkpoints, including `models:` URIs."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
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
from mlflow_ckpt._format.text import first_line
from mlflow_ckpt._tracking import tags
from mlflow_ckpt._tracking.store import INVALID, MISSING, client_to, model_versions
from mlflow_ckpt.errors import CheckpointNotFoundError, SelectorError

MODELS_SCHEME = "models:"


def resolve(
    run: str, checkpoint: str | int = "latest", tracking_uri: str | None = None
) -> Reference:
    """Resolve a run id or URI, and a selector, to a run and a checkpoint.

    Args:
        run: A run id, or a URI: `ckpt:/<run_id>/<selector>`, `runs:/<run_id>/checkpoints/<name>`,
            `models:/<name>/<version>`, `models:/<name>@<alias>`, `models:/<LoggedModel id>`.
        checkpoint: A selector. If the URI names a checkpoint, this must be the same or the default.
        tracking_uri: The tracking server and its registry; MLflow's current ones if None.

    Raises:
        SelectorError: If either cannot be parsed, or they contradict each other.
        CheckpointNotFoundError: If the model does not exist, or is not a checkpoint.
        TrackingError: If the server fails.
    """
    if not isinstance(run, str) or not run.strip().startswith(MODELS_SCHEME):
        return Reference.parse(run, checkpoint)
    uri = run.strip()
    reference = _find(uri, tracking_uri)
    if isinstance(reference, ArtifactReference):
        raise _not_a_checkpoint(uri, reference.uri)
    return reference.beside(Selector.parse(checkpoint), uri)


def locate(
    run: str, checkpoint: str | int = "latest", tracking_uri: str | None = None
) -> Reference | ArtifactReference:
    """Resolve as `resolve` does, or return a reference to a possible foreign model.

    Args:
        run: As in `resolve`; also `runs:/<run_id>/<path>` of any artifact, and registered or logged
            models of any kind.
        checkpoint: A selector; must be the default for a foreign model.
        tracking_uri: As in `resolve`.

    Raises:
        SelectorError, CheckpointNotFoundError, TrackingError: As in `resolve`.
    """
    uri = run.strip() if isinstance(run, str) else ""
    reference: Reference | ArtifactReference | None
    if uri.startswith(MODELS_SCHEME):
        reference = _find(uri, tracking_uri)
    else:
        try:
            return Reference.parse(run, checkpoint)
        except SelectorError:
            reference = ArtifactReference.of_runs_uri(uri)
            if reference is None or is_checkpoint_path(reference.path):
                raise
    selector = Selector.parse(checkpoint)
    if isinstance(reference, Reference):
        return reference.beside(selector, uri)
    if selector != Selector("latest"):
        raise SelectorError(
            f"Two checkpoints were named: {uri!r}, and {selector} separately. Name only one.",
            received=uri,
        )
    return reference


def is_checkpoint_path(path: str) -> bool:
    """Whether a run-relative path is `checkpoints/` or one of this package's checkpoints."""
    parts = path.split("/")
    return parts[:1] == [layout.CHECKPOINTS_DIR] and (
        len(parts) == 1 or (len(parts) == 2 and CheckpointName.parse(parts[1]) is not None)
    )


@dataclass(frozen=True)
class _ModelUri:
    """A parsed `models:` URI; parts that it does not contain are empty or None."""

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
    with client_to(f"find the model {uri}", tracking_uri) as client:
        try:
            if parsed.model_id is not None:
                return _of_logged_model(uri, client.get_logged_model(parsed.model_id))
            version = _version(client, uri, parsed)
            source = version.source or ""
            if source.startswith(MODELS_SCHEME):
                # A copy of another version, or created from a LoggedModel.
                return _find(source, tracking_uri)
        except MlflowException as error:
            if error.error_code not in (INVALID, MISSING):
                raise
            raise CheckpointNotFoundError(
                f"There is no model {uri}: {first_line(error)}", run_id=""
            ) from error
    return _of_source(uri, version)


def _version(client: MlflowClient, uri: str, parsed: _ModelUri) -> ModelVersion:
    name = parsed.name
    if parsed.alias is not None:
        return client.get_model_version_by_alias(name, parsed.alias)
    if parsed.version is not None:
        return client.get_model_version(name, parsed.version)
    quoted = name.replace("'", "''")
    versions = list(model_versions(client, f"name = '{quoted}'"))
    stage = parsed.stage.lower()
    candidates = [v for v in versions if stage in ("", str(v.current_stage).lower())]
    if not candidates:
        raise CheckpointNotFoundError(f"There is no model {uri}: it has no versions.", run_id="")
    return max(candidates, key=lambda version: int(version.version))


def _of_logged_model(uri: str, model: LoggedModel) -> Reference | ArtifactReference:
    path = model.tags.get(tags.ARTIFACT_PATH, "")
    if not path or not model.source_run_id:
        return ArtifactReference(uri, model.source_run_id or "", model_id=model.model_id)
    return Reference.parse(f"{RUNS_SCHEME}/{model.source_run_id}/{path}")


def _of_source(uri: str, version: ModelVersion) -> Reference | ArtifactReference:
    source = version.source or ""
    if source.startswith((SCHEME, RUNS_SCHEME)):
        artifact = ArtifactReference.of_runs_uri(source)
        if artifact and not is_checkpoint_path(artifact.path):
            return artifact
        return Reference.parse(source)
    parts = source.rstrip("/").split("/")
    # Every location of a run's artifacts contains the run's id as a path component.
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
    raise _not_a_checkpoint(uri, source)


def _not_a_checkpoint(uri: str, source: str) -> CheckpointNotFoundError:
    return CheckpointNotFoundError(
        f"{uri} is not a checkpoint of mlflow_ckpt, but {source}. Expected a version created by "
        "mlflow-ckpt register, or of runs:/<run_id>/checkpoints/<name>. "
        "To load it unverified: load_model(…, allow_unverified=True).",
        run_id="",
    )
