"""Collects outcomes from the background threads for the training thread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from queue import SimpleQueue

from mlflow_ckpt._tracking.spool.outcome import Outcome, SavedCheckpoint


class Outcomes:
    """A queue of outcomes, which any thread may add to."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Outcome] = SimpleQueue()
        self._unsent: dict[str, SavedCheckpoint] = {}

    def add_written(self, checkpoint: SavedCheckpoint) -> None:
        """Note that a checkpoint is safe on this machine's disk."""
        self._unsent[checkpoint.manifest.name] = checkpoint
        self._queue.put(Outcome(checkpoint))

    def add_error(self, error: Exception) -> None:
        """Note that something failed for good."""
        self._queue.put(Outcome(error=error))

    def add_sent(self, outcomes: Iterable[Outcome]) -> None:
        """Note what became of entries of the spool."""
        for outcome in outcomes:
            name = "" if outcome.entry is None else outcome.entry.name
            checkpoint = self._unsent.pop(name, None) if outcome.sent else self._unsent.get(name)
            self._queue.put(replace(outcome, checkpoint=checkpoint))

    def take(self) -> list[Outcome]:
        """Return what was added since the last call."""
        outcomes = []
        while not self._queue.empty():
            outcomes.append(self._queue.get())
        return outcomes
