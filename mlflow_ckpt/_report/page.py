"""Renders the report: charts and tables in the page's template."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mlflow_ckpt._format.architecture import diff_architectures
from mlflow_ckpt._format.fingerprint import TensorFingerprint
from mlflow_ckpt._format.text import shape_text
from mlflow_ckpt._report import charts
from mlflow_ckpt._report.charts import Curve
from mlflow_ckpt._report.gathering import MOST_DRAWN, RunData, drawn, finite, warnings
from mlflow_ckpt._shown.escaping import shown

MOST_ROWS = 600
MOST_BYTES_OF_CHARTS = 1_200_000
MOST_LISTED = 100
_LETTERS = "AB"
# Longer values are truncated.
_LONGEST = 80


def render(runs: Sequence[RunData]) -> str:
    """Return the report of one run, or of two side by side, as HTML."""
    template = Environment(
        loader=PackageLoader("mlflow_ckpt._report", "."),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html.jinja")
    weights = _weights(runs)
    pairs = zip(_LETTERS, runs, strict=False)
    return template.render(
        runs=[_run(letter, run, len(weights)) for letter, run in pairs],
        two=len(runs) > 1,
        curves=_curves(runs),
        weights=weights,
        differences=_differences(runs),
    )


def _shown(value: Any) -> Any:
    """Return a value as it may be shown; the charts contain no user's text."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _run(letter: str, run: RunData, shown: int) -> dict[str, Any]:
    lines = warnings(run)
    latest = run.checkpoints[-1].manifest if run.checkpoints else None
    rows = list(run.weights[-1].tensors.values()) if run.weights else []
    notes = list(run.notes)
    if len(lines) > MOST_LISTED:
        notes.append(f"{len(lines) - MOST_LISTED} more tensors to look at are left out.")
    if len(rows) > MOST_ROWS:
        notes.append(f"The table has {MOST_ROWS} of {len(rows)} tensors.")
    if len(run.layers) > MOST_ROWS:
        notes.append(f"The architecture shows {MOST_ROWS} of {len(run.layers)} layers.")
    if len(rows) > shown:
        notes.append(f"Charts of weights are of the {shown} largest of {len(rows)} tensors.")
    return {
        "letter": letter,
        "data": run,
        "latest": latest,
        "warnings": lines[:MOST_LISTED],
        "notes": notes,
        "layers": run.layers[:MOST_ROWS],
        "parameters": f"{sum(layer['parameters'] for layer in run.layers):,}",
        "tensors": [_row(tensor) for tensor in rows[:MOST_ROWS]],
    }


def _row(tensor: TensorFingerprint) -> dict[str, Any]:
    stats = tensor.statistics
    numbers = (stats.mean, stats.std, stats.min, stats.max, stats.norm, tensor.update_norm)
    return {
        "label": tensor.label,
        "shape": shape_text(tensor.shape),
        "dtype": tensor.dtype,
        "numbers": ["-" if value is None else f"{value:.4g}" for value in numbers],
        "nonfinite": stats.nan_count + stats.inf_count,
    }


