"""Keeps retries of MLflow's HTTP client out of the log: this package says once what fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# Begins the names of all background threads.
_THREADS = "mlflow_ckpt"
_LOGGER = "urllib3.connectionpool"


class _OfOtherThreads(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.threadName or "").startswith(_THREADS)


@contextmanager
def without_lines_of_retries() -> Iterator[None]:
    """Log no line for each retry on a background thread, for the duration of the context."""
    logger, rule = logging.getLogger(_LOGGER), _OfOtherThreads()
    logger.addFilter(rule)
    try:
        yield
    finally:
        logger.removeFilter(rule)
