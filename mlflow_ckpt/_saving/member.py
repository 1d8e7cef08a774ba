"""What one callback wants saved of a training, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt._saving.arguments import CallbackArguments
from mlflow_ckpt._saving.batch_counter import BatchCounter
from mlflow_ckpt._saving.best import BestTracker
from mlflow_ckpt._saving.compose import Content
from mlflow_ckpt._saving.messages import Messages

# Batches within which an optimizer that accumulates gradients is expected to make a step.
_LONGEST_ACCUMULATION = 64


class Member:
    """One callback of a training, possibly among others that save to the same run.

    Args:
        arguments: The callback's arguments.

    Attributes:
        arguments: The callback's arguments.
        messages: Shows its warnings and lines.
        best: Decides which checkpoint is best.
        batches: Counts the epochs and batches that Keras reports to it.
        content: What its checkpoints contain.
        saved: Names of the checkpoints that it asked for in its run.
        due: Whether a checkpoint waits for the end of the epoch, or the next validation.
    """

    def __init__(self, arguments: CallbackArguments) -> None:
        self.arguments = arguments
        self.messages = Messages(
            verbose=bool(arguments.verbose), raising=arguments.on_error == "raise"
        )
        self.best = BestTracker(arguments, self.messages.warn_once)
        self.batches = BatchCounter()
        self.content = Content(
            tuple(arguments.forms), arguments.full_format, arguments.metadata or {}
        )
        self.saved: frozenset[str] = frozenset()
        self.due = False
        self._shared = False
        self._run_id: str | None = None

    @property
    def unit(self) -> str:
        """What its checkpoints are named by: `"epoch"` or `"step"`."""
        return "epoch" if self.arguments.save_freq == "epoch" else "step"

    def begin(self, run_id: str, *, shared: bool) -> None:
        """Begin a training that saves to a run, possibly shared with other callbacks."""
        self.due, self._shared = False, shared
        if run_id != self._run_id:
            self._run_id = run_id
            self.best.reset()
            self.saved = frozenset()

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed training needs."""
        # Where callbacks share a run, each one's retention policy is for its own checkpoints.
        own = {"saved": sorted(self.saved)} if self._shared else {}
        due = {"due": True} if self.due else {}
        since = self.batches.batches_since_save
        return {"best": self.best.best, "batches_since_save": since, **due, **own}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state` returned."""
        self.best.restore(state["best"])
        self.batches.batches_since_save = state["batches_since_save"]
        self.due = state.get("due", False)
        self.saved = frozenset(state.get("saved", ()))

    @property
    def may_be_due(self) -> bool:
        """Whether enough batches have passed for a checkpoint within an epoch."""
        batches, save_freq = self.batches, self.arguments.save_freq
        return not isinstance(save_freq, str) and batches.batches_since_save >= save_freq

    def is_due(self, model: keras.Model, saved_step: int) -> bool:
        """Whether it is time for a checkpoint within an epoch, after a batch that may be the one.

        Args:
            model: The model.
            saved_step: The optimizer's step at the last checkpoint.
        """
        if introspection.step_of(model) <= saved_step:
            # Gradients are being accumulated or a step overflowed: save at the next real step.
            self._warn_without_steps(2 * int(self.arguments.save_freq) + _LONGEST_ACCUMULATION)
            return False
        self.batches.batches_since_save = 0
        return True

    def _warn_without_steps(self, patience: int) -> None:
        if self.batches.batches_since_save > patience:
            self.messages.warn_once(
                f"The model's optimizer made no step in {patience} batches, so checkpoints "
                "cannot be named by step. If the model trains with optimizers of its own, use "
                "save_freq='epoch'."
            )

    def lacks_monitor(self, metrics: Mapping[str, float]) -> bool:
        """Whether the metrics do not tell if the state is the best, which is all that is saved."""
        return self.arguments.save_best_only and self.arguments.monitor not in metrics

    def print_waiting(self, params: Mapping[str, Any] | None) -> None:
        """Print that nothing is saved before the next validation."""
        self.messages.print_line(
            f"No {self.arguments.monitor} without a validation: a checkpoint waits for the next",
            params,
        )

    def ask(
        self, model: keras.Model, name: CheckpointName, metrics: Mapping[str, float]
    ) -> Request:
        """Return the request for a checkpoint; it may decline one that is not the best.

        Raises:
            InvalidArgumentError: If only the best is saved and the monitor cannot decide.
        """
        monitor, improved = self.best.judge(model, metrics)
        declined = monitor is not None and self.best.is_skipped(improved)
        request = Request(self, name, metrics, monitor, improved, declined, self.best.best)
        if improved and monitor is not None:
            # Before the state is captured, which includes it.
            self.best.best = metrics[monitor.name]
        return request


@dataclass(frozen=True)
class Request:
    """A callback's request to save the present state.

    Attributes:
        member: The callback.
        name: The checkpoint's name.
        metrics: The metrics to record.
        monitor: The metric that decides which checkpoint is best; None if none can.
        improved: Whether it improved.
        declined: Whether nothing is to be saved, because only the best is.
        previous_best: The best value before.
    """

    member: Member
    name: CheckpointName
    metrics: Mapping[str, float]
    monitor: Monitor | None
    improved: bool
    declined: bool
    previous_best: float | None

    def withdraw(self) -> None:
        """Forget the request, because the state could not be saved."""
        self.member.best.best = self.previous_best
        self.member.saved -= {str(self.name)}
