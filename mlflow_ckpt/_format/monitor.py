"""The direction in which a metric improves."""

from __future__ import annotations

import math
from dataclasses import dataclass

MODES = ("min", "max")

_LOWER_IS_BETTER = (
    "loss", "error", "mse", "mae", "mape", "msle", "rmse", "perplexity", "crossentropy",
    "divergence", "poisson", "logcosh", "log_cosh", "hinge",
)  # fmt: skip
_HIGHER_IS_BETTER = (
    "acc", "accuracy", "auc", "precision", "recall", "f1", "fbeta", "iou", "dice",
    "sensitivity", "specificity", "r2", "positives",
)  # fmt: skip


def infer_mode(metric: str) -> str | None:
    """Infer from a metric's name whether lower (`"min"`) or higher (`"max"`) is better.

    Returns:
        `"min"`, `"max"`, or None if the name is not conclusive.
    """
    words = metric.lower().removeprefix("val_")
    if words.startswith("false_"):
        return "min"
    parts = set(words.split("_"))
    # Checked before the others: `auc_loss` is a loss.
    if any(words.endswith(word) or word in parts for word in _LOWER_IS_BETTER):
        return "min"
    if any(words.endswith(word) or word in parts for word in _HIGHER_IS_BETTER):
        return "max"
    return None


def is_better(value: float, than: float | None, mode: str) -> bool:
    """Whether `value` beats `than`: NaN beats nothing, any other value beats None and NaN."""
    if math.isnan(value):
        return False
    if than is None or math.isnan(than):
        return True
    return value < than if mode == "min" else value > than


@dataclass(frozen=True)
class Monitor:
    """The metric that decides which checkpoint is best.

    Attributes:
        name: The metric, such as `"val_loss"`.
        mode: `"min"` or `"max"`.
    """

    name: str
    mode: str
