"""`mlflow-ckpt import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_ckpt._cli import options
from mlflow_ckpt._cli.console import echo
from mlflow_ckpt._cli.exit_codes import EXIT_CODES
from mlflow_ckpt._cli.model_options import load_modules
from mlflow_ckpt._cli.quiet import start_backend
from mlflow_ckpt.errors import ModelError

if TYPE_CHECKING:
    from mlflow_ckpt._loading.import_files import ImportedFile


@click.command("import", short_help="Import files that ModelCheckpoint saved.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--run-id", required=True, help="The run to import into.")
@click.option("--pattern", help="The file name pattern that ModelCheckpoint used.")
@click.option(
    "--architecture",
    type=click.Path(path_type=Path),
    help="For .weights.h5: a .json, .yaml or .keras file with the architecture.",
)
@click.option(
    "--monitor", metavar="METRIC", help="The metric that defines best. Default: val_loss."
)
@click.option("--mode", type=click.Choice(["min", "max"]), help="Whether low or high is better.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and save nothing.")
@options.custom_objects
@options.tracking_uri
def command(modules: tuple[str, ...], **arguments: Any) -> None:
    """Import the .keras, .h5 and .weights.h5 files in DIR as checkpoints of a run."""
    start_backend()
    from mlflow_ckpt._loading.import_files import FAILED, import_checkpoints

    # The other parameters have the names of the function's arguments.
    files = import_checkpoints(**arguments, custom_objects=load_modules(modules), tell=_tell)
    if any(file.outcome == FAILED for file in files):
        raise click.exceptions.Exit(EXIT_CODES[ModelError])


def _tell(file: ImportedFile) -> None:
    """Print the outcome of one file."""
    metrics = "".join(f", {name} {value:g}" for name, value in file.metrics.items())
    remark = "" if file.remark is None else f": {file.remark}"
    echo(f"{file.file} -> {file.checkpoint} (epoch {file.epoch}{metrics}): {file.outcome}{remark}")
