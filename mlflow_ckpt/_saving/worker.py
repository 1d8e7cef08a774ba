"""A background thread that runs tasks in order."""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Callable

from mlflow_ckpt._tracking.background import BackgroundThread

Task = Callable[[], None]


class Worker(BackgroundThread):
    """Runs tasks in order on its own thread, and delays process exit until they are done.

    Otherwise Python would stop the thread while it holds HDF5's lock, and then deadlock on it.

    Args:
        name: The thread's name, as debuggers show it.
        on_error: Called on that thread with the exception of a failed task.
    """

    def __init__(self, name: str, on_error: Callable[[Exception], None]) -> None:
        super().__init__(name)
        self._on_error = on_error
        self._tasks: deque[Task] = deque()
        self._busy = False

    def submit(self, task: Task) -> None:
        """Queue a task. Returns immediately."""
        with self._changed:
            self._tasks.append(task)
            started = self._wake()
        if not started:
            self._work()

    def join(self) -> None:
        """Wait until all tasks are done."""
        with self._changed:
            self._changed.wait_for(lambda: not self._tasks and not self._busy)

    def _started(self) -> None:
        atexit.register(self.join)

    def _ended(self) -> None:
        atexit.unregister(self.join)

    def _has_work(self) -> bool:
        return bool(self._tasks)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._tasks:
                    return
                task = self._tasks.popleft()
                self._busy = True
            try:
                task()
            except Exception as error:  # noqa: BLE001 - passed to `on_error`
                self._on_error(error)
            finally:
                del task  # frees what it references
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
