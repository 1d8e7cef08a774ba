"""The page: charts and tables put into the template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mlflow_ckpt._format.architecture_diff import diff_architectures
from mlflow_ckpt._format.fingerprint import TensorFingerprint
from mlflow_ckpt._report import charts
from mlflow_ckpt._report.charts import Curve
from mlflow_ckpt._report.gathering import MOST_DRAWN, Gathered, drawn, finite, shape, warnings

MOST_ROWS = 600
MOST_BYTES_OF_CHARTS = 1_200_000
MOST_LISTED = 100
_LETTERS = "AB"
# A value longer than this is cut.
_LONGEST = 80


def render(runs: Sequence[Gathered]) -> str:
    """Return the page of one run, or of two side by side."""
    template = Environment(
        loader=PackageLoader("mlflow_ckpt._report", "."),
        autoescape=True,
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


def _run(letter: str, run: Gathered, shown: int) -> dict[str, Any]:
    found = warnings(run)
    latest = run.checkpoints[-1].manifest if run.checkpoints else None
    rows = list(run.moments[-1].tensors.values()) if run.moments else []
    notes = list(run.notes)
    if len(found) > MOST_LISTED:
        notes.append(f"{len(found) - MOST_LISTED} more tensors to look at are left out.")
    if len(rows) > MOST_ROWS:
        notes.append(f"The table has {MOST_ROWS} of {len(rows)} tensors.")
    if len(run.layers) > MOST_ROWS:
        notes.append(f"The architecture shows {MOST_ROWS} of {len(run.layers)} layers.")
    if len(rows) > shown:
        notes.append(f"Charts of weights are of the {shown} largest of {len(rows)} tensors.")
    return {
        "letter": letter,
        "run": run,
        "latest": latest,
        "warnings": found[:MOST_LISTED],
        "notes": notes,
        "layers": run.layers[:MOST_ROWS],
        "parameters": f"{sum(layer['parameters'] for layer in run.layers):,}",
        "tensors": [_row(tensor) for tensor in rows[:MOST_ROWS]],
    }


def _row(tensor: TensorFingerprint) -> dict[str, Any]:
    told = tensor.statistics
    numbers = (told.mean, told.std, told.min, told.max, told.norm, tensor.update_norm)
    return {
        "label": tensor.label,
        "shape": shape(tensor),
        "dtype": tensor.dtype,
        "numbers": ["-" if value is None else f"{value:.4g}" for value in numbers],
        "nonfinite": told.nan_count + told.inf_count,
    }


def _curves(runs: Sequence[Gathered]) -> list[dict[str, Any]]:
    """Draw each metric, its validation twin in the same chart."""
    names = sorted({name for run in runs for name in run.metrics})
    groups = [n for n in names if not (n.startswith("val_") and n.removeprefix("val_") in names)]
    saved = [float(each.manifest.chart_step) for run in runs for each in run.checkpoints]
    found = []
    for name in groups:
        twin = f"val_{name}"
        curves, legend = [], []
        for number, run in enumerate(runs):
            for which, each in enumerate(n for n in (name, twin) if n in run.metrics):
                x, y = run.metrics[each]
                series = number if len(runs) > 1 else which
                curves.append(Curve(x, y, series, dashed=each == twin))
                prefix = f"{_LETTERS[number]}: " if len(runs) > 1 else ""
                legend.append((series + 1, f"{prefix}{each}", each == twin))
        # Whoever logs each batch counts batches, where no epoch has a place.
        alike = bool(saved) and max(max(c.x, default=0.0) for c in curves) <= max(saved) + 1
        drawing = charts.lines(curves, marks=saved if alike else (), xlabel="step")
        found.append({"title": name, "legend": legend, "svg": _drawing(drawing)})
    return found


def _weights(runs: Sequence[Gathered]) -> list[dict[str, Any]]:
    """Draw the largest tensors over the epochs, which runs share by their paths."""
    tensors = {tensor.name: tensor for run in reversed(runs) for tensor in drawn(run)}
    found: list[dict[str, Any]] = []
    size = 0
    for name, tensor in list(tensors.items())[:MOST_DRAWN]:
        pictures = [(title, svg) for title, svg in _pictures(runs, name) if svg]
        size += sum(len(svg) for _, svg in pictures)
        if size > MOST_BYTES_OF_CHARTS:
            break
        drawings = [(title, _drawing(svg)) for title, svg in pictures]
        found.append({"title": tensor.label, "shape": shape(tensor), "pictures": drawings})
    return found


def _pictures(runs: Sequence[Gathered], name: str) -> Iterator[tuple[str, str]]:
    """Draw one tensor: its norm, its updates, its spread, and its values."""
    norms, updates, spreads, histograms = [], [], [], []
    inside = False
    for number, run in enumerate(runs):
        moments = [moment for moment in run.moments if name in moment.tensors]
        inside = inside or any(m.checkpoint.name.startswith("step") for m in moments)
        x = [moment.position for moment in moments]
        told = [moment.tensors[name].statistics for moment in moments]
        norms.append(Curve(x, finite(each.norm for each in told), number))
        changes = finite(_relative_update(moment.tensors[name]) for moment in moments)
        if any(change == change for change in changes):
            updates.append(Curve(x, changes, number))
        mean, std = finite(t.mean for t in told), finite(t.std for t in told)
        band = (
            [m - s for m, s in zip(mean, std, strict=True)],
            [m + s for m, s in zip(mean, std, strict=True)],
        )
        spreads.append(Curve(x, mean, number, band=band))
        for edge in (finite(t.min for t in told), finite(t.max for t in told)):
            spreads.append(Curve(x, edge, number, dashed=True))
        if name in run.histograms:
            histograms.append((*run.histograms[name], number))
    xlabel = "step" if inside else "epoch"
    yield "norm", charts.lines(norms, xlabel=xlabel)
    if updates:
        yield (
            "update since the last one, over the norm",
            charts.lines(updates, xlabel=xlabel, log=True),
        )
    yield "mean ± std, min and max dashed", charts.lines(spreads, xlabel=xlabel)
    if histograms:
        yield "histogram, latest checkpoint", charts.bars(histograms)


def _relative_update(tensor: TensorFingerprint) -> float | None:
    if tensor.update_norm is None or not tensor.statistics.norm:
        return None
    return tensor.update_norm / tensor.statistics.norm


def _drawing(svg: str) -> Markup:
    return Markup(svg)  # noqa: S704 - drawn by us, without the user's text


def _differences(runs: Sequence[Gathered]) -> list[tuple[str, str, str, str]]:
    """Return how the architectures of two runs differ: layer, what, and the two values."""
    if len(runs) < 2 or not all(run.architecture for run in runs):
        return []
    found = diff_architectures(runs[0].architecture, runs[1].architecture)
    return [
        (
            each.layer or "(the model)",
            f"{each.kind} {each.key}".strip(),
            "-" if each.kind in ("added", "layer added") else _short(each.old),
            "-" if each.kind in ("removed", "layer removed") else _short(each.new),
        )
        for each in found
    ][:MOST_LISTED]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
