"""Builds the page of a run, or of two side by side, and uploads it."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_ckpt._format import layout
from mlflow_ckpt._report.gathering import Progress, gather
from mlflow_ckpt._report.page import render
from mlflow_ckpt._tracking.store import RunStore


def build(stores: Sequence[RunStore], *, always: bool, progress: Progress | None = None) -> str:
    """Return the page of one run, or of two side by side.

    Args:
        stores: The runs.
        always: Whether histograms are worth the download of a large checkpoint.
        progress: Called with bytes done and bytes in all, where files are downloaded.

    Raises:
        TrackingError: If the server does not answer.
        RunNotFoundError: If there is no such run.
    """
    return render([gather(store, always=always, progress=progress) for store in stores])


def publish(store: RunStore) -> None:
    """Build the page of a run and upload it as `checkpoints/report.html`.

    Raises:
        TrackingError: If the server does not answer.
    """
    store.write_text(layout.artifact_path(layout.REPORT), build([store], always=False))
