"""Errors of the benchmarks."""

import click


class BenchmarkError(click.ClickException):
    """A measurement cannot be made."""
