"""What happens behind the back of whoever trains, until they ask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from mlflow_ckpt._saving.compose import Saved
from mlflow_ckpt._tracking.spool import entries
from mlflow_ckpt._tracking.spool.uploader import Outcome


@dataclass(frozen=True)
class Report:
    """Something that happened behind the caller's back.

    Attributes:
        saved: The checkpoint that it happened to; None for metrics, and for what was never saved.
        published: Whether the run has it now.
        error: What went wrong; None if nothing did.
        final: Whether what went wrong is not tried again.
        kept: Where in the spool it stays; None if it does not.
    """

    saved: Saved | None = None
    published: bool = False
    error: Exception | None = None
    final: bool = True
    kept: Path | None = None


class Reports:
    """Collects reports from several threads."""

    def __init__(self) -> None:
        self._reports: SimpleQueue[Report] = SimpleQueue()
        self._unpublished: dict[str, Saved] = {}

    def add_saved(self, saved: Saved) -> None:
        """Note that a checkpoint is safe on this machine's disk."""
        self._unpublished[saved.manifest.name] = saved
        self._reports.put(Report(saved))

    def add_error(self, error: Exception) -> None:
        """Note that something went wrong for good."""
        self._reports.put(Report(error=error))

    def add_outcomes(self, outcomes: Iterable[Outcome]) -> None:
        """Note what became of entries of the spool."""
        for outcome in outcomes:
            name = outcome.entry.name
            if outcome.error is not None:
                report = Report(
                    self._unpublished.get(name),
                    error=outcome.error,
                    final=outcome.final,
                    kept=outcome.entry.path,
                )
                self._reports.put(report)
            elif outcome.entry.kind not in entries.RECORDS:
                self._reports.put(Report(self._unpublished.pop(name, None), published=True))

    def take(self) -> list[Report]:
        """Return what was noted since the last call."""
        found = []
        while not self._reports.empty():
            found.append(self._reports.get())
        return found
