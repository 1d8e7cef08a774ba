"""Calls functions in other threads, whose requests nothing else limits."""

from __future__ import annotations

import contextvars
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_NAME = "mlflow_ckpt request"
_POLL_SECONDS = 0.2


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
        thread = Thread(target=work, name=_NAME, daemon=True)
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


def within(
    seconds: float, function: Callable[[], R], unless: Callable[[], bool] = lambda: False
) -> R:
    """Return what a function returns, or raise its exception, unless it takes too long.

    For requests on the training thread: MLflow and artifact stores retry for minutes. A function
    that takes longer goes on, and what comes of it is dropped.

    Args:
        seconds: The limit.
        function: The function.
        unless: Polled while waiting; stop waiting once it returns True.

    Raises:
        TimeoutError: If the function has not ended by then.
    """
    future: Future[R] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(function))
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            future.set_exception(error)

    try:
        Thread(target=work, name=_NAME, daemon=True).start()
    except RuntimeError:
        work()  # Python is shutting down
    end = time.monotonic() + seconds
    while not future.done() and not unless() and time.monotonic() < end:
        wait([future], min(_POLL_SECONDS, seconds))
    return future.result(0)
