"""`mlflow-ckpt sign`. Never loads Keras or its backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_ckpt._cli import options
from mlflow_ckpt._format.reference import Query
from mlflow_ckpt._format.signing.keys import KEY_VARIABLE, SigningKey

if TYPE_CHECKING:
    from mlflow_ckpt._tracking.checkpoint import Checkpoint


@click.command("sign", short_help="Sign checkpoints of RUN.")
@options.query
@click.option("--all", "every", is_flag=True, help="Sign every checkpoint of the run.")
@click.option(
    "--key",
    envvar=KEY_VARIABLE,
    show_envvar=True,
    required=True,
    metavar="FILE",
    help="PEM file with an EC private key, or sigstore.",
)
@click.option(
    "--certificate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="PEM file with the certificate of the key.",
)
@click.option(
    "--chain",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="PEM file with certificates between that one and the root, and the root. Repeatable.",
)
@options.show
def command(
    query: Query,
    every: bool,
    key: str,
    certificate: Path | None,
    chain: tuple[Path, ...],
    show: options.Show,
) -> None:
    """Verify a checkpoint of RUN, and sign its files.

    The signature, model.sig, is added to the checkpoint, in the place of an earlier one.
    """
    if every and query.checkpoint != "latest":
        raise click.UsageError("--all and --checkpoint contradict each other. Leave one out.")
    from mlflow_ckpt._cli.progress import progress_bar
    from mlflow_ckpt._tracking.sign import UNSIGNED, require_key, sign, sign_found

    chosen = require_key(SigningKey(key, certificate, chain))
    with progress_bar() as progress:
        if not every:
            signed = [
                sign(
                    *(query.run, query.checkpoint),
                    key=chosen,
                    monitor=query.monitor,
                    mode=query.mode,
                    tracking_uri=query.tracking_uri,
                    progress=progress,
                )
            ]
        else:
            from mlflow_ckpt._tracking.catalog import Catalog

            catalog = Catalog.of(query.run, query.tracking_uri, UNSIGNED)
            signed = catalog.checkpoints()
            for checkpoint in signed:
                sign_found(catalog, checkpoint, chosen, progress)
    show(_Signed(signed))


@dataclass(frozen=True)
class _Signed:
    checkpoints: list[Checkpoint]

    def to_dict(self) -> list[dict[str, Any]]:
        return [{"run_id": one.run_id, "checkpoint": one.name} for one in self.checkpoints]

    def to_lines(self) -> list[str]:
        lines = [f"Signed {one.name} of run {one.run_id}" for one in self.checkpoints]
        return lines or ["The run has no checkpoints."]
