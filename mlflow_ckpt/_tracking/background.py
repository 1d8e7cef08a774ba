"""A daemon thread that processes queued work."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod


class BackgroundThread(ABC):
    """Starts a thread when there is work, and ends it when it is closed and the work is done.

    The thread is a daemon, because Python joins other threads before it runs `atexit` handlers.
    Subclasses guard their work with `_changed`, and call `_wake` while holding it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def close(self) -> None:
        """End the thread once its work is done. Returns immediately; new work restarts it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wake(self) -> bool:
        """Wake or start the thread; return False if Python is shutting down."""
        self._closed = False
        self._changed.notify_all()
        if self._thread is not None:
            return True
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False  # Python no longer starts threads
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
        """Do some or all of the work. Runs on the thread."""

    def _started(self) -> None:  # noqa: B027 - a hook
        """Called with `_changed` held when the thread has started."""

    def _ended(self) -> None:  # noqa: B027 - a hook
        """Called with `_changed` held when the thread ends."""
