"""The report of one run, or of two side by side, as one HTML file (docs/report.md)."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_ckpt._format import layout
from mlflow_ckpt._report.gathering import gather
from mlflow_ckpt._report.page import render
from mlflow_ckpt._tracking.download import Progress
from mlflow_ckpt._tracking.store import RunStore


def build(stores: Sequence[RunStore], *, always: bool, progress: Progress | None = None) -> str:
    """Return the report of one run, or of two side by side, as HTML.

    Args:
        stores: The runs.
        always: Whether to download even a large checkpoint for the histograms.
        progress: Called with the number of bytes downloaded and the total.

    Raises:
        TrackingError: If the server does not answer.
        RunNotFoundError: If a run does not exist.
    """
    return render([gather(store, always=always, progress=progress) for store in stores])


def publish(store: RunStore) -> None:
    """Build the report of a run and upload it as `checkpoints/report.html`.

    Raises:
        TrackingError: If the server does not answer.
        RunNotFoundError: If the run does not exist.
    """
    store.write_text(layout.artifact_path(layout.REPORT), build([store], always=False))
