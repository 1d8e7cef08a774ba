"""Foreign checkpoints: those of MLflow's own callback, and logged Keras models.

They have no manifest, so neither their completeness nor their contents can be verified.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.file_names import ENDINGS
from mlflow_ckpt._format.manifest import safe_path
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt._format.ranking import best_of
from mlflow_ckpt._format.reference import ArtifactReference, Selector
from mlflow_ckpt._format.text import listed
from mlflow_ckpt._format.untrusted import fields, json_text, regular_file, yaml_text
from mlflow_ckpt._tracking import tags
from mlflow_ckpt._tracking.download import Progress, download
from mlflow_ckpt._tracking.parallel import in_parallel
from mlflow_ckpt._tracking.store import RunStore, StoredFile, client_to
from mlflow_ckpt.errors import (
    CheckpointNotFoundError,
    TrackingError,
    TrackingUnavailableError,
    UnsafeFileError,
)

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

CALLBACK = "MLflow's callback"
LOGGED_MODEL = "logged model"
FILE = "file"
# Prefixes of the names that MLflow's callback gives.
_EPOCH, _STEP, _LATEST = "epoch_", "global_step_", "latest_"
_MODEL_NAMES = tuple(f"checkpoint{ending}" for ending in (".weights.h5", ".h5", ".keras"))
_METRICS_NAME = "checkpoint_metrics.json"
# Files of Keras models in `mlflow.keras` and `mlflow.tensorflow` models.
_MODEL_FILES = ("model.keras", "model.h5")
_PARALLEL = 8
# Of integers that databases store.
_LARGEST = 2**63
# Number of names in an error message.
_MOST_NAMES = 3


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A saved model that this package did not write and cannot verify.

    Attributes:
        run_id: The run that it belongs to; empty if unknown.
        name: Its display name.
        kind: `CALLBACK`, `LOGGED_MODEL` or `FILE`.
        uri: The URI that this package's commands accept.
        path: Run-relative path of its file, or of the directory of an MLflow model; empty for a
            LoggedModel, whose files are not among the run's.
        model_id: Id of the LoggedModel, if it is one.
        epoch: Number of completed epochs; None if unknown.
        step: Number of optimizer steps; None if unknown.
        metrics: Recorded metrics by name.
        size: Bytes; None if unknown.
        created: Time of creation in ISO 8601; None if unknown.
    """

    run_id: str
    name: str
    kind: str
    uri: str
    path: str = ""
    model_id: str = ""
    epoch: int | None = None
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    size: int | None = None
    created: str | None = None

    @property
    def monitor(self) -> Monitor | None:
        """MLflow's callback records no monitor, so `val_loss` if it was logged; None otherwise."""
        return Monitor("val_loss", "min") if "val_loss" in self.metrics else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-serializable values."""
        names = ("name", "kind", "uri", "epoch", "step", "metrics", "size", "created")
        return {**{name: getattr(self, name) for name in names}, "verified": False}


class _ModelStore(RunStore):
    """Access to the files of a LoggedModel, which are not among the run's."""

    def __init__(self, model: LoggedModel, tracking_uri: str | None) -> None:
        super().__init__(model.source_run_id or "", tracking_uri)
        self._model = model

    @property
    def artifact_uri(self) -> str:
        """URI of the model's files."""
        return str(self._model.artifact_location)


def list_foreign(
    store: RunStore, artifacts: Sequence[StoredFile], own: Collection[str]
) -> list[ForeignCheckpoint]:
    """List the foreign checkpoints of a run, oldest first."""
    saved = list(_saved_by_callback(store, artifacts, own))
    saved.sort(key=lambda checkpoint: (checkpoint.epoch or 0, checkpoint.step or 0))
    return [*saved, *_logged_models(store, len(own))]


def find(
    store: RunStore, selector: Selector, monitor: str | None = None, mode: str | None = None
) -> ForeignCheckpoint | None:
    """Find a foreign checkpoint by a selector; return None if there is none.

    Args:
        store: The run.
        selector: The selector.
        monitor: For `best`, the metric to rank by.
        mode: For `best`, `"min"` or `"max"`.

    Raises:
        MetricNotFoundError: If no checkpoint recorded the metric of `best`.
        TrackingError: If the server fails.
    """
    checkpoints = _list_all(store)
    if not checkpoints:
        return None
    if selector.kind == "latest":
        return checkpoints[-1]
    if selector.kind == "best":
        return best_of(checkpoints, monitor, mode)
    matches = [c for c in checkpoints if selector.number == getattr(c, selector.kind)]
    # Prefer one saved at the end of the epoch to one saved within the next epoch.
    matches.sort(key=lambda checkpoint: not checkpoint.name.startswith(_STEP))
    return matches[-1] if matches else None


def _list_all(store: RunStore) -> list[ForeignCheckpoint]:
    return list_foreign(store, store.list(layout.CHECKPOINTS_DIR), ())


