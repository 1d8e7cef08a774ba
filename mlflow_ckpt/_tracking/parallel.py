"""Calls a function concurrently in several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(function: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    """Call a function for every item, several at a time; return the results in the items' order.

    Unlike `ThreadPoolExecutor`, does not delay the exit of Python by waiting for its threads: one
    may wait minutes for a server that is down.

    Raises:
        Exception: The error of the first item that failed, after all items were tried.
    """
    waiting = deque(range(len(items)))
    results: dict[int, R] = {}
    failures: dict[int, Exception] = {}

    def work() -> None:
        while waiting:
            try:
                index = waiting.popleft()
            except IndexError:
                return  # another thread took the last one
            try:
                results[index] = function(items[index])
            except Exception as error:  # noqa: BLE001 - raised below
                failures[index] = error

    started = []
    for _ in range(min(threads, len(items))):
        thread = Thread(target=work, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            break  # Python is shutting down
        started.append(thread)
    if not started:
        work()
    for thread in started:
        thread.join()
    if failures:
        raise failures[min(failures)]
    return [results[index] for index in range(len(items))]
