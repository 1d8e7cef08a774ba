"""Which way a metric improves."""

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
    """Tell from a metric's name whether lower (`"min"`) or higher (`"max"`) is better.

    Returns:
        None if the name does not tell.
    """
    words = metric.lower().removeprefix("val_")
    if words.startswith("false_"):
        return "min"
    parts = set(words.split("_"))
    # The last word decides, as in `auc_loss`: it is what the metric is.
    if any(words.endswith(word) or word in parts for word in _LOWER_IS_BETTER):
        return "min"
    if any(words.endswith(word) or word in parts for word in _HIGHER_IS_BETTER):
        return "max"
    return None


def is_better(value: float, than: float | None, mode: str) -> bool:
    """Tell whether `value` beats `than` (NaN beats nothing; anything else beats None and NaN)."""
    if math.isnan(value):
        return False
    if than is None or math.isnan(than):
        return True
    return value < than if mode == "min" else value > than


@dataclass(frozen=True)
class Monitor:
    """The metric that tells which checkpoint is best.

    Attributes:
        name: The metric, such as `"val_loss"`.
        mode: `"min"` or `"max"`.
    """

    name: str
    mode: str
