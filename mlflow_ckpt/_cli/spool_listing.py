"""A run's entries in this machine's spool. Never loads Keras or its backend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mlflow_ckpt._cli import humanize
from mlflow_ckpt._cli.console import echo
from mlflow_ckpt._format.reference import Reference
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt.errors import SelectorError


def show(run: str) -> None:
    """Print the entries of a run whose server does not answer, to standard error."""
    try:
        run_id = Reference.parse(run).run_id
    except SelectorError:
        return  # only the server knows the run of a `models:/…` URI
    waiting = in_spool(run_id)
    if waiting:
        for line in to_lines(run_id, waiting):
            echo(line, err=True)


def in_spool(run_id: str) -> tuple[Entry, ...]:
    """Return a run's entries, oldest first."""
    return tuple(Spool.default().entries(run_id))


def to_dict(waiting: Iterable[Entry]) -> list[dict[str, Any]]:
    """Return entries as plain values."""
    return [
        {
            "kind": entry.kind,
            "name": entry.name or None,
            "size": entry.size,
            "tracking_uri": entry.tracking_uri,
            "path": str(entry.path),
        }
        for entry in waiting
    ]


def to_lines(run_id: str, waiting: Iterable[Entry]) -> Iterator[str]:
    """Yield a line per entry, and the command that sends them."""
    for entry in waiting:
        yield f"{entry.label} waits in the spool ({humanize.size(entry.size)}): {entry.path}"
    yield f"Send it: mlflow-ckpt flush {run_id}"
