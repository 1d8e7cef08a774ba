"""Retention policies, which decide which checkpoints of a run to keep.

Policies are pure functions from manifests to names, modelled on Orbax's `checkpoint_managers`.
Checkpoints that are kept regardless of any policy: `_tracking/prune_plan.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.monitor import MODES
from mlflow_ckpt._format.ranking import rank
from mlflow_ckpt.errors import InvalidArgumentError, MetricNotFoundError


class RetentionPolicy(ABC):
    """Decides which checkpoints to keep. `a | b` keeps what either keeps."""

    @abstractmethod
    def keep(self, manifests: Sequence[Manifest]) -> frozenset[str]:
        """Return the names of the checkpoints to keep.

        Args:
            manifests: Manifests of all complete checkpoints of a run, ordered by epoch, then step.
        """

    def __or__(self, other: RetentionPolicy) -> AnyOf:
        """Return the policy that keeps what this one or `other` keeps."""
        if not isinstance(other, RetentionPolicy):
            return NotImplemented
        return AnyOf(self, other)


@dataclass(frozen=True)
class LatestN(RetentionPolicy):
    """Keeps the newest `n` checkpoints.

    Attributes:
        n: Number of checkpoints, at least 1.
    """

    n: int

    def __post_init__(self) -> None:
        _check_count(self.n, "LatestN")

    def keep(self, manifests: Sequence[Manifest]) -> frozenset[str]:
        """Return the names of the newest `n` checkpoints."""
        return _names(manifests[-self.n :])


@dataclass(frozen=True)
class BestN(RetentionPolicy):
    """Keeps the `n` checkpoints with the best values of a metric (the earliest among equals).

    A checkpoint that did not record the metric, or recorded NaN, is not among the best.

    Attributes:
        n: Number of checkpoints, at least 1.
        monitor: The metric; None for the monitored metric that was recorded last.
        mode: `"min"` or `"max"`; None for the recorded one, or else inferred from the name.
    """

    n: int
    monitor: str | None = None
    mode: str | None = None

    def __post_init__(self) -> None:
        _check_count(self.n, "BestN")
        if self.monitor is not None and (not isinstance(self.monitor, str) or not self.monitor):
            raise InvalidArgumentError(
                "Expected monitor to be the name of a metric, such as 'val_loss'. "
                f"Received: monitor={self.monitor!r}"
            )
        if self.mode is not None and self.mode not in MODES:
            raise InvalidArgumentError(
                f"Expected mode 'min' or 'max'. Received: mode={self.mode!r}"
            )

    def keep(self, manifests: Sequence[Manifest]) -> frozenset[str]:
        """Return the names of the best `n` checkpoints.

        Raises:
            MetricNotFoundError: If no checkpoint has a value of the metric. Keeping none would
                delete all checkpoints for a misspelt metric; keeping all would silently free none.
            InvalidArgumentError: If `mode` is None and cannot be inferred.
        """
        if not manifests:
            return frozenset()
        try:
            return _names(rank(manifests, self.monitor, self.mode)[: self.n])
        except MetricNotFoundError as error:
            raise _metric_not_found(error.metric, manifests) from error


@dataclass(frozen=True)
class EveryN(RetentionPolicy):
    """Keeps the checkpoints saved at the end of every `n`-th epoch.

    Checkpoints saved by step (`step_00001500`) do not record their position within the epoch, so
    this policy keeps none of them.

    Attributes:
        n: At least 1: epochs n, 2n, 3n, … are kept.
    """

    n: int

    def __post_init__(self) -> None:
        _check_count(self.n, "EveryN")

    def keep(self, manifests: Sequence[Manifest]) -> frozenset[str]:
        """Return the names of the checkpoints whose epoch is a multiple of `n`."""
        return _names(
            [m for m in manifests if m.epoch % self.n == 0 and _ends_an_epoch(m) and m.epoch > 0]
        )


@dataclass(frozen=True, init=False)
class AnyOf(RetentionPolicy):
    """Keeps the checkpoints that any of several policies keeps.

    Attributes:
        policies: The policies, at least one.
    """

    policies: tuple[RetentionPolicy, ...]

    def __init__(self, *policies: RetentionPolicy) -> None:
        if not policies:
            raise InvalidArgumentError(
                "Expected AnyOf to have at least one policy, such as AnyOf(LatestN(3), BestN(1)). "
                "Received: none"
            )
        flat: list[RetentionPolicy] = []
        for policy in policies:
            check_policy(policy)
            flat += policy.policies if isinstance(policy, AnyOf) else [policy]
        object.__setattr__(self, "policies", tuple(flat))

    def keep(self, manifests: Sequence[Manifest]) -> frozenset[str]:
        """Return the names that any policy keeps."""
        return frozenset[str]().union(*(policy.keep(manifests) for policy in self.policies))


def check_policy(policy: Any) -> None:
    """Raise InvalidArgumentError unless `policy` is a retention policy."""
    if not isinstance(policy, RetentionPolicy):
        raise InvalidArgumentError(
            "Expected a retention policy, such as LatestN(3) or LatestN(3) | BestN(1). "
            f"Received: {policy!r}"
        )


def describe_policy(policy: RetentionPolicy) -> dict[str, Any] | None:
    """Return a policy as plain values; None if the user defined its class."""
    if isinstance(policy, AnyOf):
        parts = [describe_policy(part) for part in policy.policies]
        return None if None in parts else {"AnyOf": parts}
    if type(policy) not in (LatestN, BestN, EveryN):
        return None
    return {type(policy).__name__: asdict(policy)}  # type: ignore[call-overload]


def policy_of(description: Mapping[str, Any]) -> RetentionPolicy:
    """Return the policy of a description made by `describe_policy`.

    Raises:
        LookupError, TypeError, ValueError: If this version has no such policy.
    """
    ((name, arguments),) = description.items()
    if name == "AnyOf":
        return AnyOf(*(policy_of(part) for part in arguments))
    kinds: dict[str, type[RetentionPolicy]] = {"LatestN": LatestN, "BestN": BestN, "EveryN": EveryN}
    return kinds[name](**arguments)


def _check_count(n: Any, policy: str) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InvalidArgumentError(f"Expected {policy}'s n to be an int >= 1. Received: n={n!r}")


def _names(manifests: Sequence[Manifest]) -> frozenset[str]:
    return frozenset(manifest.name for manifest in manifests)


def _ends_an_epoch(manifest: Manifest) -> bool:
    name = CheckpointName.parse(manifest.name)
    return name is not None and name.unit == "epoch"


def _metric_not_found(metric: str, manifests: Sequence[Manifest]) -> MetricNotFoundError:
    available = sorted({name for manifest in manifests for name in manifest.metrics})
    if not metric:
        problem = "No checkpoint of the run recorded a monitored metric"
    elif metric in available:
        problem = f"The metric {metric!r} is NaN in every checkpoint of the run"
    else:
        problem = f"No checkpoint of the run recorded the metric {metric!r}"
    return MetricNotFoundError(
        f"{problem}, so the best checkpoints cannot be determined. Choose another metric: "
        f"monitor=… (--monitor); recorded: {', '.join(available) or 'none'}.",
        metric=metric,
        available=available,
    )
