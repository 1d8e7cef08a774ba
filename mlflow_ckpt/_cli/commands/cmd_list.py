"""`mlflow-ckpt list`. Never loads Keras or its backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mlflow_ckpt._cli import humanize, options, tables
from mlflow_ckpt._format.reference import uri_of
from mlflow_ckpt.errors import InvalidArgumentError, TrackingError

if TYPE_CHECKING:
    from mlflow_ckpt._tracking.checkpoint import Checkpoint
    from mlflow_ckpt._tracking.foreign import ForeignCheckpoint
    from mlflow_ckpt._tracking.spool.entries import Entry

# A wider table is hard to read; --json has every metric.
_MOST_METRICS = 6
# Of the manifest, what `show --json` has.
_HIDDEN = ("schema_version", "files", "versions")


@click.command("list")
@click.argument("run")
@options.tracking_uri
@options.show
def command(run: str, tracking_uri: str | None, show: options.Show) -> None:
    """List the checkpoints of RUN, oldest first, and its unsent entries in the spool."""
    from mlflow_ckpt._cli import spool_listing

    try:
        listing = _collect(run, tracking_uri)
    except TrackingError:
        # The spool is on this machine, so it can be listed without the server.
        spool_listing.show(run)
        raise
    show(listing)


@dataclass(frozen=True)
class Listing:
    """The checkpoints of a run.

    Attributes:
        run_id: The run.
        checkpoints: The complete checkpoints, oldest first.
        best: Name of the best; None if unknown.
        damaged: Why damaged checkpoints cannot be read, by name.
        waiting: The run's entries in this machine's spool.
        ancestors: Runs and checkpoints that the run resumed from, nearest first.
        children: Names of the checkpoints that other runs resumed from, by run.
        others: Models saved by other tools, unverified.
    """

    run_id: str
    checkpoints: tuple[Checkpoint, ...]
    best: str | None
    damaged: Mapping[str, str]
    waiting: tuple[Entry, ...]
    ancestors: tuple[tuple[str, str], ...]
    children: Mapping[str, str]
    others: tuple[ForeignCheckpoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the listing as plain values."""
        from mlflow_ckpt._cli import spool_listing

        return {
            "run_id": self.run_id,
            "latest": self.checkpoints[-1].name if self.checkpoints else None,
            "best": self.best,
            "checkpoints": [
                {
                    **{k: v for k, v in checkpoint.manifest.to_dict().items() if k not in _HIDDEN},
                    "size": checkpoint.manifest.size,
                    "uri": checkpoint.uri,
                }
                for checkpoint in self.checkpoints
            ],
            "damaged": dict(self.damaged),
            "waiting": spool_listing.to_dict(self.waiting),
            "resumed_from": [{"run_id": r, "checkpoint": name} for r, name in self.ancestors],
            "resumed_by": [{"run_id": r, "checkpoint": n} for r, n in self.children.items()],
            "others": [other.to_dict() for other in self.others],
        }

    def to_lines(self) -> list[str]:
        """Return the listing as tables and lines."""
        from mlflow_ckpt._cli import spool_listing

        lines = [*_paragraphs(self._own(), self._others()), *self._chain()]
        spool = spool_listing.to_lines(self.run_id, self.waiting) if self.waiting else ()
        return _paragraphs(lines, list(spool))

    def _own(self) -> list[str]:
        """Return a table of the complete checkpoints, and the damaged ones as lines."""
        names = self._metric_names()
        shown = names[:_MOST_METRICS]
        lines = [f"{name}: damaged. {reason}" for name, reason in self.damaged.items()]
        if len(names) > len(shown):
            lines.insert(0, f"{len(names) - len(shown)} more metrics: see --json.")
        if self.checkpoints:
            rows = [self._row(checkpoint, shown) for checkpoint in self.checkpoints]
            lines = [*_table("checkpoint", shown, ("forms", "size", "age", ""), rows), *lines]
        return lines

    def _row(self, checkpoint: Checkpoint, metrics: Iterable[str]) -> tuple[str, ...]:
        manifest = checkpoint.manifest
        marks = {
            "best": checkpoint.name == self.best,
            "latest": checkpoint is self.checkpoints[-1],
            f"interrupted ({manifest.interrupted})": manifest.interrupted is not None,
        }
        return (
            checkpoint.name,
            str(manifest.epoch),
            str(manifest.step),
            *(humanize.number(manifest.metrics.get(name)) for name in metrics),
            humanize.forms(manifest),
            humanize.size(manifest.size),
            humanize.age(manifest.created),
            ", ".join(mark for mark, applies in marks.items() if applies),
        )

    def _metric_names(self) -> list[str]:
        """Return the names of all metrics, monitored ones first."""
        names: dict[str, None] = {}
        for manifest in (checkpoint.manifest for checkpoint in self.checkpoints):
            if manifest.monitor and manifest.monitor.name in manifest.metrics:
                names = {manifest.monitor.name: None, **names}
            names.update(dict.fromkeys(manifest.metrics))
        return list(names)

    def _others(self) -> list[str]:
        """Return a table of the models saved by other tools."""
        if not self.others:
            return []
        names = dict.fromkeys(name for other in self.others for name in other.metrics)
        shown = list(names)[:_MOST_METRICS]
        rows = [
            (
                other.name,
                humanize.whole(other.epoch),
                humanize.whole(other.step),
                *(humanize.number(other.metrics.get(name)) for name in shown),
                humanize.size(other.size),
                other.kind,
                other.uri,
            )
            for other in self.others
        ]
        return _table("unverified", shown, ("size", "written by", "uri"), rows)

    def _chain(self) -> list[str]:
        """Return lines that name the runs before and after this one."""
        lines = [f"Resumed by {run_id}, from {name}" for run_id, name in self.children.items()]
        if self.ancestors:
            chain = " <- ".join(uri_of(run_id, name) for run_id, name in self.ancestors)
            lines.insert(0, f"Resumed from {chain}")
        return lines


