"""`mlflow-ckpt show`. Never loads Keras or its backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mlflow_ckpt._cli import humanize, options, tables
from mlflow_ckpt._format.reference import Query
from mlflow_ckpt._format.text import shape_text
from mlflow_ckpt._tracking.removed import again_if_removed

if TYPE_CHECKING:
    from mlflow_ckpt._format.digest import Digest
    from mlflow_ckpt._format.fingerprint import Fingerprint, TensorFingerprint
    from mlflow_ckpt._tracking.checkpoint import Checkpoint

_TENSOR_COLUMNS = (
    "tensor", "variable", "shape", "dtype", "digest",
    "mean", "std", "min", "max", "norm", "NaN", "Inf",
)  # fmt: skip


@click.command("show")
@click.argument("run")
@click.argument("checkpoint", default="latest")
@options.tracking_uri
@options.show
def command(run: str, checkpoint: str, tracking_uri: str | None, show: options.Show) -> None:
    """Show the manifest and the fingerprint of a checkpoint of RUN."""
    show(_describe(Query(run, checkpoint, tracking_uri=tracking_uri)))


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

    def to_lines(self) -> Iterator[str]:
        """Yield the manifest, and files and tensors as tables."""
        manifest = self.checkpoint.manifest
        monitor = manifest.monitor
        metrics = (f"{name}={humanize.number(v)}" for name, v in manifest.metrics.items())
        facts = {
            "checkpoint": f"{manifest.name} of run {manifest.run_id}",
            "uri": self.checkpoint.uri,
            "epoch": str(manifest.epoch),
            "step": str(manifest.step),
            "created": f"{manifest.created} ({humanize.age(manifest.created)} ago)",
            "forms": humanize.forms(manifest),
            "monitor": f"{monitor.name} ({monitor.mode})" if monitor else "none",
            "metrics": ", ".join(metrics),
            "weights": str(manifest.weights_digest),
            "architecture": str(manifest.architecture_digest),
            "versions": ", ".join(f"{k} {v}" for k, v in manifest.versions.items()),
            "metadata": ", ".join(f"{k}={v}" for k, v in manifest.metadata.items()),
        }
        width = max(map(len, facts))
        yield from (f"{key:<{width}}  {value}" for key, value in facts.items() if value)
        rows = [
            (file.path, humanize.size(file.size), _short(file.digest)) for file in manifest.files
        ]
        yield from ["", *tables.to_lines(("file", "size", "digest"), rows)]
        tensors = list(map(_row, self.fingerprint.tensors))
        yield from ["", *tables.to_lines(_TENSOR_COLUMNS, tensors)]


def _row(tensor: TensorFingerprint) -> tuple[str, ...]:
    stats = tensor.statistics
    numbers = (stats.mean, stats.std, stats.min, stats.max, stats.norm)
    return (
        tensor.name,
        tensor.label if tensor.label != tensor.name else "",
        shape_text(tensor.shape),
        tensor.dtype,
        _short(tensor.digest),
        *map(humanize.number, numbers),
        str(stats.nan_count),
        str(stats.inf_count),
    )


def _short(digest: Digest) -> str:
    return str(digest)[: len("sha256:") + 12]


@again_if_removed
def _describe(query: Query) -> Description:
    """Read the manifest and the fingerprint of a checkpoint, which are small.

    Raises:
        IntegrityError: If the fingerprint is missing or not the one that was saved.
        NotFoundError, SelectorError, TrackingError: As in `mlflow_ckpt.get_checkpoint`.
    """
    from mlflow_ckpt._tracking.find import find

    own = find(query)
    return Description(own.checkpoint, own.catalog.fingerprint(own.checkpoint))
