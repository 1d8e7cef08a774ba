"""Collects outcomes from the background threads for the training thread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from queue import SimpleQueue

from mlflow_ckpt._tracking.spool.outcome import Outcome, SavedCheckpoint


class Outcomes:
    """A queue of outcomes to which any thread may add."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Outcome] = SimpleQueue()
        self._unsent: dict[str, SavedCheckpoint] = {}

    def add_written(self, checkpoint: SavedCheckpoint) -> None:
        """Record that a checkpoint is on this machine's disk."""
        self._unsent[checkpoint.manifest.name] = checkpoint
        self._queue.put(Outcome(checkpoint))

    def add_error(self, error: Exception) -> None:
        """Record an error that is not retried."""
        self._queue.put(Outcome(error=error))

    def add_sent(self, outcomes: Iterable[Outcome]) -> None:
        """Add the outcomes of uploads."""
        for outcome in outcomes:
            name = "" if outcome.entry is None else outcome.entry.name
            checkpoint = self._unsent.pop(name, None) if outcome.sent else self._unsent.get(name)
            self._queue.put(replace(outcome, checkpoint=checkpoint))

    def take(self) -> list[Outcome]:
        """Return the outcomes added since the last call."""
        outcomes = []
        while not self._queue.empty():
            outcomes.append(self._queue.get())
        return outcomes
