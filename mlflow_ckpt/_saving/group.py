"""The callbacks of one training that save to the same run, and what they want together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import combinations
from typing import Any

import keras

from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.monitor import MODES, Monitor
from mlflow_ckpt._format.retention import AnyOf, BestN, RetentionPolicy
from mlflow_ckpt._format.signing.keys import SigningKey
from mlflow_ckpt._saving.compose import Content
from mlflow_ckpt._saving.member import Member, Request
from mlflow_ckpt._saving.messages import Messages
from mlflow_ckpt.errors import InvalidArgumentError

# Trainings of at least this length draw a report by default: its cost is negligible there.
_LONG_SECONDS = 60
# Where the settings of a checkpoint's training name the callbacks beside the first.
BESIDE = "beside"


class Group:
    """One or several callbacks that save to the same run.

    A checkpoint that several ask for at the same moment is saved once, with the forms and the
    metadata of all of them.

    Args:
        members: The callbacks, in their order.

    Attributes:
        members: The callbacks, in their order.
        messages: Shows what concerns all of them.
        content: What a checkpoint contains that all of them ask for.

    Raises:
        InvalidArgumentError: If they contradict each other.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)
        self.messages = members[0].messages
        if len(members) > 1:
            raising = any(member.arguments.on_error == "raise" for member in members)
            self.messages = Messages(verbose=self.wants("verbose"), raising=raising)
        self.content = joined(members)
        self._ranking: Member | None = None
        for one, other in combinations(members, 2):
            _require_one_format(one, other)
            self._warn_of_metadata(one, other)

    def wants(self, argument: str) -> bool:
        """Whether one of them was created with an argument that is true."""
        return any(bool(getattr(member.arguments, argument)) for member in self.members)

    def wants_report(self, seconds: float) -> bool:
        """Whether to draw the run's report after a training of that length."""
        wanted = [member.arguments.report for member in self.members]
        return True in wanted or ("auto" in wanted and seconds >= _LONG_SECONDS)

    @property
    def saves_within_epochs(self) -> bool:
        """Whether one of them names its checkpoints by step."""
        return any(member.unit == "step" for member in self.members)

    @property
    def retention(self) -> RetentionPolicy | None:
        """Which checkpoints the run keeps; None for all."""
        policies = [member.arguments.retention for member in self.members]
        if len(policies) == 1 or not any(policies):
            return policies[0]
        return EachItsOwn(self.members)

    @property
    def saved(self) -> frozenset[str]:
        """Names of the checkpoints that one of them asked for."""
        return frozenset[str]().union(*(member.saved for member in self.members))

    @property
    def signing_key(self) -> SigningKey | None:
        """What to sign with: that of the first callback that has one; None if none has."""
        keys = (member.arguments.sign for member in self.members)
        return next((key for key in keys if isinstance(key, SigningKey)), None)

    def recorded(self) -> dict[str, Any]:
        """Return the arguments of all of them as JSON-serializable values."""
        first, *others = [member.arguments.recorded() for member in self.members]
        return {**first, **({BESIDE: others} if others else {})}

    def recall(self, metrics: Iterable[Mapping[str, float]]) -> None:
        """Include the metrics of the checkpoints that the run had before this training."""
        metrics = list(metrics)
        for member in self.members:
            member.best.recall(metrics)

    def judge(
        self, model: keras.Model, requests: Sequence[Request], *, ended: bool
    ) -> tuple[Monitor | None, bool]:
        """Return the metric that the checkpoint is ranked by, and whether it is the best by it.

        If callbacks monitor several metrics, the run's best checkpoint is the best by that of the
        first that saves the best only, or else of the first. So it does not alternate.

        Args:
            model: The model.
            requests: The requests for one checkpoint, at least one.
            ended: Whether an epoch has ended.
        """
        if len(self.members) == 1:
            return requests[0].monitor, requests[0].improved
        metrics = requests[0].metrics
        if self._ranking is None and ended:
            able = (member for member in self._in_rank() if member.best.monitor_in(model, metrics))
            self._ranking = next(able, None)
        ranking = self._ranking or self._in_rank()[0]
        improved = any(request.improved and request.member is ranking for request in requests)
        return ranking.best.monitor_in(model, metrics), improved

    def _in_rank(self) -> list[Member]:
        return sorted(self.members, key=lambda member: not member.arguments.save_best_only)

    def _warn_of_metadata(self, one: Member, other: Member) -> None:
        mine, theirs = one.content.metadata, other.content.metadata
        differing = [name for name in mine if name in theirs and mine[name] != theirs[name]]
        if differing and one.unit == other.unit:
            self.messages.warn_once(
                f"Two MlflowCheckpoints of one run have different metadata ({differing[0]!r}). A "
                "checkpoint that both save has that of the first."
            )


class EachItsOwn(RetentionPolicy):
    """Applies the policy of each callback to the checkpoints that it asked for.

    Those that none of them asked for count as everybody's.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = tuple(members)

    def keep(self, manifests: Sequence[Manifest]) -> frozenset[str]:
        """Return the names that any callback keeps."""
        saved = [member.saved for member in self._members]
        asked_for = frozenset[str]().union(*saved)
        kept: set[str] = set()
        for member, own in zip(self._members, saved, strict=True):
            share = [m for m in manifests if m.name in own or m.name not in asked_for]
            policy = member.arguments.retention
            # A policy may have nothing of its own to compare yet.
            if policy is None or not any(m.name in own for m in share):
                kept.update(m.name for m in share)
            else:
                kept |= _with_monitor(policy, member).keep(share)
        return frozenset(kept)


def _with_monitor(policy: RetentionPolicy, member: Member) -> RetentionPolicy:
    """Return a policy in which `BestN` ranks by the monitor of its own callback."""
    if isinstance(policy, AnyOf):
        return AnyOf(*(_with_monitor(part, member) for part in policy.policies))
    if type(policy) is not BestN or policy.monitor is not None:
        return policy
    mode = policy.mode or member.arguments.mode
    monitor = member.arguments.monitor
    return replace(policy, monitor=monitor, mode=mode if mode in MODES else None)


def joined(members: Iterable[Member]) -> Content:
    """Return the content of a checkpoint that several callbacks ask for."""
    return reduce(Content.joined, (member.content for member in members))


def _require_one_format(one: Member, other: Member) -> None:
    formats = [member.content.format_of_full for member in (one, other)]
    if one.unit == other.unit and None not in formats and formats[0] != formats[1]:
        raise InvalidArgumentError(
            "Two MlflowCheckpoints save the same checkpoints of one run, whose full form has one "
            f"format. Expected the same full_format in both. Received: full_format={formats[0]!r} "
            f"and full_format={formats[1]!r}. Use one of them, or log to two runs with run_id=…."
        )
