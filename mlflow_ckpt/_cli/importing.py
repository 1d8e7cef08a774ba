"""What `import` prints, file by file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlflow_ckpt._cli.custom_objects import load_modules
from mlflow_ckpt._cli.quiet import start_backend

if TYPE_CHECKING:
    from mlflow_ckpt._loading.import_files import ImportedFile


def run(
    directory: Path,
    run_id: str,
    *,
    pattern: str | None,
    architecture: Path | None,
    monitor: str | None,
    mode: str | None,
    dry_run: bool,
    modules: Sequence[str],
    tracking_uri: str | None,
) -> bool:
    """Import a folder and print what becomes of each file.

    Returns:
        Whether a file failed.
    """
    start_backend()
    from mlflow_ckpt._loading.import_files import FAILED, import_checkpoints

    done = import_checkpoints(
        directory,
        run_id=run_id,
        pattern=pattern,
        architecture=architecture,
        monitor=monitor,
        mode=mode,
        dry_run=dry_run,
        custom_objects=load_modules(modules),
        tracking_uri=tracking_uri,
        tell=_tell,
    )
    return any(each.outcome == FAILED for each in done)


def _tell(each: ImportedFile) -> None:
    metrics = "".join(f", {name} {value:g}" for name, value in each.metrics.items())
    remark = "" if each.remark is None else f": {each.remark}"
    line = f"{each.file} -> {each.checkpoint} (epoch {each.epoch}{metrics}): {each.outcome}{remark}"
    click.echo(line)
