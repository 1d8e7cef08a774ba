"""Retention policies: which checkpoints they keep, of any that a run may have."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_ckpt import AnyOf, BestN, EveryN, LatestN, RetentionPolicy
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.monitor import Monitor, is_better
from mlflow_ckpt.errors import InvalidArgumentError, MetricNotFoundError
from tests.support.waiting import PATIENCE_SECONDS

NAN = math.nan
VAL_LOSS = Monitor("val_loss", "min")


def manifest(
    epoch: int, *, step: int | None = None, monitor: Monitor | None = VAL_LOSS, **metrics: float
) -> Manifest:
    """The manifest of a checkpoint at an epoch's end, or at a step after it."""
    name = CheckpointName("epoch", epoch) if step is None else CheckpointName("step", step)
    digest = Digest.of_bytes(b"")
    return Manifest(
        run_id="0" * 32,
        name=str(name),
        epoch=epoch,
        step=step or 100 * epoch,
        created="2026-01-01T00:00:00+00:00",
        forms=("split",),
        full_format=None,
        files=(),
        weights_digest=digest,
        architecture_digest=digest,
        metrics=metrics,
        monitor=monitor,
    )


def epochs(*losses: float) -> list[Manifest]:
    """A checkpoint for each `val_loss`, at the end of epochs 1, 2, …"""
    return [manifest(epoch, val_loss=loss) for epoch, loss in enumerate(losses, 1)]


@st.composite
def histories(draw: st.DrawFn) -> list[Manifest]:
    """The checkpoints of a run, oldest first: by epoch or inside one, some without a metric."""
    manifests = []
    for epoch in sorted(draw(st.sets(st.integers(1, 60), max_size=12))):
        metrics = draw(st.just({}) | st.fixed_dictionaries({"val_loss": st.floats()}))
        manifests.append(manifest(epoch, **metrics))
        if draw(st.booleans()):
            manifests.append(manifest(epoch, step=100 * epoch + 50, **metrics))
    return manifests


counts = st.integers(1, 15)
# BestN refuses a history without a value; that is its own test.
total_policies = st.builds(LatestN, counts) | st.builds(EveryN, counts)


def usable(history: Sequence[Manifest]) -> list[float]:
    values = [m.metrics["val_loss"] for m in history if "val_loss" in m.metrics]
    return [value for value in values if not math.isnan(value)]


@given(histories(), counts)
def test_latest_keeps_the_last_n(history: list[Manifest], n: int) -> None:
    kept = LatestN(n).keep(history)
    assert len(kept) == min(n, len(history))
    assert kept == {m.name for m in history[len(history) - len(kept) :]}


@given(histories(), counts, st.sampled_from(["min", "max"]))
def test_nothing_that_best_leaves_beats_what_it_keeps(
    history: list[Manifest], n: int, mode: str
) -> None:
    policy = BestN(n, "val_loss", mode)
    if history and not usable(history):
        with pytest.raises(MetricNotFoundError):
            policy.keep(history)
        return
    kept = policy.keep(history)
    assert len(kept) == min(n, len(usable(history)))
    inside = [m.metrics["val_loss"] for m in history if m.name in kept]
    outside = [m.metrics["val_loss"] for m in history if m.name not in kept and m.metrics]
    assert not any(math.isnan(value) for value in inside)
    assert not any(is_better(left, value, mode) for left in outside for value in inside)


@given(histories(), counts)
def test_best_of_more_keeps_what_best_of_fewer_does(history: list[Manifest], n: int) -> None:
    if usable(history):
        assert BestN(n).keep(history) <= BestN(n + 1).keep(history)


@given(histories(), counts)
def test_every_keeps_the_ends_of_epochs_that_n_divides(history: list[Manifest], n: int) -> None:
    kept = EveryN(n).keep(history)
    assert kept == {m.name for m in history if m.name.startswith("epoch") and m.epoch % n == 0}


@given(histories(), st.lists(total_policies, min_size=1, max_size=4))
def test_any_of_is_the_union(history: list[Manifest], policies: list[RetentionPolicy]) -> None:
    kept = AnyOf(*policies).keep(history)
    assert kept == set().union(*(policy.keep(history) for policy in policies))
    assert kept <= {m.name for m in history}


@pytest.mark.parametrize(
    ("policy", "losses", "kept"),
    [
        pytest.param(BestN(2), (3.0, 1.0, 2.0), {2, 3}, id="the recorded metric"),
        pytest.param(BestN(2, mode="max"), (3.0, 1.0, 2.0), {1, 3}, id="the other way"),
        pytest.param(BestN(1), (2.0, 1.0, 1.0), {2}, id="the earliest of equals"),
        pytest.param(BestN(1, mode="max"), (1.0, 2.0, 2.0), {2}, id="the earliest of equals, max"),
        pytest.param(BestN(3), (NAN, 2.0, NAN, 1.0), {2, 4}, id="NaN is not among the best"),
        pytest.param(BestN(1, mode="max"), (NAN, -math.inf), {2}, id="even the worst beats NaN"),
        pytest.param(LatestN(1) | BestN(1), (1.0, 2.0, 3.0), {1, 3}, id="either"),
        pytest.param(EveryN(2), (1.0, 1.0, 1.0, 1.0, 1.0), {2, 4}, id="every second"),
    ],
)
def test_what_is_kept(policy: RetentionPolicy, losses: tuple[float, ...], kept: set[int]) -> None:
    assert policy.keep(epochs(*losses)) == {f"epoch_{epoch:04d}" for epoch in kept}


