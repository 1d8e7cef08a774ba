"""What stops a benchmark."""

import click


class BenchmarkError(click.ClickException):
    """A measurement cannot be made, told in one sentence."""
