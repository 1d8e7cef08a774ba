"""What `list`, `show` and `verify` print. Never loads Keras or its backend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.filesize import decimal

from mlflow_ckpt._cli import tables, waiting
from mlflow_ckpt._format import layout
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.fingerprint import Fingerprint, TensorFingerprint
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.ranking import best_of
from mlflow_ckpt._format.verification import VerificationResult
from mlflow_ckpt._tracking import resumed_runs
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.checkpoint import Checkpoint, no_checkpoints
from mlflow_ckpt._tracking.download import Progress
from mlflow_ckpt._tracking.foreign import ForeignCheckpoint, hinting, list_foreign
from mlflow_ckpt._tracking.references import locate, resolve
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import IntegrityError, InvalidArgumentError, MetricNotFoundError

# A table wider than this helps nobody; --json has every metric.
_MOST_METRICS = 6
_TENSOR_COLUMNS = (
    "tensor", "variable", "shape", "dtype", "digest",
    "mean", "std", "min", "max", "norm", "NaN", "Inf",
)  # fmt: skip


@dataclass(frozen=True)
class Listing:
    """The checkpoints of a run.

    Attributes:
        run_id: The run.
        checkpoints: The complete ones, oldest first.
        best: Name of the best; None if no metric tells.
        damaged: Why others cannot be read, by name.
        waiting: What of this run is in this machine's spool.
        ancestors: What the run goes on from, nearest first: runs and names of checkpoints.
        children: Runs that go on from this one, and the names of the checkpoints they do from.
        others: What others wrote, which nothing verifies.
    """

    run_id: str
    checkpoints: tuple[Checkpoint, ...]
    best: str | None
    damaged: Mapping[str, str]
    waiting: tuple[Entry, ...] = ()
    ancestors: tuple[tuple[str, str], ...] = ()
    children: Mapping[str, str] = field(default_factory=dict)
    others: tuple[ForeignCheckpoint, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the listing as plain values."""
        latest = self.checkpoints[-1].name if self.checkpoints else None
        return {
            "run_id": self.run_id,
            "latest": latest,
            "best": self.best,
            "checkpoints": [
                {
                    **{
                        key: value
                        for key, value in checkpoint.manifest.to_dict().items()
                        if key not in ("schema_version", "files", "versions")
                    },
                    "size": checkpoint.manifest.size,
                    "uri": checkpoint.uri,
                }
                for checkpoint in self.checkpoints
            ],
            "damaged": dict(self.damaged),
            "waiting": waiting.to_dict(self.waiting),
            "resumed_from": [
                {"run_id": run_id, "checkpoint": name} for run_id, name in self.ancestors
            ],
            "resumed_by": [
                {"run_id": run_id, "checkpoint": name} for run_id, name in self.children.items()
            ],
            "others": [each.to_dict() for each in self.others],
        }

    def to_text(self) -> str:
        """Return the listing as a table."""
        names = _metric_names(checkpoint.manifest for checkpoint in self.checkpoints)
        shown = names[:_MOST_METRICS]
        columns = ("checkpoint", "epoch", "step", *shown, "forms", "size", "age", "")
        rows = []
        for checkpoint in self.checkpoints:
            manifest = checkpoint.manifest
            marks = []
            if checkpoint.name == self.best:
                marks.append("best")
            if checkpoint is self.checkpoints[-1]:
                marks.append("latest")
            if manifest.interrupted is not None:
                marks.append(f"interrupted ({manifest.interrupted})")
            rows.append(
                (
                    checkpoint.name,
                    str(manifest.epoch),
                    str(manifest.step),
                    *(_number(manifest.metrics.get(name)) for name in shown),
                    _forms(manifest),
                    decimal(manifest.size),
                    _age(manifest.created),
                    ", ".join(marks),
                )
            )
        lines = [tables.to_text(columns, rows, right=range(1, 3 + len(shown)))] if rows else []
        if len(names) > len(shown):
            lines.append(f"{len(names) - len(shown)} more metrics: see --json.\n")
        lines += [f"{name}: damaged. {reason}\n" for name, reason in self.damaged.items()]
        if self.others:
            lines += ["\n" if lines else "", self._of_others()]
        lines += self._chain()
        if self.waiting:
            lines += ["\n" if lines else "", waiting.to_text(self.run_id, self.waiting)]
        return "".join(lines)

    def _of_others(self) -> str:
        """Return a table of what others wrote."""
        names = list(dict.fromkeys(name for each in self.others for name in each.metrics))
        shown = names[:_MOST_METRICS]
        columns = ("unverified", "epoch", "step", *shown, "size", "written by", "uri")
        rows = [
            (
                each.name,
                _whole(each.epoch),
                _whole(each.step),
                *(_number(each.metrics.get(name)) for name in shown),
                "-" if each.size is None else decimal(each.size),
                each.kind,
                each.uri,
            )
            for each in self.others
        ]
        return tables.to_text(columns, rows, right=range(1, 3 + len(shown)))

    def _chain(self) -> list[str]:
        """Return where the run came from and where it went, if it did."""
        lines = []
        if self.ancestors:
            chain = " <- ".join(f"ckpt:/{run_id}/{name}" for run_id, name in self.ancestors)
            lines.append(f"Resumed from {chain}\n")
        lines += [f"Resumed by {run_id}, from {name}\n" for run_id, name in self.children.items()]
        return lines


