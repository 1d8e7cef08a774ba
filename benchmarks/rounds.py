"""Measures the variants on one model, in rounds of random order."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import click

from benchmarks.destinations import Store
from benchmarks.limits import measure_limits
from benchmarks.measuring import measure_fit, release_memory
from benchmarks.models import CIFAR10_IMAGES, Subject, build_cnn, build_dense, synthesize
from benchmarks.results import ModelResults
from benchmarks.settings import Settings
from benchmarks.variants import PLAIN, VARIANTS

_WARM_UP = 0


def measure_model(name: str, settings: Settings, store: Store) -> ModelResults:
    """Measure every variant on one model.

    Args:
        name: `"cnn"` or `"dense"`.
        settings: The settings of the benchmark.
        store: The store to save to.

    Raises:
        BenchmarkError: If a variant did not save every epoch.
    """
    build, steps = (
        (build_cnn, settings.cnn_steps) if name == "cnn" else (build_dense, settings.dense_steps)
    )
    subject = build(steps, settings.seed)
    variants = [variant for variant in VARIANTS if variant.name in (PLAIN, *settings.variants)]
    _say(f"{name}: warm-up")
    # Trace the graph and create the optimizer's variables before any variant's warm-up.
    subject.fit(1, [])
    state = subject.state()
    results = ModelResults(
        name=name,
        parameters=subject.model.count_params(),
        state_bytes=sum(array.nbytes for array in state),
        steps=subject.steps,
        samples={variant.name: [] for variant in variants},
    )
    del state
    for variant in variants:
        sample = measure_fit(subject, variant, store, epochs=1, number=_WARM_UP)
        results.samples[variant.name].append(sample)
    if name == "cnn" and settings.cifar10_epoch:
        _say(f"{name}: one epoch of the length of CIFAR-10's")
        results.cifar10_epoch = _time_cifar10_epoch(subject, settings.seed)

    # Two trainings without callback per round: the baseline, whose difference is the noise.
    trainings = [variant for variant in variants if variant.name == PLAIN] + variants
    order = random.Random(settings.seed)  # noqa: S311
    for number in range(1, settings.rounds + 1):
        started = time.perf_counter()
        for variant in order.sample(trainings, len(trainings)):
            sample = measure_fit(subject, variant, store, epochs=settings.epochs, number=number)
            results.samples[variant.name].append(sample)
        for limit, seconds in measure_limits(subject.state(), store.files).items():
            results.limits.setdefault(limit, []).append(seconds)
        seconds = time.perf_counter() - started
        _say(f"{name}: round {number} of {settings.rounds} took {seconds:.0f} s")
    return results


def _time_cifar10_epoch(subject: Subject, seed: int) -> float:
    """Return the seconds of one epoch with as many images as CIFAR-10."""
    images, labels = synthesize(CIFAR10_IMAGES, seed)
    whole = replace(subject, images=images, labels=labels)
    # Trace the shape of the last batch, which is smaller, before measuring.
    few = subject.batch_size + len(images) % subject.batch_size
    replace(whole, images=images[:few], labels=labels[:few]).fit(1, [])
    release_memory()
    started = time.perf_counter()
    whole.fit(1, [])
    return time.perf_counter() - started


def _say(line: str) -> None:
    click.echo(line, err=True)
