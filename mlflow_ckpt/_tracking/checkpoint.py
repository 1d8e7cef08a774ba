"""Which checkpoint of a run is meant: the best of several, by the metrics they recorded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.monitor import Monitor, infer_mode
from mlflow_ckpt.errors import (
    CheckpointNotFoundError,
    InvalidArgumentError,
    MetricNotFoundError,
)


class Candidate(Protocol):
    """What has recorded metrics, and perhaps which of them tells the best."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Values by name."""

    @property
    def monitor(self) -> Monitor | None:
        """What tells the best; None if nobody said."""


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint of a run.

    Attributes:
        run_id: The run that holds it.
        manifest: What it contains.
    """

    run_id: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """Directory name, such as `epoch_0003`."""
        return self.manifest.name

    @property
    def metrics(self) -> Mapping[str, float]:
        """What was recorded with it, by name."""
        return self.manifest.metrics

    @property
    def monitor(self) -> Monitor | None:
        """What tells the best; None if nobody said."""
        return self.manifest.monitor

    @property
    def artifact_path(self) -> str:
        """Run-relative path of its directory."""
        return layout.artifact_path(self.name)

    @property
    def uri(self) -> str:
        """The URI that `mlflow.keras.load_model` and MLflow's commands take."""
        return f"runs:/{self.run_id}/{self.artifact_path}"


def no_checkpoints(run_id: str) -> CheckpointNotFoundError:
    """Return the error for a run that has none."""
    return CheckpointNotFoundError(
        f"The run {run_id} has no checkpoints. "
        "Train with mlflow_ckpt.MlflowCheckpoint() among the callbacks.",
        run_id=run_id,
    )


def recorded_monitor(checkpoints: Collection[Candidate]) -> Monitor | None:
    """Return the monitor that the newest checkpoint recorded, or None."""
    for checkpoint in reversed(list(checkpoints)):
        if checkpoint.monitor is not None:
            return checkpoint.monitor
    return None


def best_of(found: Sequence[C], monitor: str | None, mode: str | None) -> C:
    """Return the best of several checkpoints (the earliest of equals).

    Raises:
        MetricNotFoundError: If none recorded the metric, or only NaN.
        InvalidArgumentError: If it is unclear which way the metric improves.
    """
    recorded = recorded_monitor(found)
    available = sorted({name for checkpoint in found for name in checkpoint.metrics})
    name = monitor or (recorded.name if recorded else None)
    if name is None:
        raise MetricNotFoundError(
            "No checkpoint of the run recorded a metric to judge by. "
            f"Name one: monitor=… (--monitor); recorded: {', '.join(available) or 'none'}.",
            metric="",
            available=available,
        )
    if mode is None:
        mode = recorded.mode if recorded and recorded.name == name else infer_mode(name)
    candidates = [c for c in found if name in c.metrics]
    if not candidates:
        raise MetricNotFoundError(
            f"No checkpoint of the run recorded the metric {name!r}. "
            f"Recorded: {', '.join(available) or 'none'}.",
            metric=name,
            available=available,
        )
    if mode is None:
        raise InvalidArgumentError(
            f"Whether a high or a low {name!r} is better cannot be told from its name. "
            "Say mode='min' or mode='max' (--mode)."
        )
    position = Monitor(name, mode).best(c.metrics[name] for c in candidates)
    if position is None:
        raise MetricNotFoundError(
            f"The metric {name!r} is NaN in every checkpoint of the run.",
            metric=name,
            available=available,
        )
    return candidates[position]
