"""Calls a function in several threads at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(function: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    """Call a function for each item, several at a time.

    Not by a `ThreadPoolExecutor`, for whose threads Python waits when it ends: one of them may be
    waiting for minutes for a server that is away.

    Args:
        function: The function.
        items: What to call it with.
        threads: How many calls at a time.

    Returns:
        The results, in the order of the items.

    Raises:
        Exception: What the first item raised that failed, once all have been tried.
    """
    waiting = deque(range(len(items)))
    results: dict[int, R] = {}
    failures: dict[int, Exception] = {}

    def work() -> None:
        while waiting:
            try:
                index = waiting.popleft()
            except IndexError:
                return  # another thread was quicker
            try:
                results[index] = function(items[index])
            except Exception as error:  # noqa: BLE001 - raised again below, for the caller
                failures[index] = error

    started = []
    for _ in range(min(threads, len(items))):
        thread = Thread(target=work, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            break  # Python is shutting down, and starts no more threads
        started.append(thread)
    if not started:
        work()
    for thread in started:
        thread.join()
    if failures:
        raise failures[min(failures)]
    return [results[index] for index in range(len(items))]
