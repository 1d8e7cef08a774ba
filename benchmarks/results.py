"""Evaluates samples: medians, ranges, ratios, and whether the targets are met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.measuring import Sample
from benchmarks.variants import FULL, LOG_MODEL, MLFLOW_CALLBACK, PLAIN

IN_FLIGHT = 2


@dataclass(frozen=True)
class Spread:
    """Median and range of a quantity over the rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Return the spread of `values`; None if there are none, or one was not measured."""
        measured = [value for value in values if value is not None]
        if not measured or None in values:
            return None
        return cls(statistics.median(measured), min(measured), max(measured))


@dataclass(frozen=True)
class Summary:
    """The overhead of a variant over the rounds.

    Overhead is the difference to the mean of the same round's trainings without callback.

    Attributes:
        blocking: Seconds per save that the training thread spends in the callback.
        wall_added: Wall time added per save, in seconds.
        cpu_added: Processor time added per save, of all threads and child processes, in seconds.
        memory_added: Increase of the peak of resident memory, in bytes.
        written: Bytes per save passed to write calls.
        stored: Bytes per save that remain on disk.
    """

    blocking: Spread | None
    wall_added: Spread | None
    cpu_added: Spread | None
    memory_added: Spread | None
    written: Spread | None
    stored: Spread | None


@dataclass
class ModelResults:
    """The measurements of one model.

    Attributes:
        name: Name of the model.
        parameters: Number of its parameters.
        state_bytes: Size of weights and optimizer state.
        steps: Steps per epoch.
        cifar10_epoch: Seconds of one epoch of CIFAR-10 without callback; None if not measured.
        samples: Samples by variant; round 0 is the warm-up.
        limits: Seconds per round, by operation on the state's bytes.
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
        """Return the bytes left in memory by the variant's first training; None if not measured."""
        warm_up = self.samples[variant][0]
        if warm_up.resident_after is None or warm_up.resident_before is None:
            return None
        return warm_up.resident_after - warm_up.resident_before

    def noise(self) -> float:
        """Return the difference of trainings without callback in a round, in seconds per save."""
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

        def per_save(values: list[float | None]) -> Spread | None:
            return Spread.of(
                [
                    None if value is None else value / sample.saves
                    for value, sample in zip(values, samples, strict=True)
                ]
            )

        return Summary(
            blocking=per_save([sample.blocking for sample in samples]),
            wall_added=per_save(added(lambda sample: sample.wall)),
            cpu_added=per_save(added(lambda sample: sample.cpu)),
            memory_added=Spread.of(added(lambda sample: sample.resident_peak)),
            written=per_save(added(lambda sample: sample.written)),
            stored=per_save([sample.stored for sample in samples]),
        )


@dataclass(frozen=True)
class Target:
    """A target for `MlflowCheckpoint(forms=("full",))`.

    Attributes:
        model: Name of the model.
        title: The quantity.
        limit: Its maximum.
        value: Its value; None if it was not measured.
    """

    model: str
    title: str
    limit: float
    value: float | None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if it was not measured."""
        return None if self.value is None else self.value <= self.limit


def targets(models: Sequence[ModelResults]) -> list[Target]:
    """Return the targets of the measured models."""
    result = []
    for model in models:
        summaries = model.summaries()

        def times(
            quantity: str, peer: str, summaries: Mapping[str, Summary] = summaries
        ) -> float | None:
            return ratio(summaries.get(FULL), summaries.get(peer), quantity)

        full = summaries.get(FULL)
        blocking = times("blocking", MLFLOW_CALLBACK)
        wall = times("wall_added", MLFLOW_CALLBACK)
        log_model = times("wall_added", LOG_MODEL)
        if model.name == "dense":
            memory = None if full is None else _share(full.memory_added, model.state_bytes)
            rows = [
                ("blocking time / MlflowModelCheckpointCallback", 1 / 4, blocking),
                ("wall time added / MlflowModelCheckpointCallback", 1.0, wall),
                ("wall time added / mlflow.keras.log_model", 1 / 8, log_model),
                (f"memory added / state ({IN_FLIGHT} in flight)", 1.5 * IN_FLIGHT, memory),
            ]
        else:
            share = None if full is None else _share(full.wall_added, model.cifar10_epoch)
            rows = [
                ("blocking time / MlflowModelCheckpointCallback", 1 / 2, blocking),
                ("wall time added / epoch of CIFAR-10", 0.01, share),
                ("wall time added / mlflow.keras.log_model", 1 / 100, log_model),
            ]
        result += [Target(model.name, title, limit, value) for title, limit, value in rows]
    return result


def ratio(summary: Summary | None, peer: Summary | None, quantity: str) -> float | None:
    """Return the ratio of the medians of a quantity, to that of the peer.

    Returns:
        The ratio; None if a median was not measured, or the peer's is not positive.
    """
    value: Spread | None = getattr(summary, quantity, None)
    other: Spread | None = getattr(peer, quantity, None)
    if value is None or other is None or other.median <= 0:
        return None
    return value.median / other.median


def _share(spread: Spread | None, whole: float | None) -> float | None:
    return None if spread is None or whole is None else spread.median / whole


def _mean(values: Sequence[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return statistics.mean(measured) if len(measured) == len(values) else None


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
