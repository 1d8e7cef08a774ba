"""Draws charts as inline SVG, coloured by the page's CSS variables."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

# Placeholder colours, replaced in the SVG's text by the page's CSS variables.
SERIES = ("#010fa1", "#010fa2", "#010fa3", "#010fa4")
_VARIABLES = {
    "#010fb1": "var(--ink)",
    "#010fb2": "var(--line)",
    **{color: f"var(--s{number})" for number, color in enumerate(SERIES, 1)},
}
_INK, _LINE = "#010fb1", "#010fb2"
_GEOMETRY = re.compile(r' (?:d|x|y|transform|width|height)="[^"]*"')
_DECIMALS = re.compile(r"(\.\d\d)\d+")
_SPACE = re.compile(r"\s*\n\s*")
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mlflow_ckpt",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.5,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        x: Positions, ascending.
        y: Values; NaN leaves a gap.
        series: Index of the colour.
        band: Lower and upper edge of a shaded band; None for no band.
        dashed: Whether the line is dashed.
    """

    x: Sequence[float]
    y: Sequence[float]
    series: int
    band: tuple[Sequence[float], Sequence[float]] | None = None
    dashed: bool = False


def lines(
    curves: Sequence[Curve],
    *,
    marks: Sequence[float] = (),
    xlabel: str = "epoch",
    log: bool = False,
) -> str:
    """Draw a line chart.

    Args:
        curves: The lines.
        marks: Positions of checkpoints, drawn as ticks along the bottom.
        xlabel: Label of the x axis.
        log: Whether to use a logarithmic y axis if the values span more than a factor of ten.

    Returns:
        An `<svg>` element.
    """
    with mpl.rc_context(_SETTINGS):
        figure, axes = _axes()
        for curve in curves:
            color = SERIES[curve.series % len(SERIES)]
            if curve.band is not None:
                axes.fill_between(curve.x, *curve.band, color=color, alpha=0.18, linewidth=0)
            few = len(curve.x) <= 40
            axes.plot(
                *(curve.x, curve.y),
                color=color,
                linewidth=1.5,
                linestyle="--" if curve.dashed else "-",
                marker="o" if few else "",
                markersize=3,
            )
        if marks:
            top = axes.get_xaxis_transform()
            axes.plot(marks, [0.0] * len(marks), "|", color=_INK, markersize=9, transform=top)
        if log and _spans_decades(curves):
            axes.set_yscale("log", nonpositive="mask")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            # The default formatters write powers in math text, which is turned off.
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(xlabel)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return _svg(figure)


def _spans_decades(curves: Sequence[Curve]) -> bool:
    positive = [value for curve in curves for value in curve.y if value > 0]
    return bool(positive) and max(positive) > 10 * min(positive)


def bars(histograms: Sequence[tuple[Sequence[float], Sequence[float], int]]) -> str:
    """Draw overlaid histograms, given as tuples of counts, edges and series."""
    with mpl.rc_context(_SETTINGS):
        figure, axes = _axes()
        for counts, edges, series in histograms:
            axes.stairs(counts, edges, color=SERIES[series], fill=True, alpha=0.5)
        axes.set_xlabel("value")
        axes.set_ylabel("elements")
        return _svg(figure)


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 2.5), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Figure) -> str:
    target = io.StringIO()
    FigureCanvasSVG(figure).print_svg(target, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    # Rounding to hundredths of a point is invisible and halves the size.
    text = _GEOMETRY.sub(lambda match: _DECIMALS.sub(r"\1", match[0]), text)
    text = _SPACE.sub(" ", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    return text
