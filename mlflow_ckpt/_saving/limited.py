"""Requests on the training thread, which waits for them only so long."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mlflow_ckpt._tracking.parallel import within
from mlflow_ckpt._tracking.quiet import without_lines_of_retries
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import TrackingUnavailableError

T = TypeVar("T")
# A store that is well answers in less than one.
_SECONDS = 10


def limited(
    function: Callable[[], T],
    store: RunStore,
    action: str,
    *,
    seconds: float | None = None,
    unless: Callable[[], bool] = lambda: False,
) -> T:
    """Make requests, and wait for them only so long.

    Args:
        function: Makes the requests.
        store: The run.
        action: Their purpose, which completes the message "tried to …".
        seconds: The limit; None for the one of a few requests.
        unless: Polled while waiting; stop waiting once it returns True.

    Raises:
        TrackingUnavailableError: If the server or the artifact store does not answer in time.
    """
    limit = _SECONDS if seconds is None else seconds

    def ask() -> T:
        with without_lines_of_retries():
            store.require_answer()
            return function()

    try:
        return within(limit, ask, unless)
    except TimeoutError as error:
        raise TrackingUnavailableError(
            f"The tracking server at {store.tracking_uri}, or its artifact store, does not answer "
            f"within {limit:g} s (tried to {action})."
        ) from error
