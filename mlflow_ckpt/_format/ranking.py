"""Which of several checkpoints is the best, by the metrics that they recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from mlflow_ckpt._format.monitor import Monitor, infer_mode
from mlflow_ckpt.errors import InvalidArgumentError, MetricNotFoundError


class Ranked(Protocol):
    """A checkpoint with recorded metrics, and optionally a metric to rank it by."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Values by name."""

    @property
    def monitor(self) -> Monitor | None:
        """The metric to rank by; None if none was recorded."""

    @property
    def name(self) -> str:
        """The checkpoint's name."""


R = TypeVar("R", bound=Ranked)


def rank(checkpoints: Sequence[R], monitor: str | None = None, mode: str | None = None) -> list[R]:
    """Return the checkpoints from the best to the worst, the earliest of equals first.

    Those that did not record the metric, or recorded NaN, are left out.

    Args:
        checkpoints: At least one, oldest first.
        monitor: The metric to rank by; the one that the newest checkpoint recorded if None.
        mode: `"min"` or `"max"`; recorded, or inferred from the metric's name, if None.

    Raises:
        MetricNotFoundError: If none recorded the metric, or only NaN.
        InvalidArgumentError: If it is unclear which way the metric improves.
    """
    recorded = next((c.monitor for c in reversed(checkpoints) if c.monitor is not None), None)
    available = sorted({name for checkpoint in checkpoints for name in checkpoint.metrics})
    listed = ", ".join(available) or "none"
    name = monitor or (recorded.name if recorded else None)
    if name is None:
        raise MetricNotFoundError(
            "No checkpoint of the run recorded a metric to rank by. "
            f"Choose one: monitor=… (--monitor); recorded: {listed}.",
            metric="",
            available=available,
        )
    if name not in available:
        raise MetricNotFoundError(
            f"No checkpoint of the run recorded the metric {name!r}. Recorded: {listed}.",
            metric=name,
            available=available,
        )
    if mode is None:
        mode = recorded.mode if recorded and recorded.name == name else infer_mode(name)
    if mode is None:
        raise InvalidArgumentError(
            f"Whether a high or a low {name!r} is better cannot be inferred from its name. "
            "Pass mode='min' or mode='max' (--mode)."
        )
    judged = [c for c in checkpoints if not math.isnan(c.metrics.get(name, math.nan))]
    if not judged:
        raise MetricNotFoundError(
            f"The metric {name!r} is NaN in every checkpoint of the run.",
            metric=name,
            available=available,
        )
    # Python's sort is stable in both directions.
    return sorted(judged, key=lambda c: c.metrics[name], reverse=mode == "max")


def best_of(checkpoints: Sequence[R], monitor: str | None = None, mode: str | None = None) -> R:
    """Return the best checkpoint. Arguments and errors as in `rank`."""
    return rank(checkpoints, monitor, mode)[0]


def best_name(checkpoints: Sequence[Ranked]) -> str | None:
    """Return the name of the best checkpoint by the recorded metric; None if unknown."""
    try:
        return best_of(checkpoints).name
    except (InvalidArgumentError, MetricNotFoundError):
        return None
