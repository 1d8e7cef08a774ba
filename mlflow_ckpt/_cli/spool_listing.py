"""A run's entries in this machine's spool. Never loads Keras or its backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from mlflow_ckpt._cli import humanize
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
        click.echo(to_text(run_id, waiting), nl=False, err=True)


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


def to_text(run_id: str, waiting: Iterable[Entry]) -> str:
    """Return entries as lines, with the command that sends them."""
    lines = [
        f"{entry.label} waits in the spool ({humanize.size(entry.size)}): {entry.path}\n"
        for entry in waiting
    ]
    return "".join([*lines, f"Send it: mlflow-ckpt flush {run_id}\n"])
