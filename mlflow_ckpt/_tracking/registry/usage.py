"""Finds the checkpoints of a run that registered model versions use."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection
from typing import TYPE_CHECKING
from urllib.parse import unquote

from mlflow.exceptions import MlflowException

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.reference import SCHEME, Reference
from mlflow_ckpt._tracking import tags
from mlflow_ckpt._tracking.store import MISSING, RunStore, model_versions
from mlflow_ckpt.errors import SelectorError

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

_LOGGED_MODEL = re.compile(r"models:/+(m-[^/@]+)(?:/.*)?")


def registered(store: RunStore, names: Collection[str]) -> dict[str, list[str]]:
    """Return the checkpoints of a run that registered model versions use, with the versions.

    In doubt, a checkpoint counts as used: a version of the whole `checkpoints/` directory, or of a
    deleted LoggedModel, uses all of them. A LoggedModel without this package's tags, as
    `mlflow.keras.log_model` creates it, has its own files and uses none.

    Returns:
        By name of a used checkpoint, its versions as phrases: `"NAME version 3"`.

    Raises:
        TrackingError: If the registry cannot be queried.
    """
    uses: dict[str, list[str]] = {}
    for version in _versions(store):
        for name in _used_by(version, store, frozenset(names)):
            uses.setdefault(name, []).append(f"{version.name} version {version.version}")
    return uses


def checkpoints_at(location: str, run_id: str, names: frozenset[str]) -> frozenset[str]:
    """Return the checkpoints of a run that a location contains or is part of.

    Args:
        location: A path or URI of any scheme: `runs:/`, `mlflow-artifacts:/`, `s3://`.
        run_id: The run, whose id is a component of every location of its artifacts.
        names: All checkpoints of the run, returned for a location that contains them all.
    """
    if location.startswith(SCHEME):
        return _checkpoints_of_uri(location, run_id, names)
    parts = posixpath.normpath(unquote(location).replace("\\", "/")).split("/")
    if run_id not in parts:
        return frozenset()
    inside = parts[parts.index(run_id) + 1 :]
    if inside[:1] == ["artifacts"]:
        inside = inside[1:]
    if inside and inside[0] != layout.CHECKPOINTS_DIR:
        return frozenset()
    if len(inside) < 2 or CheckpointName.parse(inside[1]) is None:
        return names
    return frozenset({inside[1]})


def _checkpoints_of_uri(uri: str, run_id: str, names: frozenset[str]) -> frozenset[str]:
    try:
        reference = Reference.parse(uri)
    except SelectorError:
        return names
    name = reference.selector.name
    # `latest` and `best` are always kept.
    return frozenset({str(name)}) if name and reference.run_id == run_id else frozenset()


def _versions(store: RunStore) -> list[ModelVersion]:
    """Return the versions created from the run, by their run id or their source."""
    versions: dict[tuple[str, int], ModelVersion] = {}
    for condition in (f"run_id = '{store.run_id}'", f"source_path LIKE '%{store.run_id}%'"):
        with store.client_to("search the model registry") as client:
            for version in model_versions(client, condition):
                versions[version.name, int(version.version)] = version
    return [versions[key] for key in sorted(versions)]


def _used_by(version: ModelVersion, store: RunStore, names: frozenset[str]) -> frozenset[str]:
    source = version.source or ""
    used = checkpoints_at(source, store.run_id, names)
    if source.startswith("models:"):
        # A copy of another version, or a LoggedModel, which the registry resolved on creation.
        with store.client_to("find the files of a registered model") as client:
            location = client.get_model_version_download_uri(version.name, version.version)
        used |= checkpoints_at(location or "", store.run_id, names)
    match = _LOGGED_MODEL.fullmatch(source)
    model_id = match[1] if match else version.model_id
    return used | _used_by_logged_model(model_id, store, names) if model_id else used


def _used_by_logged_model(model_id: str, store: RunStore, names: frozenset[str]) -> frozenset[str]:
    """Return the checkpoints that the tags of a LoggedModel name."""
    model = _logged_model(model_id, store)
    if model is None:
        return names
    values = [value for key, value in model.tags.items() if key.startswith(tags.PREFIX)]
    of_run = model.source_run_id == store.run_id
    last_parts = [value.rpartition("/")[2] for value in values]
    named = frozenset(part for part in last_parts if of_run and CheckpointName.parse(part))
    for value in values:
        named |= checkpoints_at(value, store.run_id, names)
    return names if of_run and values and not named else named


def _logged_model(model_id: str, store: RunStore) -> LoggedModel | None:
    with store.client_to("find the logged model of a registered model") as client:
        try:
            return client.get_logged_model(model_id)
        except MlflowException as error:
            if error.error_code != MISSING:
                raise
            return None
