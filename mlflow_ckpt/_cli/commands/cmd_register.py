"""`mlflow-ckpt register`. Never loads Keras or its backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mlflow_ckpt._cli import options
from mlflow_ckpt._format.reference import Query

if TYPE_CHECKING:
    from mlflow_ckpt._tracking.registry.register import Registered


@click.command("register", short_help="Register a checkpoint of RUN as a model version.")
@options.opening_query
@click.option("--name", required=True, help="The registered model; created if missing.")
@click.option("--alias", help="Alias to set on the version, such as champion.")
@options.show
def command(query: Query, name: str, alias: str | None, show: options.Show) -> None:
    """Register a checkpoint of RUN as a model version, which points at its files."""
    from mlflow_ckpt._tracking.registry.register import register

    registered = register(
        query.run,
        query.checkpoint,
        name=name,
        alias=alias,
        monitor=query.monitor,
        mode=query.mode,
        tracking_uri=query.tracking_uri,
        signed_by=query.signed_by,
    )
    show(_Printed(registered))


@dataclass(frozen=True)
class _Printed:
    registered: Registered

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON that is printed."""
        registered, checkpoint = self.registered, self.registered.checkpoint
        return {
            "run_id": checkpoint.run_id,
            "checkpoint": checkpoint.name,
            "name": registered.name,
            "version": registered.version,
            "alias": registered.alias,
            "source": registered.source,
            "uri": registered.uri,
            "created": registered.is_new,
        }

    def to_lines(self) -> Iterator[str]:
        """Yield what was registered, and how to use it."""
        registered, checkpoint = self.registered, self.registered.checkpoint
        verb = "is now" if registered.is_new else "was already"
        alias = "" if registered.alias is None else f", alias {registered.alias}"
        yield (
            f"{checkpoint.name} of run {checkpoint.run_id} {verb} {registered.name} version "
            f"{registered.version}{alias}"
        )
        yield f'  model = mlflow_ckpt.load_model("{registered.uri}")'
        yield f"  mlflow models serve -m {registered.uri} --env-manager local"
