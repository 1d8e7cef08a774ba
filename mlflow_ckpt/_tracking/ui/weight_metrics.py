"""Norms of weights and of their updates, as metrics for MLflow's charts."""

from __future__ import annotations

from collections import Counter

from mlflow_ckpt._format.fingerprint import WEIGHTS_ROLE, Fingerprint
from mlflow_ckpt._tracking.metric_names import allowed_names

# MLflow groups charts by the part of the name before the last slash.
PREFIX = "weights/"


def weight_metrics(fingerprint: Fingerprint) -> dict[str, float]:
    """Return metrics `weights/<tensor>/norm` and `weights/<tensor>/update`.

    A tensor is named by its label, such as `conv2d/kernel`, or by its path in Keras's weights file
    if the label is ambiguous. Unknown norms are omitted.
    """
    tensors = fingerprint.of_role(WEIGHTS_ROLE)
    labels = Counter(tensor.label for tensor in tensors)
    metrics: dict[str, float] = {}
    for tensor in tensors:
        name = tensor.label if labels[tensor.label] == 1 else tensor.name
        values = {"norm": tensor.statistics.norm, "update": tensor.update_norm}
        metrics |= {f"{PREFIX}{name}/{key}": v for key, v in values.items() if v is not None}
    names = allowed_names(metrics)
    return {names[name]: value for name, value in metrics.items()}
