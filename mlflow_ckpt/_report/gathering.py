"""Collects the data of a run's report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.architecture import parse_architecture
from mlflow_ckpt._format.fingerprint import WEIGHTS_ROLE, TensorFingerprint
from mlflow_ckpt._format.text import listed, shape_text
from mlflow_ckpt._format.weights_file import reading
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.checkpoint import Checkpoint
from mlflow_ckpt._tracking.download import Progress
from mlflow_ckpt._tracking.parallel import in_parallel
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.ui.weight_metrics import PREFIX
from mlflow_ckpt.errors import MlflowCkptError

T = TypeVar("T")
# A tensor and the epoch of its checkpoint, oldest first.
History = Sequence[tuple[int, TensorFingerprint]]
# These limits keep the page below two megabytes.
MOST_FINGERPRINTS = 60
MOST_METRICS = 40
MOST_POINTS = 400
MOST_DRAWN = 20
# Size in bytes up to which a checkpoint is downloaded just for histograms.
MOST_BYTES = 64 << 20
_THREADS = 8
_BINS = 40
_MOST_NAMED = 10
# matplotlib subtracts values, and the differences must not overflow.
_LARGEST = 1e300


@dataclass(frozen=True)
class CheckpointWeights:
    """The fingerprints of a checkpoint's weights.

    Attributes:
        checkpoint: The checkpoint.
        tensors: Its weights by name.
    """

    checkpoint: Checkpoint
    tensors: Mapping[str, TensorFingerprint]

    @property
    def position(self) -> float:
        """Position on the x axis: completed epochs, or steps if saved within an epoch."""
        return float(self.checkpoint.manifest.chart_step)


@dataclass
class RunData:
    """The data of one run's report.

    Attributes:
        run_id: Id of the run.
        title: Name of the run.
        status: MLflow's status of the run.
        metrics: Steps and values, of equal length, by metric.
        checkpoints: All complete checkpoints, oldest first.
        weights: The checkpoints whose statistics are shown, oldest first.
        layers: The latest checkpoint's layers: name, class, parameters, shapes.
        architecture: The latest checkpoint's `architecture.json`.
        untrained: Names of the layers that are not trainable.
        histograms: Counts and bin edges, by tensor.
        notes: What is left out, and why.
    """

    run_id: str
    title: str
    status: str
    metrics: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    weights: list[CheckpointWeights] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    architecture: dict[str, Any] = field(default_factory=dict)
    untrained: set[str] = field(default_factory=set)
    histograms: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def gather(store: RunStore, *, always: bool, progress: Progress | None = None) -> RunData:
    """Collect the data of a run's report; arguments and errors as in `build`."""
    _ = store.run  # raises RunNotFoundError if the run does not exist
    run = store.current_run()
    data = RunData(store.run_id, run.info.run_name or store.run_id, run.info.status)
    _read_metrics(store, sorted(run.data.metrics), data)
    data.checkpoints, damaged = Catalog(store).scan()
    data.notes += [f"The checkpoint {name} is damaged: {error}" for name, error in damaged.items()]
    if not data.checkpoints:
        data.notes.append("The run has no checkpoints: there are no weights to show.")
        return data
    checkpoints = sampled(data.checkpoints, MOST_FINGERPRINTS)
    if len(checkpoints) < len(data.checkpoints):
        data.notes.append(
            f"Weight statistics are of {len(checkpoints)} of {len(data.checkpoints)} checkpoints, "
            "spread evenly."
        )
    results = in_parallel(lambda c: _read_weights(store, c), checkpoints, _THREADS)
    data.weights = [result for result in results if isinstance(result, CheckpointWeights)]
    data.notes += [result for result in results if isinstance(result, str)]
    _read_architecture(store, data)
    _read_histograms(store, data, always=always, progress=progress)
    return data


