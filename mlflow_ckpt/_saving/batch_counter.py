"""Where a training is, batch by batch."""

from __future__ import annotations


class BatchCounter:
    """Counts the epochs and batches that Keras tells of.

    Attributes:
        epoch: Number of completed epochs.
        batches_since_save: Batches since a checkpoint was saved inside an epoch.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.batches_since_save = 0
        self._skipped = 0
        self._begun = self._ended = -1

    @property
    def in_step(self) -> bool:
        """Whether a step has begun that was not heard to end."""
        return self._begun > self._ended

    @property
    def inside_epoch(self) -> bool:
        """Whether the epoch has made a step."""
        return self.batch > 0

    @property
    def batch(self) -> int:
        """Batches done of the epoch under way."""
        return self._skipped + self._ended + 1

    def begin_epoch(self, epoch: int, skipped: int = 0) -> None:
        """Note that an epoch begins.

        Args:
            epoch: Number of completed epochs.
            skipped: Batches of it that an earlier training has done.
        """
        self.epoch = epoch
        self._skipped = skipped
        self._begun = self._ended = -1

    def begin_batch(self, batch: int) -> None:
        """Note that the step of a batch begins."""
        self._begun = batch

    def end_batch(self, batch: int) -> None:
        """Note that a step ended: with `steps_per_execution`, that of the last batch of several."""
        # Keras may tell late, and then out of order.
        if batch > self._ended:
            self.batches_since_save += batch - self._ended
            self._ended = batch

    def rest(self) -> None:
        """Note that no step is under way: data of unknown length ends with one that began."""
        self._begun = self._ended
