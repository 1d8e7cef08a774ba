"""The arguments by which callers name a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Query:
    """The arguments that name one checkpoint of a run, not yet parsed.

    Attributes:
        run: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…`.
        checkpoint: A selector: `latest`, `best`, an epoch (`3`, `epoch:3`) or a step (`step:1500`).
        monitor: The metric that defines `best`; the recorded one if None.
        mode: `"min"` or `"max"`, for `best`; recorded, or inferred from the metric's name, if None.
        tracking_uri: The tracking server; MLflow's current one if None.
    """

    run: str
    checkpoint: str | int = "latest"
    monitor: str | None = None
    mode: str | None = None
    tracking_uri: str | None = None
