"""A daemon thread that works while there is work."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod


class BackgroundThread(ABC):
    """Starts a thread when there is work, and ends it once it is closed and the work is done.

    The thread is a daemon: Python joins others before it runs what `atexit` holds. Subclasses keep
    their work behind `_changed`, and call `_wake` with that condition held.

    Args:
        name: The thread's name, as debuggers show it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def close(self) -> None:
        """End the thread once its work is done. Returns at once; new work starts it again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wake(self) -> bool:
        """Have the thread look for work; return False if Python is shutting down."""
        self._closed = False
        self._changed.notify_all()
        if self._thread is not None:
            return True
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False  # Python starts no more threads
        self._thread = thread
        self._started()
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._has_work() or self._closed)
                if not self._has_work():
                    self._thread = None
                    self._ended()
                    return
            self._work()

    @abstractmethod
    def _has_work(self) -> bool:
        """Whether there is work; called with `_changed` held."""

    @abstractmethod
    def _work(self) -> None:
        """Do some or all of the work, on the thread."""

    def _started(self) -> None:  # noqa: B027 - a hook
        """Called with `_changed` held when the thread has started."""

    def _ended(self) -> None:  # noqa: B027 - a hook
        """Called with `_changed` held when the thread ends."""