@contextmanager
def hinting(store: RunStore) -> Iterator[None]:
    """Add the run's foreign checkpoints to the message of a CheckpointNotFoundError."""
    try:
        yield
    except CheckpointNotFoundError as error:
        names = [checkpoint.name for checkpoint in _list_all(store)]
        if not names:
            raise
        names = [*names[-_MOST_NAMES:], *names[:-_MOST_NAMES]]  # show the newest
        raise CheckpointNotFoundError(
            f"{error} The run has models saved by other tools ({listed(names, _MOST_NAMES)}), "
            "which cannot be verified. Load them with mlflow-ckpt restore, predict or diff, or "
            "load_model(…, allow_unverified=True).",
            run_id=error.run_id,
            available=error.available,
        ) from error


def at(reference: ArtifactReference, tracking_uri: str | None) -> ForeignCheckpoint:
    """Return the foreign checkpoint that a reference points at.

    Raises:
        CheckpointNotFoundError: If it is not a Keras model.
        TrackingError: If the server fails.
    """
    if reference.model_id:
        model = _get_model(reference.model_id, reference.uri, tracking_uri)
        return _from_logged_model(model, reference.uri)
    store = RunStore(reference.run_id, tracking_uri)
    parent, _, name = reference.path.rpartition("/")
    if not parent or reference.path.startswith(f"{layout.CHECKPOINTS_DIR}/"):
        # Newest first: like MLflow, prefer the last of several logged models with the same name.
        for checkpoint in reversed(_list_all(store)):
            path = checkpoint.path
            if reference.path in (path, path.rpartition("/")[0], checkpoint.name):
                return checkpoint
    if name.endswith(ENDINGS):
        sizes = {item.path: item.size for item in store.list(parent)}
        if reference.path in sizes:
            size = sizes[reference.path]
            return ForeignCheckpoint(
                reference.run_id, name, FILE, reference.uri, path=reference.path, size=size
            )
    elif _is_keras(store, f"{reference.path}/{layout.MLMODEL}"):
        return ForeignCheckpoint(
            reference.run_id, name, LOGGED_MODEL, reference.uri, path=reference.path
        )
    raise CheckpointNotFoundError(
        f"{reference.uri} is neither a checkpoint nor a logged Keras model. Expected a checkpoint "
        f"of the run, a file ({', '.join(ENDINGS)}), or a model logged by mlflow.keras.log_model "
        f"or mlflow.tensorflow.log_model (not an export). See: mlflow-ckpt list "
        f"{reference.run_id}",
        run_id=reference.run_id,
    )


def fetch(
    checkpoint: ForeignCheckpoint,
    directory: Path,
    tracking_uri: str | None,
    progress: Progress | None = None,
) -> Path:
    """Download a foreign checkpoint; return its model file: `.keras`, `.h5` or `.weights.h5`.

    Args:
        checkpoint: The checkpoint.
        directory: An empty directory.
        tracking_uri: The tracking server; MLflow's current one if None.
        progress: Called with bytes done and total bytes if there are several files.

    Raises:
        CheckpointNotFoundError: If there is no such file, because the model is not a Keras model
            or was exported for inference.
        TrackingError: If the server fails.
    """
    if checkpoint.model_id:
        model = _get_model(checkpoint.model_id, checkpoint.uri, tracking_uri)
        download(_ModelStore(model, tracking_uri), "", directory, progress)
        return _model_file(checkpoint, directory)
    store = RunStore(checkpoint.run_id, tracking_uri)
    if checkpoint.kind == LOGGED_MODEL:
        download(store, checkpoint.path, directory, progress)
        return _model_file(checkpoint, directory)
    target = directory / checkpoint.path.rpartition("/")[2]
    store.download(checkpoint.path, target, checkpoint.size)
    return target


def _saved_by_callback(
    store: RunStore, artifacts: Sequence[StoredFile], own: Collection[str]
) -> Iterator[ForeignCheckpoint]:
    names = {item.name: item for item in artifacts}
    for ending in _MODEL_NAMES:
        file = names.get(f"{_LATEST}{ending}")
        if file is not None and not file.is_dir:
            text = _read_small(store, f"{layout.CHECKPOINTS_DIR}/{_LATEST}{_METRICS_NAME}")
            yield _from_callback(store.run_id, file, file.name, text)
    others = (item for name, item in names.items() if item.is_dir and name not in own)
    directories = [item for item in others if _is_callback_name(item.name)]
    for checkpoint in in_parallel(partial(_read_directory, store), directories, _PARALLEL):
        if checkpoint is not None:
            yield checkpoint


def _is_callback_name(name: str) -> bool:
    """Whether MLflow's callback gives directories such a name."""
    for prefix in (_EPOCH, _STEP):
        number = name.removeprefix(prefix)
        if number != name and number.isascii() and number.isdigit() and number == str(int(number)):
            return True
    return False


def _read_directory(store: RunStore, directory: StoredFile) -> ForeignCheckpoint | None:
    files = {item.name: item for item in store.list(directory.path)}
    file = next((files[name] for name in _MODEL_NAMES if name in files), None)
    if file is None:
        return None
    text = (
        _read_small(store, f"{directory.path}/{_METRICS_NAME}") if _METRICS_NAME in files else None
    )
    return _from_callback(store.run_id, file, directory.name, text)


