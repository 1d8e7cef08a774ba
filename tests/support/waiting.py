"""Waits with timeouts."""

from __future__ import annotations

import time
from collections.abc import Callable

from tenacity import RetryError, Retrying, retry_if_not_result, stop_after_delay, wait_fixed

# Long enough for a busy machine or a stalling disk: whatever takes longer hangs.
PATIENCE_SECONDS = 240.0


def wait_for(
    condition: Callable[[], object],
    what: str,
    *,
    seconds: float = PATIENCE_SECONDS,
    pause: float = 0.02,
) -> None:
    """Wait until a condition holds.

    Args:
        condition: Returns whether it holds.
        what: Description of the condition, for the error message.
        seconds: Maximum duration.
        pause: Seconds between two checks.

    Raises:
        AssertionError: If it does not hold in time.
    """
    retrying = Retrying(
        retry=retry_if_not_result(bool), stop=stop_after_delay(seconds), wait=wait_fixed(pause)
    )
    try:
        retrying(condition)
    except RetryError:
        raise AssertionError(f"{what}: not within {seconds:.0f} s") from None


class Deadline:
    """A timeout for loops that do something while they wait.

    Args:
        what: Description of the condition, for the error message.
        seconds: Maximum duration.
    """

    def __init__(self, what: str, seconds: float = PATIENCE_SECONDS) -> None:
        self._what = what
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Fail once the time is up."""
        assert time.monotonic() < self._end, f"{self._what}: not within {self._seconds:.0f} s"
