"""What others wrote into a run: checkpoints of MLflow's own callback, and logged Keras models.

Such things have no manifest, so nothing proves that they are complete, or what was saved.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.file_names import ENDINGS
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt._format.ranking import best_of
from mlflow_ckpt._format.reference import ArtifactReference, Selector
from mlflow_ckpt._tracking import tags
from mlflow_ckpt._tracking.download import Progress, download
from mlflow_ckpt._tracking.parallel import in_parallel
from mlflow_ckpt._tracking.store import RunStore, StoredFile, asking
from mlflow_ckpt.errors import CheckpointNotFoundError, TrackingError, TrackingUnavailableError

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

CALLBACK = "MLflow's callback"
LOGGED_MODEL = "logged model"
FILE = "file"
# How MLflow's callback names what it saves.
_EPOCH, _STEP, _LATEST = "epoch_", "global_step_", "latest_"
_MODEL_NAMES = tuple(f"checkpoint{ending}" for ending in (".weights.h5", ".h5", ".keras"))
_METRICS_NAME = "checkpoint_metrics.json"
# Keras models as `mlflow.keras` and `mlflow.tensorflow` keep them.
_MODEL_FILES = ("model.keras", "model.h5")
_PARALLEL = 8
# In an error message.
_MOST_NAMES = 3


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A saved model that this package did not write, and that nothing proves.

    Attributes:
        run_id: The run that it belongs to; empty if none is known.
        name: What to call it.
        kind: `CALLBACK`, `LOGGED_MODEL` or `FILE`.
        uri: The URI that this package's commands take.
        path: Run-relative path of its file, or of the directory of an MLflow model; empty for a
            LoggedModel, whose files are its own.
        model_id: Id of the LoggedModel, if it is one.
        epoch: Number of completed epochs; None if unknown.
        step: Steps of the optimizer; None if unknown.
        metrics: What was recorded with it.
        size: Bytes; None if unknown.
        created: When, in ISO 8601; None if unknown.
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
        """What tells the best: nobody wrote it down, so the customary metric."""
        return Monitor("val_loss", "min") if "val_loss" in self.metrics else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "uri": self.uri,
            "epoch": self.epoch,
            "step": self.step,
            "metrics": dict(self.metrics),
            "size": self.size,
            "created": self.created,
            "verified": False,
        }


class _ModelStore(RunStore):
    """The files of a LoggedModel, which are not among the run's."""

    def __init__(self, model: LoggedModel, tracking_uri: str | None) -> None:
        super().__init__(model.source_run_id or "", tracking_uri)
        self._model = model

    @property
    def artifact_uri(self) -> str:
        """Where the files are."""
        return str(self._model.artifact_location)


def list_foreign(
    store: RunStore, listed: Sequence[StoredFile], own: Collection[str]
) -> list[ForeignCheckpoint]:
    """List what others wrote, oldest first.

    Args:
        store: The run.
        listed: What is directly below `checkpoints/`.
        own: Names of this package's own checkpoints.

    Raises:
        TrackingError: If the server fails.
    """
    saved = list(_saved_by_callback(store, listed, own))
    saved.sort(key=lambda each: (each.epoch or 0, each.step or 0))
    return [*saved, *_logged(store, len(own))]


def find(
    store: RunStore, selector: Selector, monitor: str | None = None, mode: str | None = None
) -> ForeignCheckpoint | None:
    """Find what others wrote by a selector; None if there is no such thing.

    Args:
        store: The run.
        selector: Which one.
        monitor: For `best`, the metric to judge by.
        mode: For `best`, `"min"` or `"max"`.

    Raises:
        MetricNotFoundError: If `best` is asked for by a metric that was never recorded.
        TrackingError: If the server fails.
    """
    found = list_foreign(store, store.list(layout.CHECKPOINTS_DIR), ())
    if not found:
        return None
    if selector.kind == "latest":
        return found[-1]
    if selector.kind == "best":
        return best_of(found, monitor, mode)
    wanted = [each for each in found if selector.number == getattr(each, selector.kind)]
    # Those saved at the end of the epoch, before those saved inside the next one.
    wanted.sort(key=lambda each: not each.name.startswith(_STEP))
    return wanted[-1] if wanted else None


