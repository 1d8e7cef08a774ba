"""Tracks the best checkpoint of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import keras

from mlflow_ckpt._format.monitor import Monitor, infer_mode, is_better
from mlflow_ckpt._model.keras_private import compiled_model
from mlflow_ckpt._saving.arguments import CallbackArguments
from mlflow_ckpt.errors import InvalidArgumentError


class BestTracker:
    """Decides by the monitored metric whether a checkpoint is the best so far.

    Attributes:
        best: The best value so far; None before the first.
    """

    def __init__(self, arguments: CallbackArguments, warn_once: Callable[[str], None]) -> None:
        self.best = arguments.initial_value_threshold
        self._monitor = arguments.monitor
        self._mode = arguments.mode
        self._threshold = arguments.initial_value_threshold
        self._save_best_only = arguments.save_best_only
        self._inside_epochs = arguments.save_freq != "epoch"
        self._previous: list[Mapping[str, float]] = []
        self._restored = False
        self._warn_once = warn_once

    def reset(self) -> None:
        """Reset the best value for a new run."""
        self.best = self._threshold
        self._previous = []

    def restore(self, best: float | None) -> None:
        """Continue from the best value of an earlier training."""
        self.best, self._restored = best, best is not None

    def recall(self, metrics: Iterable[Mapping[str, float]]) -> None:
        """Include the metrics of the checkpoints that the run had before this training.

        Not if the best value was restored, which includes those that this tracker judged. Another
        callback may have saved others, within epochs for instance.
        """
        self._previous = [] if self._restored else list(metrics)
        self._restored = False

    def judge(
        self, model: keras.Model, metrics: Mapping[str, float]
    ) -> tuple[Monitor | None, bool]:
        """Compare metrics with the best so far.

        Returns:
            The monitor, or None if it cannot decide which checkpoint is best; and whether it
            improved.

        Raises:
            InvalidArgumentError: If only the best is saved and the monitor cannot decide.
        """
        monitor = self._resolve(model, metrics)
        if monitor is None:
            return None, False
        self._compare_previous(monitor)
        value = metrics[monitor.name]
        if math.isnan(value):
            self._warn_once(
                f"{self._monitor} is NaN: the model diverged. "
                + (
                    "Such an epoch is not saved."
                    if self._save_best_only
                    else "It is never the best."
                )
            )
        return monitor, is_better(value, self.best, monitor.mode)

    def is_skipped(self, improved: bool) -> bool:
        """Whether to skip a save, given the result of `judge`."""
        return self._save_best_only and not improved

    def monitor_in(self, model: keras.Model, metrics: Mapping[str, float]) -> Monitor | None:
        """Return the monitor; None if it is not among the metrics, or its direction is unknown."""
        mode: str | None = self._mode
        if self._monitor not in metrics:
            return None
        if mode == "auto":
            direction = compiled_model.metric_direction(model, self._monitor)
            mode = direction or infer_mode(self._monitor)
        return None if mode is None else Monitor(self._monitor, mode)

    def _resolve(self, model: keras.Model, metrics: Mapping[str, float]) -> Monitor | None:
        if self._monitor not in metrics:
            advice = (
                "Inside an epoch there is no validation: pass a metric such as monitor='loss'."
                if self._inside_epochs
                else "Pass monitor=… or validation data."
            )
            self._warn_once(
                f"The monitored metric {self._monitor!r} was not reported "
                f"(reported: {', '.join(metrics) or 'none'}), so every checkpoint is saved and "
                f"none is marked as best. {advice}"
            )
            return None
        monitor = self.monitor_in(model, metrics)
        if monitor is not None:
            return monitor
        if self._save_best_only:
            raise InvalidArgumentError(
                f"Whether a high or a low {self._monitor!r} is better is unknown. "
                "Pass mode='min' or mode='max'."
            )
        self._warn_once(
            f"Whether a high or a low {self._monitor!r} is better is unknown, so no checkpoint is "
            "marked as best. Pass mode='min' or mode='max'."
        )
        return None

    def _compare_previous(self, monitor: Monitor) -> None:
        for metrics in self._previous:
            value = metrics.get(monitor.name, math.nan)
            if is_better(value, self.best, monitor.mode):
                self.best = value
        self._previous = []
