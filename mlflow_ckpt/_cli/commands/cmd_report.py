"""`mlflow-ckpt report`. Never loads Keras or its backend."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mlflow_ckpt._cli import options
from mlflow_ckpt._cli.console import echo
from mlflow_ckpt._cli.output import new_file, refuse_special
from mlflow_ckpt.errors import OutputError


@click.command("report")
@click.argument("run")
@click.argument("other", required=False, metavar="[RUN2]")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default="report.html",
    show_default=True,
    help="The file to write.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@options.tracking_uri
def command(
    run: str, other: str | None, output: Path, overwrite: bool, tracking_uri: str | None
) -> None:
    """Write a page of RUN, or of two runs side by side: curves, weights, architecture."""
    from mlflow_ckpt import _report
    from mlflow_ckpt._cli.progress import progress_bar
    from mlflow_ckpt._tracking.references import resolve
    from mlflow_ckpt._tracking.store import RunStore

    _refuse_existing(output, overwrite=overwrite)
    runs = [run] if other is None else [run, other]
    with progress_bar() as progress:
        run_ids = [resolve(name, tracking_uri=tracking_uri).run_id for name in runs]
        stores = [RunStore(run_id, tracking_uri) for run_id in run_ids]
        page = _report.build(stores, always=True, progress=progress).encode()
        with new_file(output, overwrite=overwrite) as file:
            file.write(page)
    echo(f"{output}  {len(page) / 1e3:.0f} kB")


def _refuse_existing(output: Path, *, overwrite: bool) -> None:
    refuse_special(output)
    if os.path.lexists(output) and not overwrite:
        raise OutputError(
            f"The output {output} exists. Name another with --output, or pass --overwrite."
        )
