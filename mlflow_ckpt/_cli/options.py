"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def tracking_uri(function: F) -> F:
    """Add `--tracking-uri`."""
    return click.option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        show_envvar=True,
        metavar="URI",
        help="The tracking server or store. Default: MLflow's own.",
    )(function)


def as_json(function: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")(
        function
    )


def selection(function: F) -> F:
    """Add what names one checkpoint of a run: `--checkpoint`, `--monitor`, `--mode`."""
    added = [
        click.option(
            "--checkpoint",
            default="latest",
            show_default=True,
            metavar="SELECTOR",
            help="Which one: latest, best, an epoch (3 or epoch:3), or a step (step:1500).",
        ),
        click.option("--monitor", metavar="METRIC", help="For best: the metric to judge by."),
        click.option("--mode", type=click.Choice(["min", "max"]), help="For best: which way."),
    ]
    for option in reversed(added):
        function = option(function)
    return function


def architecture(function: F) -> F:
    """Add `--architecture`."""
    return click.option(
        "--architecture",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="For weights alone that others saved: a .json, .yaml or .keras file with their "
        "architecture.",
    )(function)


def custom_objects(function: F) -> F:
    """Add `--custom-objects`."""
    return click.option(
        "--custom-objects",
        "modules",
        multiple=True,
        metavar="MODULE",
        help="Import this module first; its classes and functions are known to the loader.",
    )(function)
