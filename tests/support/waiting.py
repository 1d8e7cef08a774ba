"""Waiting, with an end to it."""

from __future__ import annotations

import time
from collections.abc import Callable

from tenacity import RetryError, Retrying, retry_if_not_result, stop_after_delay, wait_fixed

# So long that whatever takes longer hangs, also on a machine that is busy, or whose disk stalls.
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
        condition: Tells whether it does.
        what: What is waited for, in words.
        seconds: How long at most.
        pause: Seconds between two looks.

    Raises:
        AssertionError: It did not hold in time.
    """
    retrying = Retrying(
        retry=retry_if_not_result(bool), stop=stop_after_delay(seconds), wait=wait_fixed(pause)
    )
    try:
        retrying(condition)
    except RetryError:
        raise AssertionError(f"{what}: not within {seconds:.0f} s") from None


class Deadline:
    """For loops that do something while they wait.

    Args:
        what: What is waited for, in words.
        seconds: How long at most.
    """

    def __init__(self, what: str, seconds: float = PATIENCE_SECONDS) -> None:
        self._what = what
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Fail once it is past."""
        assert time.monotonic() < self._end, f"{self._what}: not within {self._seconds:.0f} s"
