"""What `diff` does and prints. Loads Keras and its backend only for what others wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mlflow_ckpt._cli import tables
from mlflow_ckpt._cli.quiet import start_backend
from mlflow_ckpt._format.diff import ArchitectureDifference, Difference, Distance, TensorDifference
from mlflow_ckpt._format.fingerprint import OPTIMIZER_ROLE, WEIGHTS_ROLE
from mlflow_ckpt._loading import compare as comparison
from mlflow_ckpt._loading.sources import ForeignSource, Opening, find

# The exit code of diff(1).
DIFFERENT = 1
_OF_ROLE = {WEIGHTS_ROLE: "of weights", OPTIMIZER_ROLE: "of the optimizer"}
_TENSOR_COLUMNS = (
    "tensor", "variable", "role", "", "shape", "dtype", "max abs", "relative", "cosine",
)  # fmt: skip
_NUMBERS = range(6, 9)
# A value longer than this is cut; --json has all of it.
_LONGEST = 60


def compare(a: str, b: str, opening: Opening, tracking_uri: str | None) -> Difference:
    """Compare two checkpoints as `mlflow_ckpt.diff` does, without the backend's messages."""
    source_a, source_b = find(a, tracking_uri=tracking_uri), find(b, tracking_uri=tracking_uri)
    if isinstance(source_a, ForeignSource) or isinstance(source_b, ForeignSource):
        start_backend()
    return comparison.compare(source_a, source_b, opening)


def to_text(found: Difference, *, every: bool) -> str:
    """Return a sentence, the two checkpoints, and tables of what differs.

    Args:
        found: What differs.
        every: Whether to list the identical tensors too.
    """
    parts = [f"{_summary(found)}\n", *_sides(found)]
    shown = [tensor for tensor in found.tensors if every or not tensor.identical]
    if shown:
        rows = [_row(tensor) for tensor in shown]
        parts.append(f"\n{tables.to_text(_TENSOR_COLUMNS, rows, right=_NUMBERS)}")
    if found.architecture:
        places = [_place(each) for each in found.architecture]
        parts.append(f"\n{tables.to_text(('layer', '', 'key', 'A', 'B'), places)}")
    return "".join(parts)


def _summary(found: Difference) -> str:
    counts = ", ".join(_counts(found))
    if found.identical:
        said = f"identical: {counts}, and the architecture"
    else:
        said = f"different: {counts}; the architecture {_architecture(found)}"
    uncompared = [f"the {role} was not compared: {why}" for role, why in found.uncompared.items()]
    return "; ".join([said, *uncompared])


def _architecture(found: Difference) -> str:
    if found.same_architecture:
        return "is identical"
    # Keras numbers the layers that it names, within a process.
    names_alone = all(each.key == "config.name" for each in found.architecture)
    return "differs in names alone" if names_alone else "differs"


def _counts(found: Difference) -> Iterator[str]:
    """Say how many tensors of each role were compared, and differ."""
    for role, of_role in _OF_ROLE.items():
        tensors = found.of_role(role)
        if role == OPTIMIZER_ROLE and not tensors:
            continue  # neither has an optimizer, or it is told that one has not
        differing = sum(not tensor.identical for tensor in tensors)
        noun = "tensor" if len(tensors) == 1 else "tensors"
        of = "" if found.identical else f"{differing} of "
        yield f"{of}{len(tensors)} {noun} {of_role}"


def _sides(found: Difference) -> Iterator[str]:
    for name, side in (("A", found.a), ("B", found.b)):
        epoch = "epoch unknown" if side.epoch is None else f"epoch {side.epoch}"
        mark = "" if side.verified else "  (unverified)"
        yield f"{name}  {side.uri}  {epoch}, step {side.step}{mark}\n"


def _row(tensor: TensorDifference) -> tuple[str, ...]:
    distance = tensor.distance or Distance()
    return (
        tensor.name,
        tensor.label if tensor.label != tensor.name else "",
        tensor.role,
        tensor.kind,
        _from_to(*(None if shape is None else _shape(shape) for shape in tensor.shapes)),
        _from_to(*tensor.dtypes),
        _number(distance.max_abs, ".4g"),
        _number(distance.relative, ".4g"),
        _number(distance.cosine, ".6f"),
    )


def _place(each: ArchitectureDifference) -> tuple[str, ...]:
    layer = each.layer or "(the model)"
    old = "-" if each.kind in ("added", "layer added") else _value(each.old)
    new = "-" if each.kind in ("removed", "layer removed") else _value(each.new)
    return layer, each.kind, each.key, old, new


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "scalar"


def _from_to(a: str | None, b: str | None) -> str:
    if a is None or b is None:
        return a or b or "-"
    return a if a == b else f"{a} → {b}"


def _number(value: float | None, spelled: str) -> str:
    return "-" if value is None else format(value, spelled)


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
