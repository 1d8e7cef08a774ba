"""Reads out of a run what its report shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.fingerprint import WEIGHTS_ROLE, Fingerprint, TensorFingerprint
from mlflow_ckpt._format.weights_file import reading
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.checkpoint import Checkpoint
from mlflow_ckpt._tracking.parallel import in_parallel
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.ui.weight_metrics import PREFIX
from mlflow_ckpt.errors import MlflowCkptError

T = TypeVar("T")
Progress = Callable[[int, int], None]
# Whatever a run holds, the page stays below two megabytes.
MOST_FINGERPRINTS = 60
MOST_METRICS = 40
MOST_POINTS = 400
MOST_DRAWN = 20
# Bytes of a checkpoint that are downloaded for nothing but histograms.
MOST_BYTES = 64 << 20
_THREADS = 8
_BINS = 40
_MOST_NAMED = 10
# matplotlib computes with differences of values: these must not overflow.
_LARGEST = 1e300


@dataclass(frozen=True)
class Moment:
    """A checkpoint and the statistics of its weights.

    Attributes:
        checkpoint: The checkpoint.
        tensors: Its weights by name; empty if its fingerprint cannot be read.
    """

    checkpoint: Checkpoint
    tensors: Mapping[str, TensorFingerprint]

    @property
    def position(self) -> float:
        """Where it is in a chart: completed epochs, or steps if it was saved inside an epoch."""
        return float(self.checkpoint.manifest.chart_step)


@dataclass
class Gathered:
    """What a report shows of one run.

    Attributes:
        run_id: The run.
        title: The run's name.
        status: MLflow's word for its state.
        metrics: By name, steps and values of equal length.
        checkpoints: All complete ones, oldest first.
        moments: Those whose statistics are shown, oldest first.
        layers: The latest checkpoint's layers: name, class, parameters, shapes.
        architecture: The latest checkpoint's architecture, as `architecture.json` holds it.
        untrained: Names of layers that are not trained.
        histograms: By tensor, counts and the edges between them.
        notes: What was left out, and why.
    """

    run_id: str
    title: str
    status: str
    metrics: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    architecture: dict[str, Any] = field(default_factory=dict)
    untrained: set[str] = field(default_factory=set)
    histograms: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def gather(store: RunStore, *, always: bool, progress: Progress | None = None) -> Gathered:
    """Read what a report shows.

    Args:
        store: The run.
        always: Whether histograms are worth the download of a large checkpoint.
        progress: Called with bytes done and bytes in all, where files are downloaded.

    Raises:
        TrackingError: If the server does not answer.
        RunNotFoundError: If there is no such run.
    """
    _ = store.run  # an unknown run is told as such
    run = store.current_run()
    found = Gathered(store.run_id, run.info.run_name or store.run_id, run.info.status)
    _read_metrics(store, sorted(run.data.metrics), found)
    found.checkpoints, damaged = Catalog(store).scan()
    found.notes += [f"The checkpoint {name} is damaged: {error}" for name, error in damaged.items()]
    if not found.checkpoints:
        found.notes.append("The run has no checkpoints: there are no weights to show.")
        return found
    chosen = sampled(found.checkpoints, MOST_FINGERPRINTS)
    if len(chosen) < len(found.checkpoints):
        found.notes.append(
            f"Weight statistics are of {len(chosen)} of {len(found.checkpoints)} checkpoints, "
            "spread evenly."
        )
    read = in_parallel(lambda each: _moment(store, each), chosen, _THREADS)
    found.moments = [each for each in read if isinstance(each, Moment)]
    found.notes += [each for each in read if isinstance(each, str)]
    _read_architecture(store, found)
    _read_histograms(store, found, always=always, progress=progress)
    return found


def sampled(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` (two or more) items, spread evenly, the first and the last included."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def warnings(found: Gathered) -> list[str]:
    """Name the tensors that are dead, frozen or not finite, with their epochs."""
    told: list[str] = []
    for name in dict.fromkeys(name for moment in found.moments for name in moment.tensors):
        seen = [(m.checkpoint.manifest.epoch, m.tensors[name]) for m in found.moments
                if name in m.tensors]  # fmt: skip
        label = seen[-1][1].label
        for what, count in (("NaN", "nan_count"), ("Inf", "inf_count")):
            epochs = [epoch for epoch, each in seen if getattr(each.statistics, count)]
            if epochs:
                told.append(f"{label}: {what} from epoch {epochs[0]} ({len(epochs)} checkpoints)")
        last = seen[-1][1]
        if last.statistics.norm == 0 and not (
            last.statistics.nan_count or last.statistics.inf_count
        ):
            told.append(f"{label}: dead, all zeros at epoch {seen[-1][0]}")
        trained = last.layer not in found.untrained and not last.dtype.startswith(("int", "uint"))
        if (
            trained
            and len(seen) > 1
            and all(a.digest == b.digest for (_, a), (_, b) in pairwise(seen))
        ):
            told.append(f"{label}: frozen, unchanged from epoch {seen[0][0]} to {seen[-1][0]}")
    with_weights = [each["name"] for each in found.layers if each["parameters"]]
    untrained = [name for name in with_weights if name in found.untrained]
    if untrained:
        listed = ", ".join(untrained[:_MOST_NAMED])
        more = len(untrained) - _MOST_NAMED
        rest = f" and {more} more" if more > 0 else ""
        told.append(f"frozen on purpose, as their layers are not trainable: {listed}{rest}")
    return told


def drawn(found: Gathered) -> list[TensorFingerprint]:
    """Return the tensors with charts of their own: the largest of the latest checkpoint."""
    if not found.moments:
        return []
    tensors = list(found.moments[-1].tensors.values())
    largest = sorted(tensors, key=lambda each: -int(np.prod(each.shape, dtype=object)))
    names = {each.name for each in largest[:MOST_DRAWN]}
    return [each for each in tensors if each.name in names]


def finite(values: Iterable[float | None]) -> list[float]:
    """Return values that can be drawn; NaN, which leaves a gap, for those that cannot."""
    return [
        float(v) if v is not None and -_LARGEST < v < _LARGEST else float("nan") for v in values
    ]


def _read_metrics(store: RunStore, logged: Sequence[str], found: Gathered) -> None:
    # Those of weights are drawn from the fingerprints.
    names = [name for name in logged if not name.startswith(("system/", PREFIX))]
    if len(names) > MOST_METRICS:
        found.notes.append(f"Curves are of the first {MOST_METRICS} of {len(names)} metrics.")
        names = names[:MOST_METRICS]

    def history(name: str) -> list[Any]:
        with store.asking("read the metrics") as client:
            return list(client.get_metric_history(store.run_id, name))

    for name, points in zip(names, in_parallel(history, names, _THREADS), strict=True):
        points = sampled(sorted(points, key=lambda p: (p.step, p.timestamp)), MOST_POINTS)
        found.metrics[name] = finite(p.step for p in points), finite(p.value for p in points)


def _moment(store: RunStore, checkpoint: Checkpoint) -> Moment | str:
    try:
        text = store.read(f"{checkpoint.artifact_path}/{layout.FINGERPRINT}")
        if text is None:
            return f"The fingerprint of {checkpoint.name} is missing."
        read = Fingerprint.from_json(text).of_role(WEIGHTS_ROLE)
    except MlflowCkptError as error:
        return f"The fingerprint of {checkpoint.name} cannot be read: {error}"
    return Moment(checkpoint, {tensor.name: tensor for tensor in read})


def _read_architecture(store: RunStore, found: Gathered) -> None:
    latest = found.checkpoints[-1]
    try:
        text = store.read(f"{latest.artifact_path}/{layout.ARCHITECTURE_JSON}")
        found.architecture = json.loads(text or b"{}")
        layers = list(_layers(found.architecture))
    except (MlflowCkptError, ValueError, TypeError, AttributeError, RecursionError) as error:
        found.notes.append(f"The architecture of {latest.name} cannot be read: {error}")
        return
    owned: dict[str, list[TensorFingerprint]] = {}
    for tensor in found.moments[-1].tensors.values() if found.moments else ():
        owned.setdefault(tensor.layer or "", []).append(tensor)
    for name, kind, trainable, given in layers:
        tensors = owned.get(name, [])
        if not trainable:
            found.untrained.add(name)
        found.layers.append({
            "name": name, "kind": kind, "trainable": trainable, "input": given,
            "parameters": sum(int(np.prod(t.shape, dtype=object)) for t in tensors),
            "shapes": ", ".join(f"{t.variable} {shape(t)}" for t in tensors),
        })  # fmt: skip


def shape(tensor: TensorFingerprint) -> str:
    """Return a tensor's shape as people write it."""
    return "x".join(map(str, tensor.shape)) or "scalar"


