"""Measures how long it takes to find a checkpoint among many over HTTP.

python -m benchmarks.reading
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from benchmarks import destinations
from devtools.runs import READERS, run_of
from devtools.stores import current


@click.command(context_settings={"show_default": True})
@click.option(
    "--checkpoints", type=click.IntRange(1), multiple=True, default=(10, 1000), help="In the run."
)
@click.option("--rounds", type=click.IntRange(1), default=5, help="Calls of each.")
def main(checkpoints: tuple[int, ...], rounds: int) -> None:
    """Measure `list`, `latest` and `best` on runs of an mlflow server on 127.0.0.1."""
    click.echo("Starting MLflow", err=True)
    with (
        destinations.workspace(None) as workspace,
        destinations.served(workspace) as store,
        current(store),
    ):
        runs = {count: run_of(store, count).id for count in checkpoints}
        # Each call is a new process, including all imports.
        command = [sys.executable, "-m", "mlflow_ckpt._cli", "list", "--tracking-uri", store.uri]
        readers: dict[str, Callable[[str], object]] = {
            "mlflow --version": lambda _: _run([sys.executable, "-m", "mlflow", "--version"]),
            "mlflow-ckpt list": lambda run_id: _run([*command, run_id]),
            **{f"mlflow_ckpt: {name}": reader for name, reader in READERS.items()},
        }
        seconds = {
            (name, count): _median_of(rounds, reader, run_id)
            for name, reader in readers.items()
            for count, run_id in runs.items()
        }
    table = Table(title=f"seconds, median of {rounds}")
    table.add_column("")
    for count in checkpoints:
        table.add_column(f"{count:,} checkpoints", justify="right")
    for name in readers:
        table.add_row(name, *(f"{seconds[name, count]:.2f}" for count in checkpoints))
    Console().print(table)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[1])  # noqa: S603


def _median_of(rounds: int, reader: Callable[[str], object], run_id: str) -> float:
    reader(run_id)  # the first call fills caches
    samples = []
    for _ in range(rounds):
        started = time.perf_counter()
        reader(run_id)
        samples.append(time.perf_counter() - started)
    return median(samples)


if __name__ == "__main__":
    main()