def _table(
    title: str, metrics: list[str], more: tuple[str, ...], rows: list[tuple[str, ...]]
) -> list[str]:
    columns = (title, "epoch", "step", *metrics, *more)
    return tables.to_lines(columns, rows, right=range(1, 3 + len(metrics)))


def _paragraphs(*texts: list[str]) -> list[str]:
    """Return the lines of texts that are not empty, with an empty line between them."""
    joined: list[str] = []
    for text in filter(None, texts):
        joined += ["", *text] if joined else text
    return joined


def _collect(run: str, tracking_uri: str | None) -> Listing:
    """Read the checkpoints of a run.

    Raises:
        InvalidArgumentError: If `run` names a model that was logged outside of any run.
        RunNotFoundError, TrackingError: As in `mlflow_ckpt.list_checkpoints`.
    """
    from mlflow_ckpt._cli import spool_listing
    from mlflow_ckpt._format.ranking import best_name
    from mlflow_ckpt._tracking import resumed_runs
    from mlflow_ckpt._tracking.catalog import Catalog
    from mlflow_ckpt._tracking.checkpoint import no_checkpoints
    from mlflow_ckpt._tracking.foreign import list_foreign
    from mlflow_ckpt._tracking.references import locate
    from mlflow_ckpt._tracking.store import RunStore

    run_id = locate(run, tracking_uri=tracking_uri).run_id
    if not run_id:
        raise InvalidArgumentError(f"Expected a run. {run} was logged outside of any run.")
    in_spool = spool_listing.in_spool(run_id)
    store = RunStore(run_id, tracking_uri)
    complete, damaged, listed = Catalog(store).overview()
    own = {checkpoint.name for checkpoint in complete} | set(damaged)
    others = list_foreign(store, listed, own)
    if not complete and not damaged and not in_spool and not others:
        raise no_checkpoints(run_id)
    return Listing(
        run_id=run_id,
        checkpoints=tuple(complete),
        best=best_name(complete),
        damaged={name: str(error) for name, error in damaged.items()},
        waiting=in_spool,
        ancestors=tuple(resumed_runs.ancestors_of(store)),
        children=resumed_runs.children_of(store),
        others=tuple(others),
    )
