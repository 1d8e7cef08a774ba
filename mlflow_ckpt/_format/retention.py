"""Retention policies: which of a run's checkpoints are worth keeping.

Policies are pure: manifests in, names out, after those of Orbax's `checkpoint_managers`. What the
package protects whatever a policy says stands in `_tracking/prune_plan.py`.
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
            manifests: Those of all complete checkpoints of one run, oldest first: by epoch, then
                step.
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
        n: How many, at least 1.
    """

    n: int

    def __post_init__(self) -> None:
        _check_count(self.n, "LatestN")

    def keep(self, manifests: Sequence[Manifest]) -> frozenset[str]:
        """Return the names of the last `n`."""
        return _names(manifests[-self.n :])


@dataclass(frozen=True)
class BestN(RetentionPolicy):
    """Keeps the `n` checkpoints with the best values of a metric (the earliest of equals).

    A checkpoint that did not record the metric, or recorded NaN, is not among the best.

    Attributes:
        n: How many, at least 1.
        monitor: The metric to judge by; None for the one that the newest checkpoint recorded.
        mode: `"min"` or `"max"`; None for the recorded one, or else what the metric's name tells.
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
        """Return the names of the best `n`.

        Raises:
            MetricNotFoundError: If no checkpoint has a value to judge by. To keep none would delete
                them all for a misspelt metric; to keep all would never free anything, and not say.
            InvalidArgumentError: If it is unclear which way the metric improves.
        """
        if not manifests:
            return frozenset()
        try:
            return _names(rank(manifests, self.monitor, self.mode)[: self.n])
        except MetricNotFoundError as error:
            raise _nothing_to_judge_by(error.metric, manifests) from error


@dataclass(frozen=True)
class EveryN(RetentionPolicy):
    """Keeps the checkpoints saved at the end of every `n`-th epoch.

    One saved by step (`step_00001500`) is never kept by this: it may lie anywhere inside an epoch,
    and nothing in it tells.

    Attributes:
        n: Keep epochs n, 2n, 3n, …; at least 1.
    """

    n: int

    def __post_init__(self) -> None:
        _check_count(self.n, "EveryN")

    def keep(self, manifests: Sequence[Manifest]) -> frozenset[str]:
        """Return the names of those whose epoch is a multiple of `n`."""
        return _names(
            [m for m in manifests if m.epoch % self.n == 0 and _ends_an_epoch(m) and m.epoch > 0]
        )


@dataclass(frozen=True, init=False)
class AnyOf(RetentionPolicy):
    """Keeps what any of several policies keeps.

    Attributes:
        policies: At least one.
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
        """Return the names that any of the policies keeps."""
        return frozenset[str]().union(*(policy.keep(manifests) for policy in self.policies))


def check_policy(policy: Any) -> None:
    """Raise InvalidArgumentError unless `policy` is a retention policy."""
    if not isinstance(policy, RetentionPolicy):
        raise InvalidArgumentError(
            "Expected a retention policy, such as LatestN(3) or LatestN(3) | BestN(1). "
            f"Received: {policy!r}"
        )


def describe_policy(policy: RetentionPolicy) -> dict[str, Any] | None:
    """Return a policy of this module as plain values; None for one that a user wrote."""
    if isinstance(policy, AnyOf):
        parts = [describe_policy(each) for each in policy.policies]
        return None if None in parts else {"AnyOf": parts}
    if type(policy) not in (LatestN, BestN, EveryN):
        return None
    return {type(policy).__name__: asdict(policy)}  # type: ignore[call-overload]


def policy_of(description: Mapping[str, Any]) -> RetentionPolicy:
    """Return the policy that `describe_policy` described.

    Raises:
        KeyError: If this version knows no such policy.
    """
    ((name, arguments),) = description.items()
    if name == "AnyOf":
        return AnyOf(*(policy_of(each) for each in arguments))
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


def _nothing_to_judge_by(metric: str, manifests: Sequence[Manifest]) -> MetricNotFoundError:
    available = sorted({name for manifest in manifests for name in manifest.metrics})
    if not metric:
        problem = "No checkpoint of the run recorded which metric tells the best"
    elif metric in available:
        problem = f"The metric {metric!r} is NaN in every checkpoint of the run"
    else:
        problem = f"No checkpoint of the run recorded the metric {metric!r}"
    return MetricNotFoundError(
        f"{problem}, so the best to keep cannot be told. Name another: monitor=… (--monitor); "
        f"recorded: {', '.join(available) or 'none'}.",
        metric=metric,
        available=available,
    )
