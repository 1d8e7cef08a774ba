"""Warnings and progress lines about saving, shown on the training thread."""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from mlflow_ckpt._format.text import abridged, counted, listed
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._shown.escaping import shown
from mlflow_ckpt._shown.warn import warn
from mlflow_ckpt._tracking.metric_names import allowed_names
from mlflow_ckpt._tracking.spool import entries, lifetime, spool_directory
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.spool.outcome import Outcome, SavedCheckpoint
from mlflow_ckpt.errors import CheckpointBusyError, MlflowCkptError, TrackingError


class Messages:
    """Shows the warnings, lines and errors of one callback, always on the training thread.

    Args:
        verbose: Whether to print a line per checkpoint.
        raising: Whether to raise errors rather than warn of them.

    Attributes:
        is_losing_data: Whether the last training left entries in a spool that is about to be lost.
    """

    def __init__(self, *, verbose: bool, raising: bool) -> None:
        self._verbose = verbose
        self._raising = raising
        self._warned: set[Hashable] = set()
        self._outage = False
        self.is_losing_data = False

    def warn(self, message: str) -> None:
        """Issue a warning."""
        warn(message)

    def warn_once(self, message: str, about: Hashable = None) -> None:
        """Issue a warning unless it was issued before, or another one about the same."""
        key = message if about is None else about
        if key not in self._warned:
            self._warned.add(key)
            self.warn(message)

    def print_line(self, line: str, params: Mapping[str, Any] | None) -> None:
        """Print a line if `verbose`."""
        if self._verbose:
            # Keras's progress bar leaves the cursor at its end.
            start = "\n" if (params or {}).get("verbose") == 1 else ""
            print(f"{start}{shown(line)}", flush=True)  # noqa: T201

    def notify(
        self,
        outcomes: Sequence[Outcome],
        params: Mapping[str, Any] | None,
        *,
        quietly: bool = False,
    ) -> None:
        """Show outcomes: a line per uploaded checkpoint, and warnings or errors.

        Args:
            outcomes: The outcomes, in order.
            params: The training's parameters as Keras reports them.
            quietly: Warn rather than raise, because another exception is propagating.

        Raises:
            Exception: The first unexpected error, or the first error of any kind if `raising`.
                None if `quietly`.
        """
        raised: Exception | None = None
        for outcome in outcomes:
            error, checkpoint = outcome.error, outcome.checkpoint
            if error is not None:
                expected = isinstance(error, (MlflowCkptError, OSError, MemoryError))
                if quietly or (expected and not self._raising):
                    self._warn_of_failure(outcome, error)
                elif raised is None:
                    raised = error
                else:
                    raised.add_note(f"Also: {type(error).__name__}: {error}")
            elif checkpoint is not None and outcome.sent:
                self._outage = False
                self.print_line(_describe(checkpoint), params)
            elif checkpoint is not None:
                self._warn_of_nonfinite(checkpoint)
        if raised is not None:
            raise raised

    def warn_of_unsaved(self, name: object, error: Exception) -> None:
        """Warn that a checkpoint was not saved because its state could not be copied.

        Raises:
            Exception: The error, if `raising`.
        """
        if self._raising:
            raise error
        self.warn_once(f"The checkpoint {name} was not saved: {error}")

    def loggable(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return metrics under names that MLflow accepts; warn of names that it does not."""
        names = allowed_names(metrics)
        for name, allowed in names.items():
            if allowed != name:
                self.warn_once(
                    f"MLflow rejects the metric name {name!r}, so it is logged as {allowed!r}."
                )
        return {names[name]: value for name, value in metrics.items()}

    def notify_interrupted(self, signal: str, seconds: float) -> None:
        """Print what follows a received signal, and how to stop immediately."""
        line = f"{signal}: training stops. Saving its state and finishing uploads takes at most"
        print(f"\n{line} {seconds:g} s; a second {signal} stops it immediately.", file=sys.stderr)  # noqa: T201

    def warn_of_unsent(
        self, unsent: Sequence[Entry], saver: CheckpointSaver, *, quietly: bool
    ) -> None:
        """Warn of entries that the server has not received, and name the command to send them.

        Raises:
            TrackingError: Instead of the warning, if `raising` and not `quietly`.
        """
        if not unsent and not self.is_losing_data:
            return
        message = _unsent_message(unsent, saver) if unsent else _left_message(saver)
        if self._raising and not quietly:
            raise TrackingError(message)
        self.warn(message)

    def warn_of_unavailable_store(self, error: MlflowCkptError) -> None:
        """Warn that training begins without the tracking server or the artifact store.

        Raises:
            MlflowCkptError: The error, if `raising`.
        """
        if self._raising:
            raise error
        self._warn_of_failure(Outcome(error=error, final=False), error)

    def _warn_of_failure(self, outcome: Outcome, error: Exception) -> None:
        if outcome.final:
            entry = outcome.entry
            kept = "" if entry is None else f" What was saved stays in {entry.path}."
            self.warn_once(f"{error}{kept}")
        elif not self._outage:
            # Warn once per outage rather than once per file.
            self._outage = True
            # Once per checkpoint that another process saves too, whatever is known of that one.
            busy = (error.run_id, error.name) if isinstance(error, CheckpointBusyError) else None
            self.warn_once(
                f"{error} Training continues; unsent data stays on this machine and is sent later.",
                about=busy,
            )

    def _warn_of_nonfinite(self, checkpoint: SavedCheckpoint) -> None:
        tensors = [
            f"{tensor.label} ({tensor.statistics.nan_count} NaN, "
            f"{tensor.statistics.inf_count} Inf of {math.prod(tensor.shape)})"
            for tensor in checkpoint.fingerprint.nonfinite()
        ]
        if not tensors:
            return
        self.warn(
            f"THE MODEL DIVERGED: checkpoint {checkpoint.manifest.name} holds NaN or infinite "
            f"values in {len(tensors)} tensors: {listed(tensors, 3)}. "
            "Resume from an earlier checkpoint."
        )


def _unsent_message(unsent: Sequence[Entry], saver: CheckpointSaver) -> str:
    checkpoints = [entry for entry in unsent if entry.kind == entries.CHECKPOINT]
    records = len(unsent) - len(checkpoints)
    parts = []
    if checkpoints:
        size = sum(entry.size for entry in checkpoints)
        names = abridged([entry.name for entry in checkpoints])
        count = counted(len(checkpoints), "checkpoint")
        parts.append(f"{count} ({names}; {size / 1e6:.1f} MB)")
    if records:
        parts.append(f"{counted(records, 'record')} of metrics and tags")
    because = " They were not sent in time." if saver.failure is None else f" {saver.failure}"
    return (
        f"NOT EVERYTHING OF RUN {saver.run_id} IS ON THE SERVER: {' and '.join(parts)} wait in "
        f"{saver.spool.root}.{because} {_prospect(saver)}"
    )


def _left_message(saver: CheckpointSaver) -> str:
    return (
        f"What run {saver.run_id} does not take waits in {saver.spool.root / saver.run_id}. "
        f"{_prospect(saver)}"
    )


def _prospect(saver: CheckpointSaver) -> str:
    """Say what becomes of unsent entries, and what to do."""
    end = lifetime.ends_with(saver.spool)
    if end is None:
        return f"Nothing is lost. Send it: {flush_command(saver)}"
    return (
        f"IT WILL BE LOST WITH {end.upper()} unless you send it before: {flush_command(saver)} "
        f"Next time, set {spool_directory.ENVIRONMENT_VARIABLE} to a directory on a volume that "
        "stays."
    )


def flush_command(saver: CheckpointSaver) -> str:
    """Return the command that sends the remaining entries of the spool."""
    is_default = saver.spool.root == spool_directory.platform_root()
    prefix = "" if is_default else f"{spool_directory.ENVIRONMENT_VARIABLE}={saver.spool.root} "
    return f"{prefix}mlflow-ckpt flush {saver.run_id}"


def _describe(checkpoint: SavedCheckpoint) -> str:
    manifest = checkpoint.manifest
    best = ""
    if checkpoint.best and manifest.monitor is not None:
        name = manifest.monitor.name
        best = f", {name}={manifest.metrics[name]:.4f} is the best so far"
    return (
        f"Saved checkpoint {manifest.name} of run {manifest.run_id}: {manifest.size / 1e6:.1f} MB, "
        f"weights {str(manifest.weights_digest)[:19]}…{best}"
    )