def test_best_passes_over_checkpoints_without_the_metric() -> None:
    history = [manifest(1, loss=0.1), manifest(2, loss=0.2, val_loss=0.9), manifest(3, loss=0.3)]
    assert BestN(2).keep(history) == {"epoch_0002"}


def test_best_judges_by_the_metric_that_the_newest_recorded() -> None:
    accuracy = Monitor("val_accuracy", "max")
    history = [
        manifest(1, val_loss=0.1, val_accuracy=0.5),
        manifest(2, val_loss=0.2, val_accuracy=0.9, monitor=accuracy),
        manifest(3, val_loss=0.3, val_accuracy=0.7, monitor=None),
    ]
    assert BestN(1).keep(history) == {"epoch_0002"}
    assert BestN(1, "val_loss").keep(history) == {"epoch_0001"}, "its name tells the way"


def test_best_goes_the_way_that_was_recorded() -> None:
    history = [
        manifest(epoch, score=value, monitor=Monitor("score", "min"))
        for epoch, value in enumerate((3.0, 1.0, 2.0), 1)
    ]
    assert BestN(1, "score").keep(history) == {"epoch_0002"}


def test_an_end_of_epoch_0_is_no_multiple() -> None:
    assert EveryN(1).keep([manifest(0), manifest(1)]) == {"epoch_0001"}


def test_nothing_is_kept_of_nothing() -> None:
    assert (LatestN(1) | BestN(1) | EveryN(1)).keep([]) == frozenset()


@pytest.mark.parametrize(
    ("policy", "history", "message", "metric"),
    [
        pytest.param(
            BestN(1, "val_lose"),
            epochs(0.5),
            "No checkpoint of the run recorded the metric 'val_lose', so the best checkpoints "
            "cannot be determined. Choose another metric: monitor=… (--monitor); recorded: "
            "val_loss.",
            "val_lose",
            id="never recorded",
        ),
        pytest.param(
            BestN(1),
            epochs(NAN, NAN),
            "The metric 'val_loss' is NaN in every checkpoint of the run, so the best "
            "checkpoints cannot be determined. Choose another metric: monitor=… (--monitor); "
            "recorded: val_loss.",
            "val_loss",
            id="nothing but NaN",
        ),
        pytest.param(
            BestN(1),
            [manifest(1, monitor=None)],
            "No checkpoint of the run recorded a monitored metric, so the best checkpoints cannot "
            "be determined. Choose another metric: monitor=… (--monitor); recorded: none.",
            "",
            id="no monitor",
        ),
    ],
)
def test_best_refuses_to_judge_by_nothing(
    policy: BestN, history: list[Manifest], message: str, metric: str
) -> None:
    for judge in (policy, LatestN(1) | policy):
        with pytest.raises(MetricNotFoundError) as caught:
            judge.keep(history)
        assert (str(caught.value), caught.value.metric) == (message, metric)


def test_best_refuses_a_metric_that_may_go_either_way() -> None:
    with pytest.raises(InvalidArgumentError, match=r"high or a low 'score' .* \(--mode\)"):
        BestN(1, "score").keep([manifest(1, score=0.5)])
    assert BestN(1, "score", "max").keep([manifest(1, score=0.5)]) == {"epoch_0001"}


@pytest.mark.parametrize("policy", [LatestN, BestN, EveryN])
@pytest.mark.parametrize("n", [0, -1, True, 2.0, "3", None])
def test_a_count_that_makes_no_sense(policy: Callable[[Any], RetentionPolicy], n: object) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        policy(n)
    assert str(caught.value) == (
        f"Expected {policy.__name__}'s n to be an int >= 1. Received: n={n!r}"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BestN(1, mode="low"), "Expected mode 'min' or 'max'. Received: mode='low'"),
        (lambda: BestN(1, ""), "Expected monitor to be the name of a metric, such as 'val_loss'. "),
        (lambda: BestN(1, 3), "Expected monitor to be the name of a metric, such as 'val_loss'. "),
        (AnyOf, "Expected AnyOf to have at least one policy, such as AnyOf(LatestN(3), BestN(1))"),
        (lambda: AnyOf(3), "Expected a retention policy, such as LatestN(3) or "),
    ],
)
def test_other_arguments_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_policies_combine_and_compare() -> None:
    combined = LatestN(3) | BestN(1) | EveryN(10)
    assert combined == AnyOf(LatestN(3), BestN(1), EveryN(10))
    assert repr(combined) == (
        "AnyOf(policies=(LatestN(n=3), BestN(n=1, monitor=None, mode=None), EveryN(n=10)))"
    )
    with pytest.raises(TypeError):
        LatestN(3) | 3


def test_a_policy_of_ones_own() -> None:
    class Named(RetentionPolicy):
        def keep(self, manifests: Sequence[Manifest]) -> frozenset[str]:
            return frozenset(m.name for m in manifests if m.metadata.get("keep"))

    history = epochs(0.5, 0.4, 0.3)
    history[0] = replace(history[0], metadata={"keep": True})
    assert (Named() | LatestN(1)).keep(history) == {"epoch_0001", "epoch_0003"}


def test_policies_load_neither_keras_nor_mlflow() -> None:
    code = (
        "import sys; from mlflow_ckpt import AnyOf, BestN, EveryN, LatestN, RetentionPolicy; "
        "print(sorted({'tensorflow', 'keras', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.stdout == "[]\n", done.stderr