def _layers(node: Any) -> Iterable[tuple[str, str, bool, str]]:
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
    """Return the shape, or shapes, that a layer was built for; empty where nothing tells."""
    build = layer.get("build_config") or {}
    given = build.get("input_shape") or layer.get("config", {}).get("batch_shape")
    shapes = [given] if given else list((build.get("shapes_dict") or {}).values())
    if given and all(isinstance(each, list) for each in given):
        shapes = given
    return ", ".join(
        "x".join("?" if size is None else str(size) for size in each)
        for each in shapes
        if isinstance(each, list)
    )


def _read_histograms(
    store: RunStore, found: Gathered, *, always: bool, progress: Progress | None
) -> None:
    latest = found.checkpoints[-1]
    local = store.local_path(latest.artifact_path)
    size = latest.manifest.size
    if not always and size > MOST_BYTES and not (local is not None and local.is_dir()):
        found.notes.append(
            f"Histograms are left out: they would take a download of {size / 1e6:.0f} MB. "
            "`mlflow-ckpt report` makes them."
        )
        return
    try:
        with Catalog(store).fetch(latest, progress) as directory, reading(directory) as read:
            for tensor in drawn(found):
                if (values := read(tensor)) is not None:
                    _count(found, tensor, values)
    except MlflowCkptError as error:
        found.notes.append(f"Histograms are left out: {error}")


def _count(found: Gathered, tensor: TensorFingerprint, values: np.ndarray[Any, Any]) -> None:
    if np.issubdtype(values.dtype, np.complexfloating) or values.dtype.kind in "OSU":
        return
    flat = values.astype(np.float64).ravel()
    flat = flat[np.abs(flat) < _LARGEST]
    try:
        counts, edges = np.histogram(flat, _BINS)
    except ValueError:
        return  # all values are so near to each other that no bins fit between them
    if len(flat):
        found.histograms[tensor.name] = counts.tolist(), edges.tolist()
