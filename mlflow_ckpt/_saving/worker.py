"""A thread that does one thing after another."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable

Task = Callable[[], None]


class Worker:
    """Runs tasks in order, in a thread of its own. The process does not end before they are done.

    Args:
        name: The thread's name, as debuggers show it.
        on_error: Called, on that thread, with what a task raised.
    """

    def __init__(self, name: str, on_error: Callable[[Exception], None]) -> None:
        self._name = name
        self._on_error = on_error
        self._changed = threading.Condition()
        self._tasks: deque[Task] = deque()
        self._busy = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, task: Task) -> None:
        """Have a task run after those that were submitted before. Returns at once."""
        with self._changed:
            self._tasks.append(task)
            self._closed = False
            started = self._thread is not None or self._start()
            self._changed.notify_all()
        if not started:
            self._run_all()

    def join(self, limit: float | None = None) -> bool:
        """Wait until all tasks are done.

        Args:
            limit: Seconds to wait at most; for ever if None.

        Returns:
            Whether they are.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._tasks and not self._busy, limit)

    def close(self) -> None:
        """End the thread once all tasks are done. Returns at once; `submit` starts it again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _start(self) -> bool:
        # A daemon, because Python joins others before it runs what is registered for its end; but
        # one that Python must not end while it holds HDF5's lock, or the process never does.
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False  # Python is shutting down, and starts no more threads
        self._thread = thread
        atexit.register(self.join)
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._tasks) or self._closed)
                if not self._tasks:
                    self._thread = None
                    atexit.unregister(self.join)
                    return
            self._run_all()

    def _run_all(self) -> None:
        while True:
            with self._changed:
                if not self._tasks:
                    return
                task = self._tasks.popleft()
                self._busy = True
            try:
                task()
            except Exception as error:  # noqa: BLE001 - whoever submitted it hears of it
                self._on_error(error)
            finally:
                del task  # with all that it holds
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