@contextmanager
def hinting(store: RunStore) -> Iterator[None]:
    """Where a checkpoint is not found, say what others wrote into the run."""
    try:
        yield
    except CheckpointNotFoundError as error:
        found = list_foreign(store, store.list(layout.CHECKPOINTS_DIR), ())
        if not found:
            raise
        shown = ", ".join(each.name for each in found[-_MOST_NAMES:])
        more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
        raise CheckpointNotFoundError(
            f"{error} What others wrote is there ({shown}{more}), and nothing verifies it: "
            "mlflow-ckpt restore, predict and diff take it, and load_model(…, "
            "allow_unverified=True).",
            run_id=error.run_id,
            available=error.available,
        ) from error


def at(place: ArtifactReference, tracking_uri: str | None) -> ForeignCheckpoint:
    """Return what lies at a place.

    Raises:
        CheckpointNotFoundError: If it is no Keras model.
        TrackingError: If the server fails.
    """
    if place.model_id:
        return _described(_model(place.model_id, place.uri, tracking_uri), place.uri)
    store = RunStore(place.run_id, tracking_uri)
    parent, _, name = place.path.rpartition("/")
    if not parent or place.path.startswith(f"{layout.CHECKPOINTS_DIR}/"):
        # The newest first: MLflow takes the last of several logged models of one name, too.
        for each in reversed(list_foreign(store, store.list(layout.CHECKPOINTS_DIR), ())):
            if place.path in (each.path, each.path.rpartition("/")[0], each.name):
                return each
    if name.endswith(ENDINGS):
        listed = {item.path: item for item in store.list(parent)}
        if place.path in listed:
            size = listed[place.path].size
            return ForeignCheckpoint(
                place.run_id, name, FILE, place.uri, path=place.path, size=size
            )
    elif _is_keras(store, f"{place.path}/{layout.MLMODEL}"):
        return ForeignCheckpoint(place.run_id, name, LOGGED_MODEL, place.uri, path=place.path)
    raise CheckpointNotFoundError(
        f"{place.uri} is neither a checkpoint nor a Keras model that was logged. Expected a "
        f"checkpoint of the run, a file ({', '.join(ENDINGS)}), or what mlflow.keras.log_model or "
        f"mlflow.tensorflow.log_model wrote (no mere export). See: mlflow-ckpt list {place.run_id}",
        run_id=place.run_id,
    )


def fetch(
    found: ForeignCheckpoint,
    directory: Path,
    tracking_uri: str | None,
    progress: Progress | None = None,
) -> Path:
    """Download a saved model.

    Args:
        found: The model.
        directory: An empty directory.
        tracking_uri: The tracking server; MLflow's current one if None.
        progress: Called with bytes done and bytes in all, for what has several files.

    Returns:
        The file that holds it: `.keras`, `.h5` or `.weights.h5`.

    Raises:
        CheckpointNotFoundError: If there is no such file: the model is no Keras model, or it was
            exported for inference.
        TrackingError: If the server fails.
    """
    if found.model_id:
        model = _model(found.model_id, found.uri, tracking_uri)
        download(_ModelStore(model, tracking_uri), "", directory, progress)
        return _model_file(found, directory)
    store = RunStore(found.run_id, tracking_uri)
    if found.kind == LOGGED_MODEL:
        download(store, found.path, directory, progress)
        return _model_file(found, directory)
    target = directory / found.path.rpartition("/")[2]
    store.download(found.path, target)
    return target


def _saved_by_callback(
    store: RunStore, listed: Sequence[StoredFile], own: Collection[str]
) -> Iterator[ForeignCheckpoint]:
    names = {item.path.rpartition("/")[2]: item for item in listed}
    for ending in _MODEL_NAMES:
        file = names.get(f"{_LATEST}{ending}")
        if file is not None and not file.is_dir:
            text = store.read(f"{layout.CHECKPOINTS_DIR}/{_LATEST}{_METRICS_NAME}")
            yield _saved(store.run_id, file, file.path.rpartition("/")[2], text)
    directories = [
        item
        for name, item in names.items()
        if item.is_dir and name not in own and _is_callbacks(name)
    ]
    for found in in_parallel(partial(_look_into, store), directories, _PARALLEL):
        if found is not None:
            yield found


def _is_callbacks(name: str) -> bool:
    """Whether MLflow's callback gives a directory this name."""
    for prefix in (_EPOCH, _STEP):
        number = name.removeprefix(prefix)
        if number != name and number.isascii() and number.isdigit() and number == str(int(number)):
            return True
    return False


def _look_into(store: RunStore, directory: StoredFile) -> ForeignCheckpoint | None:
    inside = {item.path.rpartition("/")[2]: item for item in store.list(directory.path)}
    file = next((inside[name] for name in _MODEL_NAMES if name in inside), None)
    if file is None:
        return None
    text = store.read(f"{directory.path}/{_METRICS_NAME}") if _METRICS_NAME in inside else None
    return _saved(store.run_id, file, directory.path.rpartition("/")[2], text)