def _curves(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Draw one chart per metric, which includes its validation metric."""
    names = {name for run in runs for name in run.metrics}
    return [
        _metric_chart(runs, name)
        for name in sorted(names)
        if not (name.startswith("val_") and name.removeprefix("val_") in names)
    ]


def _metric_chart(runs: Sequence[RunData], name: str) -> dict[str, Any]:
    validation = f"val_{name}"
    curves, legend = [], []
    for number, run in enumerate(runs):
        logged = [metric for metric in (name, validation) if metric in run.metrics]
        for position, metric in enumerate(logged):
            series = number if len(runs) > 1 else position
            dashed = metric == validation
            curves.append(Curve(*run.metrics[metric], series, dashed=dashed))
            prefix = f"{_LETTERS[number]}: " if len(runs) > 1 else ""
            legend.append((series + 1, f"{prefix}{metric}", dashed))
    saved = [float(saved.manifest.chart_step) for run in runs for saved in run.checkpoints]
    last = max(max(curve.x, default=0.0) for curve in curves)
    # The x axis of a metric logged per batch counts batches, so checkpoints are not marked.
    marks = saved if saved and last <= max(saved) + 1 else ()
    drawing = charts.lines(curves, marks=marks, xlabel="step")
    return {"title": name, "legend": legend, "svg": _drawing(drawing)}


def _weights(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Draw the largest tensors over the epochs; runs share a tensor's charts by its path."""
    tensors = {tensor.name: tensor for run in reversed(runs) for tensor in drawn(run)}
    sections: list[dict[str, Any]] = []
    size = 0
    for name, tensor in list(tensors.items())[:MOST_DRAWN]:
        pictures = [(title, svg) for title, svg in _pictures(runs, name) if svg]
        size += sum(len(svg) for _, svg in pictures)
        if size > MOST_BYTES_OF_CHARTS:
            break
        drawings = [(title, _drawing(svg)) for title, svg in pictures]
        shape = shape_text(tensor.shape)
        sections.append({"title": tensor.label, "shape": shape, "pictures": drawings})
    return sections


@dataclass(frozen=True)
class _History:
    """A tensor in the checkpoints of one run, at their positions on the x axis."""

    series: int
    x: list[float]
    tensors: list[TensorFingerprint]
    by_step: bool

    @classmethod
    def of(cls, run: RunData, name: str, series: int) -> _History:
        saved = [weights for weights in run.weights if name in weights.tensors]
        return cls(
            series,
            [weights.position for weights in saved],
            [weights.tensors[name] for weights in saved],
            any(weights.checkpoint.name.startswith("step") for weights in saved),
        )

    def curve(
        self, value: Callable[[TensorFingerprint], float | None], *, dashed: bool = False
    ) -> Curve:
        return Curve(self.x, finite(map(value, self.tensors)), self.series, dashed=dashed)

    def spread(self) -> list[Curve]:
        """Return the mean in a band of one standard deviation, the minimum and the maximum."""
        mean = self.curve(lambda tensor: tensor.statistics.mean)
        std = finite(tensor.statistics.std for tensor in self.tensors)
        low = [m - s for m, s in zip(mean.y, std, strict=True)]
        high = [m + s for m, s in zip(mean.y, std, strict=True)]
        return [
            replace(mean, band=(low, high)),
            self.curve(lambda tensor: tensor.statistics.min, dashed=True),
            self.curve(lambda tensor: tensor.statistics.max, dashed=True),
        ]


def _pictures(runs: Sequence[RunData], name: str) -> Iterator[tuple[str, str]]:
    """Draw one tensor: its norm, updates, spread and values."""
    histories = [_History.of(run, name, number) for number, run in enumerate(runs)]
    xlabel = "step" if any(history.by_step for history in histories) else "epoch"
    norms = [history.curve(lambda tensor: tensor.statistics.norm) for history in histories]
    yield "norm", charts.lines(norms, xlabel=xlabel)
    updates = [history.curve(_relative_update) for history in histories]
    updates = [curve for curve in updates if not all(map(math.isnan, curve.y))]
    if updates:
        drawing = charts.lines(updates, xlabel=xlabel, log=True)
        yield "relative update since the last checkpoint", drawing
    spreads = [curve for history in histories for curve in history.spread()]
    yield "mean ± std, min and max dashed", charts.lines(spreads, xlabel=xlabel)
    histograms = [
        (*run.histograms[name], number) for number, run in enumerate(runs) if name in run.histograms
    ]
    if histograms:
        yield "histogram, latest checkpoint", charts.bars(histograms)


def _relative_update(tensor: TensorFingerprint) -> float | None:
    if tensor.update_norm is None or not tensor.statistics.norm:
        return None
    return tensor.update_norm / tensor.statistics.norm


def _drawing(svg: str) -> Markup:
    return Markup(svg)  # noqa: S704 - contains no user's text


def _differences(runs: Sequence[RunData]) -> list[tuple[str, str, str, str]]:
    """Return the differences of two architectures: layer, kind and key, and the two values."""
    if len(runs) < 2 or not all(run.architecture for run in runs):
        return []
    differences = diff_architectures(runs[0].architecture, runs[1].architecture)
    return [
        (
            change.layer or "(the model)",
            f"{change.kind} {change.key}".strip(),
            "-" if change.kind in ("added", "layer added") else _short(change.old),
            "-" if change.kind in ("removed", "layer removed") else _short(change.new),
        )
        for change in differences[:MOST_LISTED]
    ]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
