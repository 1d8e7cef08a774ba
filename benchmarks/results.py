"""What the samples say: medians, ranges, ratios, and whether the targets are met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.measuring import Sample
from benchmarks.variants import LOG_MODEL, MLFLOW_CALLBACK, OURS, PLAIN

IN_FLIGHT = 2


@dataclass(frozen=True)
class Spread:
    """Median and range of one quantity over the rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Return the spread of `values`, or None if any was not measured."""
        known = [value for value in values if value is not None]
        if not known or None in values:
            return None
        return cls(statistics.median(known), min(known), max(known))


@dataclass(frozen=True)
class Summary:
    """What one variant costs, over the rounds.

    Differences are taken within a round: from the mean of that round's trainings without callback.

    Attributes:
        blocking: Seconds a save that the training thread spends inside the callback.
        wall_added: Seconds a save that training takes longer.
        cpu_added: Seconds a save of processor time more, of all threads and child processes.
        memory_added: Bytes that the peak of resident memory is higher.
        written: Bytes a save passed to write calls.
        stored: Bytes a save that stay.
    """

    blocking: Spread | None
    wall_added: Spread | None
    cpu_added: Spread | None
    memory_added: Spread | None
    written: Spread | None
    stored: Spread | None


@dataclass
class ModelResults:
    """Everything measured of one model.

    Attributes:
        name: Of the model.
        parameters: How many it has.
        state_bytes: Weights and optimizer state.
        steps: Of a measured epoch.
        cifar10_epoch: Seconds of one epoch of CIFAR-10 without callback; None if not measured.
        samples: By variant; round 0 is the warm-up.
        limits: Seconds of each round, by what was done to the state's bytes.
    """

    name: str
    parameters: int
    state_bytes: int
    steps: int
    cifar10_epoch: float | None = None
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    limits: dict[str, list[float]] = field(default_factory=dict)

    def measured(self, variant: str) -> list[Sample]:
        """Return a variant's samples, without the warm-up."""
        return [sample for sample in self.samples.get(variant, []) if sample.round > 0]

    def epoch(self) -> Spread:
        """Return the seconds of a measured epoch without callback."""
        spread = Spread.of([sample.wall / sample.saves for sample in self.measured(PLAIN)])
        if spread is None:
            raise RuntimeError("no training without callback was measured")
        return spread

    def summaries(self) -> dict[str, Summary]:
        """Return the summary of every variant, by name."""
        return {name: self._summary(name) for name in self.samples}

    def kept(self, variant: str) -> int | None:
        """Return the bytes that stayed in memory after the variant's first training."""
        warm_up = self.samples[variant][0]
        if warm_up.resident_after is None or warm_up.resident_before is None:
            return None
        return warm_up.resident_after - warm_up.resident_before

    def noise(self) -> float:
        """Return the seconds a save by which trainings without callback in one round differ."""
        return statistics.median(
            (max(sample.wall for sample in samples) - min(sample.wall for sample in samples))
            / samples[0].saves
            for samples in self._plain_by_round().values()
        )

    def _plain_by_round(self) -> dict[int, list[Sample]]:
        rounds: dict[int, list[Sample]] = {}
        for sample in self.measured(PLAIN):
            rounds.setdefault(sample.round, []).append(sample)
        return rounds

    def _summary(self, variant: str) -> Summary:
        samples = self.measured(variant)
        plain = self._plain_by_round()

        def added(value: Callable[[Sample], float | None]) -> list[float | None]:
            return [
                _minus(value(sample), _mean([value(other) for other in plain[sample.round]]))
                for sample in samples
            ]

        def a_save(values: list[float | None]) -> Spread | None:
            return Spread.of(
                [
                    None if value is None else value / sample.saves
                    for value, sample in zip(values, samples, strict=True)
                ]
            )

        return Summary(
            blocking=a_save([sample.blocking for sample in samples]),
            wall_added=a_save(added(lambda sample: sample.wall)),
            cpu_added=a_save(added(lambda sample: sample.cpu)),
            memory_added=Spread.of(added(lambda sample: sample.resident_peak)),
            written=a_save(added(lambda sample: sample.written)),
            stored=a_save([sample.stored for sample in samples]),
        )


@dataclass(frozen=True)
class Target:
    """What `MlflowCheckpoint(forms=("full",))` shall reach.

    Attributes:
        model: Of which model.
        title: Of what.
        limit: The most that it may be.
        value: What it is; None if something that it needs was not measured.
    """

    model: str
    title: str
    limit: float
    value: float | None

    @property
    def met(self) -> bool | None:
        """Whether it is reached; None if that was not measured."""
        return None if self.value is None else self.value <= self.limit


def targets(models: Sequence[ModelResults]) -> list[Target]:
    """Return the targets of the models that were measured."""
    found = []
    for model in models:
        summaries = model.summaries()

        def times(
            quantity: str, peer: str, summaries: Mapping[str, Summary] = summaries
        ) -> float | None:
            return ratio(summaries.get(OURS), summaries.get(peer), quantity)

        ours = summaries.get(OURS)
        blocking = times("blocking", MLFLOW_CALLBACK)
        wall = times("wall_added", MLFLOW_CALLBACK)
        log_model = times("wall_added", LOG_MODEL)
        if model.name == "dense":
            memory = None if ours is None else _share(ours.memory_added, model.state_bytes)
            rows = [
                ("blocking time / MlflowModelCheckpointCallback", 1 / 4, blocking),
                ("wall time added / MlflowModelCheckpointCallback", 1.0, wall),
                ("wall time added / mlflow.keras.log_model", 1 / 8, log_model),
                (f"memory added / state ({IN_FLIGHT} in flight)", 1.5 * IN_FLIGHT, memory),
            ]
        else:
            share = None if ours is None else _share(ours.wall_added, model.cifar10_epoch)
            rows = [
                ("blocking time / MlflowModelCheckpointCallback", 1 / 2, blocking),
                ("wall time added / epoch of CIFAR-10", 0.01, share),
                ("wall time added / mlflow.keras.log_model", 1 / 100, log_model),
            ]
        found += [Target(model.name, title, limit, value) for title, limit, value in rows]
    return found


def ratio(summary: Summary | None, peer: Summary | None, quantity: str) -> float | None:
    """Return how many times the peer's median a quantity's median is.

    Returns:
        None where one was not measured, or where the peer's median is within the noise of nothing.
    """
    value: Spread | None = getattr(summary, quantity, None)
    other: Spread | None = getattr(peer, quantity, None)
    if value is None or other is None or other.median <= 0:
        return None
    return value.median / other.median


def _share(spread: Spread | None, whole: float | None) -> float | None:
    return None if spread is None or whole is None else spread.median / whole


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