def _saved(run_id: str, file: StoredFile, name: str, text: bytes | None) -> ForeignCheckpoint:
    values = _values(text)
    epoch, step = _whole(values.pop("epoch", None)), _whole(values.pop("global_step", None))
    inside = name.startswith(_STEP)
    return ForeignCheckpoint(
        run_id,
        name,
        CALLBACK,
        f"runs:/{run_id}/{file.path}",
        path=file.path,
        # MLflow counts the first epoch as 0.
        epoch=None if epoch is None else epoch + (0 if inside else 1),
        step=step,
        metrics=values,
        size=file.size,
    )


def _values(text: bytes | None) -> dict[str, float]:
    try:
        content = json.loads(text or b"{}")
    except (RecursionError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {str(key): float(value) for key, value in content.items() if _is_number(value)}


def _whole(value: float | None) -> int | None:
    return int(value) if value is not None and value.is_integer() and value >= 0 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _logged(store: RunStore, own: int) -> list[ForeignCheckpoint]:
    """List the Keras models that were logged in the run, oldest first."""
    run = store.run
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    found = []
    # A row for each checkpoint of this package's own, and none besides: nothing to ask for.
    if len(outputs) > own:
        models = sorted(_models_of(store), key=lambda model: int(model.creation_timestamp))
        keras = in_parallel(partial(_is_keras_model, store.tracking_uri), models, _PARALLEL)
        found = [_described(m) for m, is_keras in zip(models, keras, strict=True) if is_keras]
    return [*_logged_by_mlflow_2(store), *found]


def _models_of(store: RunStore) -> Iterator[LoggedModel]:
    return (model for model in store.logged_models() if tags.ARTIFACT_PATH not in model.tags)


def _logged_by_mlflow_2(store: RunStore) -> Iterator[ForeignCheckpoint]:
    try:
        entries = json.loads(store.run.data.tags.get(tags.LOG_MODEL_HISTORY, "[]"))
        described = [(str(each["artifact_path"]), set(each["flavors"])) for each in entries]
    except (LookupError, TypeError, ValueError):
        return  # cut off, as tags are that grow too long
    for path, flavors in described:
        if flavors & {"keras", "tensorflow"}:
            uri = f"runs:/{store.run_id}/{path}"
            yield ForeignCheckpoint(store.run_id, path, LOGGED_MODEL, uri, path=path)


def _model(model_id: str, uri: str, tracking_uri: str | None) -> LoggedModel:
    with asking(f"find the model {uri}", tracking_uri) as client:
        return client.get_logged_model(model_id)


def _described(model: LoggedModel, uri: str = "") -> ForeignCheckpoint:
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


def _is_keras_model(tracking_uri: str, model: LoggedModel) -> bool:
    return _is_keras(_ModelStore(model, tracking_uri), layout.MLMODEL)


def _is_keras(store: RunStore, path: str) -> bool:
    try:
        text = store.read(path)
    except TrackingUnavailableError:
        raise
    except TrackingError:
        return False  # its files are where nobody here can read them
    return text is not None and _data_of(text) is not None


def _data_of(text: bytes | str) -> str | None:
    """Return where an MLflow model keeps its Keras model; None if it has none, or a mere export."""
    try:
        flavors = yaml.safe_load(text)["flavors"]
        for name in ("keras", "tensorflow"):
            flavor = flavors.get(name, {})
            is_keras = name == "keras" or flavor.get("model_type") == "keras"
            if is_keras and "data" in flavor and not flavor.get("save_exported_model"):
                return str(flavor["data"])
    except (AttributeError, LookupError, TypeError, yaml.YAMLError):
        pass
    return None


def _model_file(found: ForeignCheckpoint, directory: Path) -> Path:
    description = directory / layout.MLMODEL
    data = _data_of(description.read_bytes()) if description.is_file() else None
    if data is not None:
        for name in _MODEL_FILES:
            # A path in a file of others must not lead out of the directory.
            file = (directory / data / name).resolve()
            if file.is_file() and file.is_relative_to(directory.resolve()):
                return file
    raise CheckpointNotFoundError(
        f"{found.uri} holds no Keras model as a .keras or .h5 file, but perhaps one that was "
        "exported for inference, which stock MLflow loads: mlflow.pyfunc.load_model",
        run_id=found.run_id,
    )
