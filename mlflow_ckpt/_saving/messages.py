"""Tells whoever trains what happened behind the training's back."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking.metric_names import allowed_names
from mlflow_ckpt._tracking.spool import entries, spool_directory
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.spool.outcome import Outcome, SavedCheckpoint
from mlflow_ckpt._warn import warn
from mlflow_ckpt.errors import MlflowCkptError, TrackingError


class Messages:
    """Warnings, lines and errors of one callback, always on the training thread.

    Args:
        verbose: Whether to print a line for each checkpoint.
        raising: Whether what goes wrong is raised rather than warned of.
    """

    def __init__(self, *, verbose: bool, raising: bool) -> None:
        self._verbose = verbose
        self._raising = raising
        self._warned: set[str] = set()
        self._outage = False

    def warn(self, message: str) -> None:
        """Warn."""
        warn(message)

    def warn_once(self, message: str) -> None:
        """Warn, if it has not been said yet."""
        if message not in self._warned:
            self._warned.add(message)
            self.warn(message)

    def say(self, line: str, params: Mapping[str, Any] | None) -> None:
        """Print a line, if asked for.

        Args:
            line: The line.
            params: What Keras says of the training.
        """
        if self._verbose:
            # Keras's progress bar leaves the cursor behind itself.
            start = "\n" if (params or {}).get("verbose") == 1 else ""
            print(f"{start}{line}", flush=True)  # noqa: T201

    def tell(
        self,
        outcomes: Sequence[Outcome],
        params: Mapping[str, Any] | None,
        *,
        quietly: bool = False,
    ) -> None:
        """Tell what happened.

        Args:
            outcomes: The outcomes, in order.
            params: What Keras says of the training.
            quietly: Raise nothing, because an exception is on its way already.

        Raises:
            Exception: What nobody expected; and what went wrong, where that is to be raised.
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
                    raised.add_note(f"And: {type(error).__name__}: {error}")
            elif checkpoint is not None and outcome.sent:
                self._outage = False
                self.say(_describe(checkpoint), params)
            elif checkpoint is not None:
                self._warn_of_nonfinite(checkpoint)
        if raised is not None:
            raise raised

    def tell_unsaved(self, name: object, error: Exception) -> None:
        """Tell that a checkpoint was not saved, because its state could not be copied.

        Raises:
            Exception: The error, where what goes wrong is to be raised.
        """
        if self._raising:
            raise error
        self.warn_once(f"The checkpoint {name} was not saved: {error}")

    def loggable(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return metrics under names that MLflow takes; tell which it does not."""
        names = allowed_names(metrics)
        for name, allowed in names.items():
            if allowed != name:
                self.warn_once(
                    f"MLflow takes no metric called {name!r}, so it is logged as {allowed!r}."
                )
        return {names[name]: value for name, value in metrics.items()}

    def tell_interrupted(self, signal: str, seconds: float) -> None:
        """Tell whoever pressed Ctrl-C what they wait for, and how not to."""
        line = f"{signal}: training ends here. Saving its state and sending what is left takes at"
        print(f"\n{line} most {seconds:g} s; a second {signal} ends it at once.", file=sys.stderr)  # noqa: T201

    def tell_left(self, left: Sequence[Entry], saver: CheckpointSaver, *, quietly: bool) -> None:
        """Tell what the server has not got, and how to send it.

        Raises:
            TrackingError: With the same message, where what goes wrong is to be raised.
        """
        if not left:
            return
        message = _left(left, saver)
        if self._raising and not quietly:
            raise TrackingError(message)
        self.warn(message)

    def tell_unavailable(self, error: MlflowCkptError) -> None:
        """Tell that training begins without the server.

        Raises:
            MlflowCkptError: The error, where what goes wrong is to be raised.
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
            # Once an outage is enough: nobody wants to read of each file that it stops.
            self._outage = True
            self.warn_once(
                f"{error} Training goes on; what is saved waits on this machine and is sent again."
            )

    def _warn_of_nonfinite(self, checkpoint: SavedCheckpoint) -> None:
        broken = checkpoint.fingerprint.nonfinite()
        if not broken:
            return
        listed = ", ".join(
            f"{tensor.label} ({tensor.statistics.nan_count} NaN, "
            f"{tensor.statistics.inf_count} Inf of {math.prod(tensor.shape)})"
            for tensor in broken[:3]
        )
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        self.warn(
            f"THE MODEL DIVERGED: checkpoint {checkpoint.manifest.name} holds NaN or infinite "
            f"values in {len(broken)} tensors: {listed}{more}. Resume from an earlier checkpoint."
        )


def _left(left: Sequence[Entry], saver: CheckpointSaver) -> str:
    checkpoints = [entry for entry in left if entry.kind == entries.CHECKPOINT]
    others = len(left) - len(checkpoints)
    parts = []
    if checkpoints:
        size = sum(entry.size for entry in checkpoints)
        parts.append(
            f"{_count(checkpoints, 'checkpoint')} ({_abridged([e.name for e in checkpoints])}; "
            f"{size / 1e6:.1f} MB)"
        )
    if others:
        parts.append(f"{others} record{'' if others == 1 else 's'} of metrics and tags")
    because = f" {saver.failure}" if saver.failure is not None else ""
    return (
        f"NOT EVERYTHING OF RUN {saver.run_id} IS ON THE SERVER: {' and '.join(parts)} wait in "
        f"{saver.spool.root}.{because} Nothing is lost. Send it: {flush_command(saver)}"
    )


def flush_command(saver: CheckpointSaver) -> str:
    """Return the command that sends what is left."""
    own = (
        ""
        if saver.spool.root == spool_directory.platform_root()
        else (f"{spool_directory.ENVIRONMENT_VARIABLE}={saver.spool.root} ")
    )
    return f"{own}mlflow-ckpt flush {saver.run_id}"


def _count(things: Collection[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _abridged(names: Sequence[str]) -> str:
    if len(names) <= 4:
        return ", ".join(names)
    return f"{names[0]}, {names[1]} … {names[-1]}"


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
