"""The page: charts and tables put into the template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mlflow_ckpt.format.fingerprint import TensorFingerprint
from mlflow_ckpt.report import charts
from mlflow_ckpt.report.charts import Curve
from mlflow_ckpt.report.gathering import Gathered, Moment, drawn, finite, shape, warnings

MOST_ROWS = 600
MOST_LISTED = 100
_LETTERS = "AB"


def render(runs: Sequence[Gathered]) -> str:
    """Return the page of one run, or of two side by side."""
    template = Environment(
        loader=PackageLoader("mlflow_ckpt", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html.jinja")
    return template.render(
        runs=[_run(letter, run) for letter, run in zip(_LETTERS, runs, strict=False)],
        two=len(runs) > 1,
        curves=_curves(runs),
        weights=_weights(runs),
        differences=_differences(runs),
    )


def _run(letter: str, run: Gathered) -> dict[str, Any]:
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
    if len(rows) > len(drawn(run)):
        notes.append(f"Charts of weights are of the {len(drawn(run))} largest tensors.")
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
    numbers = (told.mean, told.std, told.min, told.max, told.norm)
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
    found = []
    for name in groups:
        twin = f"val_{name}"
        drawn_here, legend = [], []
        for number, run in enumerate(runs):
            for which, each in enumerate(n for n in (name, twin) if n in run.metrics):
                x, y = run.metrics[each]
                series = number if len(runs) > 1 else which
                drawn_here.append(Curve(x, y, series, dashed=each == twin))
                prefix = f"{_LETTERS[number]}: " if len(runs) > 1 else ""
                legend.append((series + 1, f"{prefix}{each}", each == twin))
        marks = [float(c.manifest.epoch) for run in runs for c in run.checkpoints]
        drawing = Markup(charts.lines(drawn_here, marks=marks, xlabel="step (epochs completed)"))  # noqa: S704 - drawn by us, without the user's text
        found.append({"title": name, "legend": legend, "svg": drawing})
    return found


def _weights(runs: Sequence[Gathered]) -> list[dict[str, Any]]:
    """Draw norm, spread and histogram of the largest tensors, which runs share by their paths."""
    tensors = {tensor.name: tensor for run in reversed(runs) for tensor in drawn(run)}
    found = []
    for name, tensor in list(tensors.items())[:12]:
        norms, spreads, histograms = [], [], []
        for number, run in enumerate(runs):
            moments = [moment for moment in run.moments if name in moment.tensors]
            x = [_position(moment) for moment in moments]
            told = [moment.tensors[name].statistics for moment in moments]
            mean, std = finite(t.mean for t in told), finite(t.std for t in told)
            norms.append(Curve(x, finite(t.norm for t in told), number))
            band = (
                [m - s for m, s in zip(mean, std, strict=True)],
                [m + s for m, s in zip(mean, std, strict=True)],
            )
            spreads.append(Curve(x, mean, number, band=band))
            for edge in (finite(t.min for t in told), finite(t.max for t in told)):
                spreads.append(Curve(x, edge, number, dashed=True))
            if name in run.histograms:
                histograms.append((*run.histograms[name], number))
        pictures = [
            ("norm", charts.lines(norms)),
            ("mean ± std, min and max dashed", charts.lines(spreads)),
        ]
        if histograms:
            pictures.append(("histogram, latest checkpoint", charts.bars(histograms)))
        found.append({
            "title": tensor.label,
            "shape": shape(tensor),
            "pictures": [(title, Markup(svg)) for title, svg in pictures],  # noqa: S704 - as above
        })  # fmt: skip
    return found


def _position(moment: Moment) -> float:
    return float(moment.checkpoint.manifest.epoch)


def _differences(runs: Sequence[Gathered]) -> list[tuple[str, str, str]]:
    """Return the layers that two runs do not have alike."""
    if len(runs) < 2:
        return []
    a, b = ({layer["name"]: f"{layer['kind']} {layer['shapes']}".strip() for layer in run.layers}
            for run in runs)  # fmt: skip
    names = list(dict.fromkeys([*a, *b]))
    return [(n, a.get(n, "-"), b.get(n, "-")) for n in names if a.get(n) != b.get(n)][:MOST_LISTED]
