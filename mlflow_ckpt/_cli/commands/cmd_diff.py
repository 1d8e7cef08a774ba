"""`mlflow-ckpt diff`. Loads Keras and its backend only for models saved by other tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mlflow_ckpt._cli import options, tables
from mlflow_ckpt._cli.exit_codes import DIFFERENT
from mlflow_ckpt._cli.model_options import ModelOptions
from mlflow_ckpt._cli.quiet import start_backend
from mlflow_ckpt._format.reference import Query
from mlflow_ckpt._format.text import counted, shape_text
from mlflow_ckpt._tracking.removed import again_if_removed

if TYPE_CHECKING:
    from mlflow_ckpt._format.diff import ArchitectureDifference, Difference, TensorDifference

_TENSOR_COLUMNS = (
    "tensor", "variable", "role", "", "shape", "dtype", "max abs", "relative", "cosine",
)  # fmt: skip
_NUMBERS = range(6, 9)
# Longer values are truncated; --json prints them in full.
_LONGEST = 60


@click.command("diff", short_help="Compare two checkpoints, tensor by tensor.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--all", "every", is_flag=True, help="List the identical tensors too.")
@options.model_options
@options.tracking_uri
@options.signed_by
@options.show
@again_if_removed
def command(
    a: str,
    b: str,
    every: bool,
    model_options: ModelOptions,
    tracking_uri: str | None,
    signed_by: tuple[str, ...],
    show: options.Show,
) -> None:
    """Compare the checkpoints A and B: all tensors and the architecture.

    A and B are run ids (the latest checkpoint) or URIs such as ckpt:/RUN_ID/4. The exit code is 0
    if they are identical, and 1 if they differ.
    """
    from mlflow_ckpt._cli.progress import progress_bar
    from mlflow_ckpt._loading.compare import compare
    from mlflow_ckpt._tracking.find import find

    convert = model_options.converter()
    queries = [Query(run, tracking_uri=tracking_uri, signed_by=signed_by) for run in (a, b)]
    of_a, of_b = (find(query, convert) for query in queries)
    if not (of_a.verified and of_b.verified):
        start_backend()
    with progress_bar() as progress:
        difference = compare(of_a, of_b, progress)
    show(_Printed(difference, every))
    if not difference.identical:
        raise click.exceptions.Exit(DIFFERENT)


@dataclass(frozen=True)
class _Printed:
    difference: Difference
    every: bool

    def to_dict(self) -> dict[str, Any]:
        return self.difference.to_dict()

    def to_lines(self) -> Iterator[str]:
        """Yield a sentence, the two checkpoints, and tables of what differs."""
        difference = self.difference
        yield from [_summary(difference), *_sides(difference)]
        shown = [tensor for tensor in difference.tensors if self.every or not tensor.identical]
        if shown:
            rows = [_row(tensor) for tensor in shown]
            yield from ["", *tables.to_lines(_TENSOR_COLUMNS, rows, right=_NUMBERS)]
        if difference.architecture:
            rows = [_architecture_row(change) for change in difference.architecture]
            yield from ["", *tables.to_lines(("layer", "", "key", "A", "B"), rows)]


def _summary(difference: Difference) -> str:
    counts = ", ".join(_counts(difference))
    if difference.identical:
        verdict = f"identical: {counts}, and the architecture"
    else:
        verdict = f"different: {counts}; the architecture {_architecture(difference)}"
    reasons = difference.uncompared.items()
    return "; ".join([verdict, *(f"the {role} was not compared: {why}" for role, why in reasons)])


def _architecture(difference: Difference) -> str:
    if difference.same_architecture:
        return "is identical"
    # Keras numbers unnamed layers per process, so generated names may differ.
    names_alone = all(change.key == "config.name" for change in difference.architecture)
    return "differs only in names" if names_alone else "differs"


def _counts(difference: Difference) -> Iterator[str]:
    """Yield how many tensors of each role were compared, and how many differ."""
    from mlflow_ckpt._format.fingerprint import OPTIMIZER_ROLE, WEIGHTS_ROLE

    for role, of_role in ((WEIGHTS_ROLE, "of weights"), (OPTIMIZER_ROLE, "of the optimizer")):
        tensors = difference.of_role(role)
        if role == OPTIMIZER_ROLE and not tensors:
            continue  # neither has an optimizer, or `uncompared` says that one has none
        differing = sum(not tensor.identical for tensor in tensors)
        of = "" if difference.identical else f"{differing} of "
        yield f"{of}{counted(len(tensors), 'tensor')} {of_role}"


def _sides(difference: Difference) -> Iterator[str]:
    for name, side in (("A", difference.a), ("B", difference.b)):
        epoch = "epoch unknown" if side.epoch is None else f"epoch {side.epoch}"
        mark = "" if side.verified else "  (unverified)"
        yield f"{name}  {side.uri}  {epoch}, step {side.step}{mark}"


def _row(tensor: TensorDifference) -> tuple[str, ...]:
    from mlflow_ckpt._format.diff import Distance

    distance = tensor.distance or Distance()
    return (
        tensor.name,
        tensor.label if tensor.label != tensor.name else "",
        tensor.role,
        tensor.kind,
        _from_to(*(None if shape is None else shape_text(shape) for shape in tensor.shapes)),
        _from_to(*tensor.dtypes),
        _number(distance.max_abs, ".4g"),
        _number(distance.relative, ".4g"),
        _number(distance.cosine, ".6f"),
    )


def _architecture_row(change: ArchitectureDifference) -> tuple[str, ...]:
    old = "-" if change.kind in ("added", "layer added") else _value(change.old)
    new = "-" if change.kind in ("removed", "layer removed") else _value(change.new)
    return change.layer or "(the model)", change.kind, change.key, old, new


def _from_to(a: str | None, b: str | None) -> str:
    if a is None or b is None:
        return a or b or "-"
    return a if a == b else f"{a} → {b}"


def _number(value: float | None, format_spec: str) -> str:
    return "-" if value is None else format(value, format_spec)


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