def sampled(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` (>= 2) evenly spread items, including the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def warnings(data: RunData) -> list[str]:
    """Describe the tensors that are dead, frozen or not finite, with their epochs."""
    lines: list[str] = []
    for name in dict.fromkeys(name for weights in data.weights for name in weights.tensors):
        history = [(weights.checkpoint.manifest.epoch, weights.tensors[name])
                   for weights in data.weights if name in weights.tensors]  # fmt: skip
        trainable = history[-1][1].layer not in data.untrained
        lines += _tensor_warnings(history, trainable=trainable)
    with_weights = [layer["name"] for layer in data.layers if layer["parameters"]]
    untrained = [name for name in with_weights if name in data.untrained]
    if untrained:
        names = listed(untrained, _MOST_NAMED)
        lines.append(f"frozen on purpose, as their layers are not trainable: {names}")
    return lines


def _tensor_warnings(history: History, *, trainable: bool) -> Iterator[str]:
    epoch, latest = history[-1]
    label, statistics = latest.label, latest.statistics
    for what, count in (("NaN", "nan_count"), ("Inf", "inf_count")):
        epochs = [e for e, tensor in history if getattr(tensor.statistics, count)]
        if epochs:
            yield f"{label}: {what} from epoch {epochs[0]} ({len(epochs)} checkpoints)"
    if statistics.norm == 0 and not (statistics.nan_count or statistics.inf_count):
        yield f"{label}: dead, all zeros at epoch {epoch}"
    if trainable and not latest.dtype.startswith(("int", "uint")) and _is_constant(history):
        yield f"{label}: frozen, unchanged from epoch {history[0][0]} to {epoch}"


def _is_constant(history: History) -> bool:
    return len(history) > 1 and all(a.digest == b.digest for (_, a), (_, b) in pairwise(history))


def drawn(data: RunData) -> list[TensorFingerprint]:
    """Return the tensors to draw charts of: the largest of the latest checkpoint."""
    if not data.weights:
        return []
    tensors = list(data.weights[-1].tensors.values())
    largest = sorted(tensors, key=lambda tensor: -_size(tensor))
    names = {tensor.name for tensor in largest[:MOST_DRAWN]}
    return [tensor for tensor in tensors if tensor.name in names]


def _size(tensor: TensorFingerprint) -> int:
    return int(np.prod(tensor.shape, dtype=object))


def finite(values: Iterable[float | None]) -> list[float]:
    """Replace values that cannot be drawn by NaN, which leaves a gap."""
    return [
        float(v) if v is not None and -_LARGEST < v < _LARGEST else float("nan") for v in values
    ]


def _read_metrics(store: RunStore, logged: Sequence[str], data: RunData) -> None:
    # Metrics of weights are drawn from the fingerprints.
    names = [name for name in logged if not name.startswith(("system/", PREFIX))]
    if len(names) > MOST_METRICS:
        data.notes.append(f"Curves are of the first {MOST_METRICS} of {len(names)} metrics.")
        names = names[:MOST_METRICS]

    def history(name: str) -> list[Any]:
        with store.client_to("read the metrics") as client:
            return list(client.get_metric_history(store.run_id, name))

    for name, points in zip(names, in_parallel(history, names, _THREADS), strict=True):
        points = sampled(sorted(points, key=lambda p: (p.step, p.timestamp)), MOST_POINTS)
        data.metrics[name] = finite(p.step for p in points), finite(p.value for p in points)


def _read_weights(store: RunStore, checkpoint: Checkpoint) -> CheckpointWeights | str:
    """Return the fingerprints of a checkpoint's weights, or a note if they cannot be read."""
    try:
        tensors = Catalog(store).fingerprint(checkpoint).of_role(WEIGHTS_ROLE)
    except MlflowCkptError as error:
        return f"Weights of a checkpoint are left out: {error}"
    return CheckpointWeights(checkpoint, {tensor.name: tensor for tensor in tensors})


def _read_architecture(store: RunStore, data: RunData) -> None:
    latest = data.checkpoints[-1]
    try:
        text = store.read(f"{latest.artifact_path}/{layout.ARCHITECTURE_JSON}")
        data.architecture = parse_architecture(text or b"{}")
        layers = list(_layers(data.architecture))
    except (MlflowCkptError, TypeError, AttributeError, RecursionError) as error:
        data.notes.append(f"The architecture of {latest.name} cannot be read: {error}")
        return
    by_layer: dict[str, list[TensorFingerprint]] = {}
    for tensor in data.weights[-1].tensors.values() if data.weights else ():
        by_layer.setdefault(tensor.layer or "", []).append(tensor)
    for name, kind, trainable, input_shape in layers:
        tensors = by_layer.get(name, [])
        if not trainable:
            data.untrained.add(name)
        data.layers.append({
            "name": name, "kind": kind, "trainable": trainable, "input": input_shape,
            "parameters": sum(_size(tensor) for tensor in tensors),
            "shapes": ", ".join(f"{t.variable} {shape_text(t.shape)}" for t in tensors),
        })  # fmt: skip


def _layers(node: Any) -> Iterator[tuple[str, str, bool, str]]:
    """Yield name, class, trainability and input shape of all layers, nested ones included."""
    for layer in node.get("config", {}).get("layers", ()):
        config = layer.get("config", {})
        yield (
            str(config.get("name", layer.get("name", "?"))),
            str(layer.get("class_name", "?")),
            config.get("trainable", True) is not False,
            _input_shape(layer),
        )
        yield from _layers(layer)


def _input_shape(layer: Any) -> str:
    """Return the input shape, or shapes, that a layer was built with; "" if unknown."""
    build = layer.get("build_config") or {}
    shape = build.get("input_shape") or layer.get("config", {}).get("batch_shape")
    if not shape:
        shapes = (build.get("shapes_dict") or {}).values()
    else:
        shapes = shape if all(isinstance(item, list) for item in shape) else [shape]
    return ", ".join(shape_text(item) for item in shapes if isinstance(item, list))


def _read_histograms(
    store: RunStore, data: RunData, *, always: bool, progress: Progress | None
) -> None:
    latest = data.checkpoints[-1]
    local = store.local_path(latest.artifact_path)
    size = latest.manifest.size
    if not always and size > MOST_BYTES and not (local is not None and local.is_dir()):
        data.notes.append(
            f"Histograms are left out: they would take a download of {size / 1e6:.0f} MB. "
            "`mlflow-ckpt report` makes them."
        )
        return
    try:
        with Catalog(store).fetch(latest, progress) as directory, reading(directory) as read_tensor:
            for tensor in drawn(data):
                if (values := read_tensor(tensor)) is not None:
                    _add_histogram(data, tensor, values)
    except MlflowCkptError as error:
        data.notes.append(f"Histograms are left out: {error}")


def _add_histogram(data: RunData, tensor: TensorFingerprint, values: np.ndarray[Any, Any]) -> None:
    if np.issubdtype(values.dtype, np.complexfloating) or values.dtype.kind in "OSU":
        return
    flat = values.astype(np.float64).ravel()
    flat = flat[np.abs(flat) < _LARGEST]
    try:
        counts, edges = np.histogram(flat, _BINS)
    except ValueError:
        return  # the values are too close to each other for bins between them
    if len(flat):
        data.histograms[tensor.name] = counts.tolist(), edges.tolist()
