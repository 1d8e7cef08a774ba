"""`mlflow-ckpt report`: writes the page of a run, or of two, to a file."""

from __future__ import annotations

from pathlib import Path

from mlflow_ckpt import _report
from mlflow_ckpt._cli.output import staging
from mlflow_ckpt._tracking.download import Progress
from mlflow_ckpt._tracking.references import resolve
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import OutputError


def write(
    runs: list[str],
    output: Path,
    *,
    overwrite: bool,
    tracking_uri: str | None,
    progress: Progress | None,
) -> int:
    """Write the page as a whole, or nothing.

    Returns:
        Its size in bytes.

    Raises:
        OutputError: If the file exists and must not be replaced, or cannot be written.
    """
    if output.is_dir():
        raise OutputError(f"The output {output} is a directory. Expected the name of a file.")
    if output.exists() and not overwrite:
        raise OutputError(
            f"The output {output} exists. Name another with --output, or pass --overwrite."
        )
    found = [resolve(run, tracking_uri=tracking_uri) for run in runs]
    stores = [RunStore(reference.run_id, tracking_uri) for reference in found]
    page = _report.build(stores, always=True, progress=progress).encode()
    try:
        with staging(output) as directory:
            (directory / output.name).write_bytes(page)
            (directory / output.name).replace(output)
    except OutputError as error:
        reason = error.__cause__ or error
        raise OutputError(f"The output {output} cannot be written: {reason}.") from error
    return len(page)
