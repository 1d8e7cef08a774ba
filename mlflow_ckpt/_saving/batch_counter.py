"""Counts the epochs and batches of a training."""

from __future__ import annotations


class BatchCounter:
    """Counts the epochs and batches that Keras reports.

    Attributes:
        epoch: Number of completed epochs.
        batches_since_save: Number of batches since the last save within an epoch.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.batches_since_save = 0
        self._skipped = 0
        self._begun = self._ended = -1

    @property
    def in_step(self) -> bool:
        """Whether a step has begun whose end has not been reported."""
        return self._begun > self._ended

    @property
    def batch(self) -> int:
        """Number of completed batches of the current epoch."""
        return self._skipped + self._ended + 1

    def begin_epoch(self, epoch: int, skipped: int = 0) -> None:
        """Record that an epoch begins.

        Args:
            epoch: Number of completed epochs.
            skipped: Number of its batches that an earlier training completed.
        """
        self.epoch = epoch
        self._skipped = skipped
        self._begun = self._ended = -1

    def begin_batch(self, batch: int) -> None:
        """Record that the step of a batch begins."""
        self._begun = batch

    def end_batch(self, batch: int) -> None:
        """Record that a step ended; with `steps_per_execution`, the last of several."""
        # Keras may report this late, and then out of order.
        if batch > self._ended:
            self.batches_since_save += batch - self._ended
            self._ended = batch

    def rest(self) -> None:
        """Record that no step is running: with data of unknown length, the last step never ends."""
        self._begun = self._ended