def _from_callback(
    run_id: str, file: StoredFile, name: str, text: bytes | None
) -> ForeignCheckpoint:
    metrics = _parse_metrics(text)
    epoch, step = _count(metrics.pop("epoch", None)), _count(metrics.pop("global_step", None))
    return ForeignCheckpoint(
        run_id,
        name,
        CALLBACK,
        f"runs:/{run_id}/{file.path}",
        path=file.path,
        # MLflow numbers the first epoch 0.
        epoch=None if epoch is None else epoch + (0 if name.startswith(_STEP) else 1),
        step=step,
        metrics=metrics,
        size=file.size,
    )


def _parse_metrics(text: bytes | None) -> dict[str, float]:
    try:
        content = fields.table(json_text.parse(text or b"{}"))
    except (TypeError, ValueError):
        return {}
    return {key: float(value) for key, value in content.items() if _is_number(value)}


def _count(value: float | None) -> int | None:
    whole = value is not None and value.is_integer() and 0 <= value < _LARGEST
    return int(value) if whole and value is not None else None


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, float) or abs(value) < _LARGEST


def _logged_models(store: RunStore, own: int) -> list[ForeignCheckpoint]:
    """List the Keras models that were logged to the run, oldest first."""
    run = store.run
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    checkpoints = []
    # This package logs one model per checkpoint of its own: search only if there are more.
    if len(outputs) > own:
        foreign = (m for m in store.logged_models() if tags.ARTIFACT_PATH not in m.tags)
        models = sorted(foreign, key=lambda model: int(model.creation_timestamp))
        stores = [_ModelStore(model, store.tracking_uri) for model in models]
        keras = in_parallel(partial(_is_keras, path=layout.MLMODEL), stores, _PARALLEL)
        models = [model for model, is_keras in zip(models, keras, strict=True) if is_keras]
        checkpoints = [_from_logged_model(model) for model in models]
    return [*_logged_by_mlflow_2(store), *checkpoints]


def _logged_by_mlflow_2(store: RunStore) -> Iterator[ForeignCheckpoint]:
    try:
        entries = json_text.parse(store.run.data.tags.get(tags.LOG_MODEL_HISTORY, "[]"))
        models = [
            (safe_path(fields.text(entry["artifact_path"])), fields.table(entry["flavors"]).keys())
            for entry in fields.items(entries)
        ]
    except (LookupError, TypeError, ValueError):
        return  # MLflow truncates long tags
    for path, flavors in models:
        if flavors & {"keras", "tensorflow"}:
            uri = f"runs:/{store.run_id}/{path}"
            yield ForeignCheckpoint(store.run_id, path, LOGGED_MODEL, uri, path=path)


def _get_model(model_id: str, uri: str, tracking_uri: str | None) -> LoggedModel:
    with client_to(f"find the model {uri}", tracking_uri) as client:
        return client.get_logged_model(model_id)


def _from_logged_model(model: LoggedModel, uri: str = "") -> ForeignCheckpoint:
    newest = sorted(model.metrics or [], key=lambda point: (point.step, point.timestamp))
    created = datetime.fromtimestamp(model.creation_timestamp / 1e3, UTC)
    return ForeignCheckpoint(
        model.source_run_id or "",
        model.name,
        LOGGED_MODEL,
        uri or f"models:/{model.model_id}",
        model_id=model.model_id,
        metrics={point.key: point.value for point in newest},
        created=created.isoformat(timespec="seconds"),
    )


def _is_keras(store: RunStore, path: str) -> bool:
    try:
        text = _read_small(store, path)
    except TrackingUnavailableError:
        raise
    except TrackingError:
        return False  # its files are not accessible from here
    return text is not None and _data_path(text) is not None


def _read_small(store: RunStore, path: str) -> bytes | None:
    """Return the bytes of a small file; None if there is no such file, but something else."""
    try:
        return store.read(path)
    except UnsafeFileError:
        return None


def _data_path(text: bytes | str) -> str | None:
    """Return the path of the Keras model in an MLflow model; None without one, or if exported."""
    try:
        flavors = yaml_text.parse(text)["flavors"]
        for name in ("keras", "tensorflow"):
            flavor = flavors.get(name, {})
            is_keras = name == "keras" or flavor.get("model_type") == "keras"
            if is_keras and "data" in flavor and not flavor.get("save_exported_model"):
                return fields.text(flavor["data"])
    except (AttributeError, LookupError, TypeError, ValueError):
        pass
    return None


def _model_file(checkpoint: ForeignCheckpoint, directory: Path) -> Path:
    mlmodel = directory / layout.MLMODEL
    data = _data_path(regular_file.read(mlmodel)) if mlmodel.is_file() else None
    if data is not None:
        for name in _MODEL_FILES:
            # A path in a foreign file must not lead out of the directory.
            file = (directory / data / name).resolve()
            if file.is_file() and file.is_relative_to(directory.resolve()):
                return file
    raise CheckpointNotFoundError(
        f"{checkpoint.uri} holds no Keras model as a .keras or .h5 file. If it was exported "
        "for inference, load it with stock MLflow: mlflow.pyfunc.load_model",
        run_id=checkpoint.run_id,
    )
