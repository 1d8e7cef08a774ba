"""Formats results as tables and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.results import ModelResults, Spread, Target, ratio
from benchmarks.settings import Settings
from benchmarks.variants import MLFLOW_CALLBACK, PLAIN, VARIANTS

_TITLES = {variant.name: variant.title for variant in VARIANTS}
_NOTHING = "-"
# Fraction of the state: more memory than this left after a training is reported.
_KEPT_OF_STATE = 0.25


def show(console: Console, models: list[ModelResults], targets: list[Target]) -> None:
    """Print each model's tables, then the targets."""
    for model in models:
        console.print(_costs(model))
        _show_notes(console, model)
        console.print(_limits(model))
    console.print(_targets(targets))


def to_json(
    models: list[ModelResults],
    targets: list[Target],
    settings: Settings,
    environment: dict[str, Any],
) -> dict[str, Any]:
    """Return all results as plain values: samples, summaries and targets, in seconds and bytes."""
    return {
        "environment": environment,
        "settings": asdict(settings),
        "models": {model.name: _model_json(model) for model in models},
        "targets": [{**asdict(target), "met": target.met} for target in targets],
    }


def _model_json(model: ModelResults) -> dict[str, Any]:
    summaries = model.summaries()
    peer = summaries.get(MLFLOW_CALLBACK)
    return {
        "parameters": model.parameters,
        "state_bytes": model.state_bytes,
        "steps_per_epoch": model.steps,
        "epoch": asdict(model.epoch()),
        "noise": model.noise(),
        "cifar10_epoch": model.cifar10_epoch,
        "summaries": {name: asdict(summary) for name, summary in summaries.items()},
        "times_mlflow_callback": {
            name: {
                quantity: ratio(summary, peer, quantity) for quantity in ("blocking", "wall_added")
            }
            for name, summary in summaries.items()
        },
        "limits": {name: _spread_json(values) for name, values in model.limits.items()},
        "samples": {
            name: [asdict(sample) for sample in samples] for name, samples in model.samples.items()
        },
    }


def _spread_json(values: list[float]) -> dict[str, Any]:
    spread = Spread.of(values)
    return {**(asdict(spread) if spread else {}), "samples": values}


def _costs(model: ModelResults) -> Table:
    rounds = len({sample.round for sample in model.measured(PLAIN)})
    table = _table(
        f"{model.name}: {model.parameters:,} parameters, {model.state_bytes / 1e6:.1f} MB of "
        f"state; medians of {rounds} rounds",
        "saved by",
        *("blocking\nms/save", "x MLflow's\ncallback", "wall added\nms/save"),
        *("x MLflow's\ncallback", "CPU added\nms/save", "peak memory\nadded MB", "x state"),
        *("written\nMB/save", "stored\nMB/save"),
    )
    summaries = model.summaries()
    peer = summaries.get(MLFLOW_CALLBACK)
    for name, summary in summaries.items():
        if name == PLAIN:
            continue
        memory = summary.memory_added
        table.add_row(
            _TITLES[name],
            _number(summary.blocking, 1e3),
            _times(ratio(summary, peer, "blocking")),
            _number(summary.wall_added, 1e3),
            _times(ratio(summary, peer, "wall_added")),
            _number(summary.cpu_added, 1e3),
            _number(memory, 1e-6),
            _times(memory.median / model.state_bytes if memory else None),
            _number(summary.written, 1e-6),
            _number(summary.stored, 1e-6),
        )
    return table


def _show_notes(console: Console, model: ModelResults) -> None:
    epoch = model.epoch()
    notes = [
        f"An epoch of {model.steps} steps without callback took {epoch.median:.2f} s "
        f"({epoch.min:.2f} to {epoch.max:.2f}).",
        "Two trainings without callback in the same round differed by "
        f"{1e3 * model.noise():.0f} ms an epoch (median): the noise of the wall time added.",
    ]
    if model.cifar10_epoch is not None:
        notes.append(f"An epoch of the length of CIFAR-10's took {model.cifar10_epoch:.1f} s.")
    for name in model.samples:
        kept = model.kept(name)
        if name != PLAIN and kept and kept > max(_KEPT_OF_STATE * model.state_bytes, 100e6):
            notes.append(
                f"After its first training, {_TITLES[name]} left {kept / 1e6:.0f} MB in memory, "
                "which the peak above does not show."
            )
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True)


def _limits(model: ModelResults) -> Table:
    table = _table(
        f"{model.name}: what the machine needs for these {model.state_bytes / 1e6:.1f} MB",
        *("physical limit", "ms", "min", "max"),
    )
    for name, values in model.limits.items():
        spread = Spread.of(values)
        if spread is not None:
            numbers = (spread.median, spread.min, spread.max)
            table.add_row(name, *(_format(1e3 * seconds) for seconds in numbers))
    return table


def _targets(targets: list[Target]) -> Table:
    table = _table("targets of MlflowCheckpoint full", "model", "target", "at most", "is", "")
    for column in (0, 1):
        table.columns[column].justify = "left"
    verdicts = {True: "[green]pass[/]", False: "[red]fail[/]", None: "not measured"}
    for target in targets:
        value = _NOTHING if target.value is None else f"{target.value:.3g}"
        table.add_row(
            target.model, target.title, f"{target.limit:.3g}", value, verdicts[target.met]
        )
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _number(spread: Spread | None, factor: float) -> str:
    return _NOTHING if spread is None else _format(spread.median * factor)


def _times(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.2f}"


def _format(value: float) -> str:
    return (
        f"{value:,.0f}"
        if abs(value) >= 100
        else f"{value:.1f}"
        if abs(value) >= 10
        else f"{value:.2f}"
    )
