"""Command-line options shared by the commands, and option types that click lacks.

A type is a function that converts text to a value; click adds the option's name to its message.
"""

import math
from typing import Literal

import click

run_id_option = click.option(
    "--run-id",
    required=True,
    help="Run that holds the checkpoint, or a reference such as ckpt:/RUN/best.",
)
checkpoint_option = click.option(
    "--checkpoint",
    default="latest",
    help="Checkpoint of the run: latest, best, 3, epoch:3 or step:1500.",
)
batch_size_option = click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, help="Images in a batch."
)


def forms(text: str) -> tuple[str, ...]:
    """Parse `full`, `split` or both, separated by a comma.

    Raises:
        click.BadParameter: If `text` is anything else.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not set(names) <= {"full", "split"} or len(set(names)) < len(names):
        raise click.BadParameter(f"expected full, split or full,split. Received: {text!r}")
    return names


def save_freq(text: str) -> int | Literal["epoch"]:
    """Parse `epoch`, or a number of batches from 1.

    Raises:
        click.BadParameter: If `text` is anything else.
    """
    if text == "epoch":
        return "epoch"
    if not (text.isdecimal() and int(text) > 0):
        raise click.BadParameter(
            f"expected epoch or a whole number of batches from 1. Received: {text!r}"
        )
    return int(text)


def positive(text: str | float) -> float:
    """Parse a finite number above 0; click's FloatRange accepts `nan` and `inf`.

    Raises:
        click.BadParameter: If `text` is anything else.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise click.BadParameter(f"expected a number above 0. Received: {text!r}")
    return number
