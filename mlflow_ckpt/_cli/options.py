"""Parameters that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any, Protocol

import click

from mlflow_ckpt._cli.console import echo
from mlflow_ckpt._cli.model_options import ModelOptions
from mlflow_ckpt._format.reference import Query
from mlflow_ckpt._shown.escaping import redacted

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]


class Printable(Protocol):
    """What a command prints."""

    def to_dict(self) -> Any:
        """Return plain values, for JSON."""

    def to_lines(self) -> Iterable[str]:
        """Return text for people, line by line."""


Show = Callable[[Printable], None]


def packed(name: str, kind: type) -> Decorator:
    """Pass the parameters that are fields of a dataclass as one argument, an instance of it."""

    def pack(function: Function) -> Function:
        @wraps(function)
        def call(*args: Any, **parameters: Any) -> Any:
            names = [field.name for field in fields(kind) if field.name in parameters]
            values = {name: parameters.pop(name) for name in names}
            return function(*args, **parameters, **{name: kind(**values)})

        return call

    return pack


def _all(*decorators: Decorator) -> Decorator:
    """Apply decorators as if they were written one below the other."""

    def apply(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def to_json(value: Any, indent: int | None = None) -> str:
    """Return plain values as JSON, without credentials.

    NaN and infinities, which JSON does not have, become null. Other characters than those of ASCII
    are escaped.
    """
    finite = json.loads(json.dumps(_without_credentials(value)), parse_constant=lambda _: None)
    return json.dumps(finite, indent=indent, allow_nan=False)


def _without_credentials(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {_without_credentials(key): _without_credentials(v) for key, v in value.items()}
    return [*map(_without_credentials, value)] if isinstance(value, (list, tuple)) else value


def _printer(_: click.Context, __: click.Parameter, as_json: bool) -> Show:
    def show(result: Printable) -> None:
        if as_json:
            click.echo(to_json(result.to_dict(), indent=2))
        else:
            for line in result.to_lines():
                echo(line)

    return show


# Passes `show`, a `Show`.
show = click.option("--json", "show", is_flag=True, callback=_printer, help="Print JSON.")

# Passes `tracking_uri`.
tracking_uri = click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    show_envvar=True,
    metavar="URI",
    help="The tracking server or store. Default: MLflow's own.",
)

# Passes `query`, a `Query`: RUN, the options that select its checkpoint, and `--tracking-uri`.
query = _all(
    click.argument("run"),
    click.option(
        "--checkpoint",
        default="latest",
        show_default=True,
        metavar="SELECTOR",
        help="The checkpoint: latest, best, an epoch (3 or epoch:3), or a step (step:1500).",
    ),
    click.option("--monitor", metavar="METRIC", help="For best: the metric to rank by."),
    click.option("--mode", type=click.Choice(["min", "max"]), help="For best: lower or higher."),
    tracking_uri,
    packed("query", Query),
)

# Passes `signed_by`.
signed_by = click.option(
    "--signed-by",
    multiple=True,
    metavar="SIGNER",
    help="Refuse a checkpoint that is not signed by SIGNER: a file with its public key or root "
    "certificate, or sigstore:IDENTITY,ISSUER. May be repeated: one of them suffices.",
)

# Passes `query`, for a command that opens the checkpoint.
opening_query = _all(query, signed_by)

# Passes `modules`.
custom_objects = click.option(
    "--custom-objects",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Module with custom classes and functions. May be repeated.",
)

# Passes `model_options`, a `ModelOptions`.
model_options = _all(
    click.option(
        "--architecture",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="For weights files of other tools: a .json, .yaml or .keras architecture.",
    ),
    custom_objects,
    packed("model_options", ModelOptions),
)
