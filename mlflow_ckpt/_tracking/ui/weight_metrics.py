"""Norms of weights, and of their updates, as metrics of a run, which MLflow's charts draw."""

from __future__ import annotations

from collections import Counter

from mlflow_ckpt._format.fingerprint import WEIGHTS_ROLE, Fingerprint
from mlflow_ckpt._tracking.metric_names import allowed_names

# MLflow groups charts by what stands before the last slash.
PREFIX = "weights/"


def weight_metrics(fingerprint: Fingerprint) -> dict[str, float]:
    """Return metrics `weights/<tensor>/norm` and `weights/<tensor>/update`.

    A tensor goes by what people call it, such as `conv2d/kernel`, or by its path in Keras's weights
    file where two are called the same. Numbers that are not finite are left out.

    Args:
        fingerprint: That of a checkpoint.
    """
    tensors = fingerprint.of_role(WEIGHTS_ROLE)
    labels = Counter(tensor.label for tensor in tensors)
    found: dict[str, float] = {}
    for tensor in tensors:
        name = tensor.label if labels[tensor.label] == 1 else tensor.name
        values = {"norm": tensor.statistics.norm, "update": tensor.update_norm}
        found |= {f"{PREFIX}{name}/{key}": v for key, v in values.items() if v is not None}
    names = allowed_names(found)
    return {names[name]: value for name, value in found.items()}