@dataclass(frozen=True)
class Description:
    """One checkpoint in full.

    Attributes:
        checkpoint: The checkpoint.
        fingerprint: Digests and statistics of its tensors.
    """

    checkpoint: Checkpoint
    fingerprint: Fingerprint

    def to_dict(self) -> dict[str, Any]:
        """Return manifest and fingerprint as plain values."""
        return {
            "manifest": self.checkpoint.manifest.to_dict(),
            "fingerprint": {
                "weights_digest": str(self.fingerprint.weights_digest),
                "tensors": [tensor.to_dict() for tensor in self.fingerprint.tensors],
            },
        }

    def to_text(self) -> str:
        """Return the manifest as lines, and files and tensors as tables."""
        manifest = self.checkpoint.manifest
        monitor = manifest.monitor
        facts = {
            "checkpoint": f"{manifest.name} of run {manifest.run_id}",
            "uri": self.checkpoint.uri,
            "epoch": str(manifest.epoch),
            "step": str(manifest.step),
            "created": f"{manifest.created} ({_age(manifest.created)} ago)",
            "forms": _forms(manifest),
            "monitor": f"{monitor.name} ({monitor.mode})" if monitor else "none",
            "metrics": ", ".join(f"{k}={_number(v)}" for k, v in manifest.metrics.items()),
            "weights": str(manifest.weights_digest),
            "architecture": str(manifest.architecture_digest),
            "versions": ", ".join(f"{k} {v}" for k, v in manifest.versions.items()),
            "metadata": ", ".join(f"{k}={v}" for k, v in manifest.metadata.items()),
        }
        width = max(len(key) for key in facts)
        head = "".join(f"{key:<{width}}  {value}\n" for key, value in facts.items() if value)
        files = tables.to_text(
            ("file", "size", "digest"),
            [
                (entry.path, decimal(entry.size), _short(str(entry.digest)))
                for entry in manifest.files
            ],
        )
        tensors = tables.to_text(_TENSOR_COLUMNS, [_row(t) for t in self.fingerprint.tensors])
        return f"{head}\n{files}\n{tensors}"


def collect(run: str, tracking_uri: str | None) -> Listing:
    """Read the checkpoints of a run.

    Raises:
        RunNotFoundError, TrackingError: As in `mlflow_ckpt.list_checkpoints`.
    """
    run_id = locate(run, tracking_uri=tracking_uri).run_id
    if not run_id:
        raise InvalidArgumentError(f"Expected a run. {run} was logged outside of any run.")
    in_spool = waiting.in_spool(run_id)
    store = RunStore(run_id, tracking_uri)
    complete, damaged, listed = Catalog(store).overview()
    own = {found.name for found in complete} | set(damaged)
    others = list_foreign(store, listed, own)
    if not complete and not damaged and not in_spool and not others:
        raise no_checkpoints(run_id)
    try:
        best = best_of(complete, None, None).name if complete else None
    except (MetricNotFoundError, InvalidArgumentError):
        # No metric tells: nothing is marked.
        best = None
    return Listing(
        run_id=run_id,
        checkpoints=tuple(complete),
        best=best,
        damaged={name: str(error) for name, error in damaged.items()},
        waiting=in_spool,
        ancestors=tuple(resumed_runs.ancestors_of(store)),
        children=resumed_runs.children_of(store),
        others=tuple(others),
    )


