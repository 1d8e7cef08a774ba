"""Measures the overhead of checkpoints saved by mlflow_ckpt, Keras and MLflow.

python -m benchmarks.checkpoint_overhead
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks.settings import Settings

# Duplicates of names in other modules, as TensorFlow must not be imported for --help.
MODELS = ("cnn", "dense")
VARIANTS = (
    *("none", "keras", "h5", "weights", "mlflow-callback", "log-model"),
    *("full", "untried", "split", "both"),
)
PACKAGES = ("mlflow-ckpt", "keras", "tensorflow", "mlflow", "h5py", "numpy")
TABLE_WIDTH = 140


def split_names(allowed: Sequence[str]) -> Callable[..., tuple[str, ...]]:
    """Return a click callback that splits comma-separated names, and rejects unknown ones."""

    def split(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
        names = tuple(value.split(","))
        unknown = [name for name in names if name not in allowed]
        if unknown:
            raise click.BadParameter(
                f"Expected some of {','.join(allowed)}. Received: {','.join(unknown)}"
            )
        return names

    return split


@click.command(context_settings={"show_default": True})
@click.option(
    "--models", callback=split_names(MODELS), default=",".join(MODELS), help="What to train."
)
@click.option(
    "--variants",
    callback=split_names(VARIANTS),
    default=",".join(VARIANTS),
    help="Ways to save; none, which is no callback, is always measured.",
)
@click.option("--rounds", type=click.IntRange(1), default=5, help="Trainings of each variant.")
@click.option("--epochs", type=click.IntRange(1), default=4, help="Epochs, so saves, a training.")
@click.option("--cnn-steps", type=click.IntRange(1), default=40, help="Steps an epoch of the CNN.")
@click.option(
    "--dense-steps", type=click.IntRange(1), default=5, help="Steps an epoch of the dense model."
)
@click.option(
    "--cifar10-epoch/--no-cifar10-epoch",
    default=True,
    help="Train the CNN once for an epoch as long as CIFAR-10's.",
)
@click.option(
    "--store",
    type=click.Choice(["sqlite", "http"]),
    default="sqlite",
    help="SQLite with local artifacts, or an mlflow server on 127.0.0.1.",
)
@click.option("--seed", type=int, default=0, help="Seed of the order in rounds, and of the data.")
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Save below here, on a disk.  [default: the directory of temporary files]",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    help="Write all results here; - for standard output.",
)
def main(directory: Path | None, json_file: str | None, **options: Any) -> None:
    """Measure the overhead of checkpoints saved by mlflow_ckpt, Keras and MLflow."""
    settings = Settings(**options)
    # On SIGTERM, also stop the server and delete the files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    environment = describe_environment()

    from benchmarks import quiet

    click.echo("Starting TensorFlow and MLflow", err=True)
    quiet.start()

    from benchmarks import destinations, report, results, rounds

    with (
        destinations.workspace(directory) as workspace,
        destinations.open_store(settings.store, workspace) as store,
    ):
        models = [rounds.measure_model(name, settings, store) for name in settings.models]

    targets = results.targets(models)
    # Standard output contains either the tables or JSON, never both.
    console = Console(stderr=json_file == "-")
    console.width = max(console.width, TABLE_WIDTH)
    report.show(console, models, targets)
    if json_file is not None:
        content = report.to_json(models, targets, settings, environment)
        with click.open_file(json_file, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")


def describe_environment() -> dict[str, Any]:
    """Describe the environment that the results depend on."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_count": usable_processors(),
        "load_before": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "packages": {name: version(name) for name in PACKAGES},
    }


def usable_processors() -> int:
    """Return the number of processors available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    main()
