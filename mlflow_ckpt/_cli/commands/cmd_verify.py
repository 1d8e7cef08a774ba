"""`mlflow-ckpt verify`. Never loads Keras or its backend."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mlflow_ckpt._cli import options
from mlflow_ckpt._cli.exit_codes import EXIT_CODES
from mlflow_ckpt._format.reference import Query
from mlflow_ckpt._tracking.removed import CheckpointRemovedError, again_if_removed
from mlflow_ckpt.errors import IntegrityError

if TYPE_CHECKING:
    from mlflow_ckpt._format.verification import VerificationResult
    from mlflow_ckpt._tracking.download import Progress


@click.command("verify")
@options.opening_query
@click.option("--all", "every", is_flag=True, help="Verify every checkpoint of the run.")
@options.show
def command(query: Query, every: bool, show: options.Show) -> None:
    """Compare every file of a checkpoint of RUN with its manifest, and check its signature."""
    if every and query.checkpoint != "latest":
        raise click.UsageError("--all and --checkpoint contradict each other. Leave one out.")
    from mlflow_ckpt._cli.progress import progress_bar

    with progress_bar() as progress:
        results = _verify_all(query, progress) if every else [_verify(query, progress)]
    show(_Verified(results))
    if not all(result.ok for result in results):
        raise click.exceptions.Exit(EXIT_CODES[IntegrityError])


@dataclass(frozen=True)
class _Verified:
    results: list[VerificationResult]

    def to_dict(self) -> list[dict[str, Any]]:
        return [result.to_dict() for result in self.results]

    def to_lines(self) -> list[str]:
        return [str(result) for result in self.results]


@again_if_removed
def _verify(query: Query, progress: Progress) -> VerificationResult:
    from mlflow_ckpt._tracking.find import find

    return find(query).verify(progress)


def _verify_all(query: Query, progress: Progress) -> list[VerificationResult]:
    """Verify every checkpoint of a run but those that are removed meanwhile, damaged ones last."""
    from mlflow_ckpt._format.signing.trust import Trust
    from mlflow_ckpt._format.verification import VerificationResult
    from mlflow_ckpt._tracking.catalog import Catalog
    from mlflow_ckpt._tracking.checkpoint import no_checkpoints
    from mlflow_ckpt._tracking.foreign import hinting

    catalog = Catalog.of(query.run, query.tracking_uri, Trust.of(query.signed_by))
    complete, damaged = catalog.scan()
    if not complete and not damaged:
        with hinting(catalog.store):
            raise no_checkpoints(catalog.store.run_id)
    results = []
    for checkpoint in complete:
        with suppress(CheckpointRemovedError):
            results.append(catalog.verify(checkpoint, progress))
    results += [VerificationResult(name, error=str(error)) for name, error in damaged.items()]
    return results