def describe(run: str, checkpoint: str, tracking_uri: str | None) -> Description:
    """Read the manifest and the fingerprint of one checkpoint, which are small.

    Raises:
        IntegrityError: If the fingerprint is missing or not the one that was saved.
        NotFoundError, SelectorError, TrackingError: As in `mlflow_ckpt.get_checkpoint`.
    """
    reference = resolve(run, checkpoint, tracking_uri)
    store = RunStore(reference.run_id, tracking_uri)
    with hinting(store):
        found = Catalog(store).find(reference.selector)
    text = store.read(f"{found.artifact_path}/{layout.FINGERPRINT}")
    expected = {entry.path: entry.digest for entry in found.manifest.files}
    if text is None or Digest.of_bytes(text) != expected.get(layout.FINGERPRINT):
        raise IntegrityError(
            f"{layout.FINGERPRINT} of {found.name} is missing or was altered. "
            f"See what else is: mlflow-ckpt verify ckpt:/{found.run_id}/{found.name}"
        )
    return Description(found, Fingerprint.from_json(text))


def verify(
    run: str,
    checkpoint: str | None,
    *,
    monitor: str | None,
    mode: str | None,
    tracking_uri: str | None,
    progress: Progress,
) -> list[VerificationResult]:
    """Verify one checkpoint, or all of a run.

    Args:
        run: A run id or a URI.
        checkpoint: A selector; None for all.
        monitor: For `best`, the metric to judge by.
        mode: For `best`, which way.
        tracking_uri: The tracking server.
        progress: Called with bytes done and bytes in all.
    """
    reference = resolve(run, checkpoint or "latest", tracking_uri)
    store = RunStore(reference.run_id, tracking_uri)
    catalog = Catalog(store)
    if checkpoint is not None:
        with hinting(store):
            found = catalog.find(reference.selector, monitor=monitor, mode=mode)
        return [catalog.verify(found, progress)]
    complete, damaged = catalog.scan()
    if not complete and not damaged:
        with hinting(store):
            raise no_checkpoints(reference.run_id)
    results = [catalog.verify(found, progress) for found in complete]
    results += [VerificationResult(name, error=str(error)) for name, error in damaged.items()]
    return results


def _row(tensor: TensorFingerprint) -> tuple[str, ...]:
    stats = tensor.statistics
    return (
        tensor.name,
        tensor.label if tensor.label != tensor.name else "",
        "x".join(str(size) for size in tensor.shape) or "scalar",
        tensor.dtype,
        _short(str(tensor.digest)),
        *(_number(v) for v in (stats.mean, stats.std, stats.min, stats.max, stats.norm)),
        str(stats.nan_count),
        str(stats.inf_count),
    )


def _metric_names(manifests: Iterable[Manifest]) -> list[str]:
    names: dict[str, None] = {}
    for manifest in manifests:
        if manifest.monitor and manifest.monitor.name in manifest.metrics:
            names = {manifest.monitor.name: None, **names}
        names.update(dict.fromkeys(manifest.metrics))
    return list(names)


def _whole(value: int | None) -> str:
    return "-" if value is None else str(value)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if not math.isfinite(value) or value == int(value):
        return f"{value:g}"
    return f"{value:.4g}"


def _forms(manifest: Manifest) -> str:
    return "+".join(
        f"full ({manifest.full_format})" if form == "full" else form for form in manifest.forms
    )


def _short(digest: str) -> str:
    return digest[: len("sha256:") + 12]


def _age(created: str) -> str:
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
