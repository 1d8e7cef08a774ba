"""What the commands print for people: every line of it, as it may be shown."""

from __future__ import annotations

import click

from mlflow_ckpt._shown.escaping import shown


def echo(line: str = "", *, err: bool = False) -> None:
    """Print one line, on which nothing of somebody else's controls the terminal."""
    click.echo(shown(line), err=err)
