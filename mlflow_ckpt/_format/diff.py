"""Differences between two checkpoints: tensors by digest and value, architecture by layer."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mlflow_ckpt._format.fingerprint import PIECE, WEIGHTS_ROLE, Fingerprint, TensorFingerprint
from mlflow_ckpt._format.weights_file import Reader

Array = np.ndarray[Any, Any]

IDENTICAL, FROZEN, CHANGED = "identical", "frozen", "changed"
APPEARED, VANISHED = "appeared", "vanished"
RESHAPED, RETYPED = "shape changed", "dtype changed"
BECAME_NAN, BECAME_INF = "became NaN", "became Inf"
_SAME = (IDENTICAL, FROZEN)


@dataclass(frozen=True)
class Distance:
    """Distance between two tensors of the same shape, computed in float64.

    Attributes:
        max_abs: Largest absolute difference of elements that are finite in both; None if there are
            none, or if it overflows float64.
        relative: Norm of the difference over the norm of the first; None if the latter is zero.
        cosine: Cosine similarity; None if either norm is zero.
        nan: Number of elements that are NaN only in the second.
        inf: Number of elements that are infinite only in the second.
    """

    max_abs: float | None = None
    relative: float | None = None
    cosine: float | None = None
    nan: int = 0
    inf: int = 0


@dataclass(frozen=True)
class TensorDifference:
    """One tensor in two checkpoints, `a` and `b`.

    Attributes:
        name: Path of the tensor in Keras's weights file.
        label: Readable name, such as `conv2d/kernel`.
        role: `"weights"` or `"optimizer"`.
        kind: `"identical"` by digest; `"frozen"` for an identical weight where others differ;
            `"changed"`, `"appeared"`, `"vanished"`, `"shape changed"`, `"dtype changed"`,
            `"became NaN"` or `"became Inf"`.
        shapes: Its shape in `a` and in `b`; None where it is absent.
        dtypes: Its dtype in `a` and in `b`; None where it is absent.
        distance: Distance of the values; None if they are equal or could not be compared.
    """

    name: str
    label: str
    role: str
    kind: str
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    dtypes: tuple[str | None, str | None]
    distance: Distance | None = None

    @property
    def identical(self) -> bool:
        """Whether the tensor is the same in both."""
        return self.kind in _SAME

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as plain values."""
        distance = self.distance or Distance()
        return {
            "name": self.name,
            "label": self.label,
            "role": self.role,
            "kind": self.kind,
            "shapes": [None if shape is None else list(shape) for shape in self.shapes],
            "dtypes": list(self.dtypes),
            "max_abs": distance.max_abs,
            "relative": distance.relative,
            "cosine": distance.cosine,
        }


@dataclass(frozen=True)
class ArchitectureDifference:
    """One difference between two architectures.

    Attributes:
        layer: The layer, prefixed by the models that contain it (`inner/dense`); "" for the model.
        kind: `"layer added"`, `"layer removed"`; for a value `"added"`, `"removed"`, `"changed"`.
        key: Path of the value in the layer's entry of `architecture.json`; empty for a layer.
            `config.layers` means that the order of the layers changed.
        old: The value in `a` as parsed JSON; for a layer, its class.
        new: The value in `b`.
    """

    layer: str
    kind: str
    key: str
    old: Any
    new: Any

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Side:
    """One of the two checkpoints.

    Attributes:
        uri: Its reference, such as `ckpt:/<run_id>/epoch:3`.
        epoch: Number of completed epochs; None if unknown.
        step: `optimizer.iterations`.
        verified: Whether its files were verified against a manifest.
    """

    uri: str
    epoch: int | None
    step: int
    verified: bool = True


@dataclass(frozen=True)
class Difference:
    """What differs between two checkpoints.

    Attributes:
        a: The first checkpoint. Identical checkpoints may differ in epoch and step.
        b: The second.
        tensors: All compared tensors.
        same_architecture: Whether the architectures have the same digest.
        architecture: The differences of the architectures.
        uncompared: Why tensors could not be compared, by role.
    """

    a: Side
    b: Side
    tensors: tuple[TensorDifference, ...]
    same_architecture: bool
    architecture: tuple[ArchitectureDifference, ...] = ()
    uncompared: Mapping[str, str] = field(default_factory=dict)

    @property
    def identical(self) -> bool:
        """Whether the architecture and all compared tensors have equal digests."""
        return self.same_architecture and all(tensor.identical for tensor in self.tensors)

    def of_role(self, role: str) -> tuple[TensorDifference, ...]:
        """Return the tensors of one role: `"weights"` or `"optimizer"`."""
        return tuple(tensor for tensor in self.tensors if tensor.role == role)

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as plain values, including every tensor."""
        return {
            "identical": self.identical,
            "a": dict(vars(self.a)),
            "b": dict(vars(self.b)),
            "uncompared": dict(self.uncompared),
            "tensors": [tensor.to_dict() for tensor in self.tensors],
            "same_architecture": self.same_architecture,
            "architecture": [change.to_dict() for change in self.architecture],
        }


def diff_tensors(
    a: Fingerprint, b: Fingerprint, read_a: Reader, read_b: Reader, roles: Collection[str]
) -> tuple[TensorDifference, ...]:
    """Compare the tensors of two checkpoints by digest, and by value where they differ."""
    tensors_a = {tensor.name: tensor for tensor in a.tensors if tensor.role in roles}
    tensors_b = {tensor.name: tensor for tensor in b.tensors if tensor.role in roles}
    differences = [
        _diff_tensor(tensors_a.get(name), tensors_b.get(name), read_a, read_b)
        for name in {**tensors_a, **tensors_b}
    ]
    return tuple(_mark_frozen(differences))


def _mark_frozen(differences: list[TensorDifference]) -> list[TensorDifference]:
    """Mark the identical weights as frozen if any weight differs."""
    weights = [tensor for tensor in differences if tensor.role == WEIGHTS_ROLE]
    if all(tensor.identical for tensor in weights):
        return differences
    return [
        replace(tensor, kind=FROZEN) if tensor.identical and tensor.role == WEIGHTS_ROLE else tensor
        for tensor in differences
    ]


def _diff_tensor(
    a: TensorFingerprint | None, b: TensorFingerprint | None, read_a: Reader, read_b: Reader
) -> TensorDifference:
    tensor = a or b
    assert tensor is not None, "a tensor is in one of the two"  # noqa: S101
    distance = None
    if a is None or b is None:
        kind = APPEARED if a is None else VANISHED
    elif a.identity == b.identity:
        kind = IDENTICAL
    elif a.shape != b.shape:
        kind = RESHAPED
    else:
        values_a, values_b = read_a(a), read_b(b)
        if values_a is not None and values_b is not None:
            distance = measure(values_a, values_b)
        kind = _kind(a, b, distance)
    return TensorDifference(
        name=tensor.name,
        label=tensor.label,
        role=tensor.role,
        kind=kind,
        shapes=(a.shape if a else None, b.shape if b else None),
        dtypes=(a.dtype if a else None, b.dtype if b else None),
        distance=distance,
    )


def _kind(a: TensorFingerprint, b: TensorFingerprint, distance: Distance | None) -> str:
    if distance is None:
        # Without the values, compare the counts.
        nan = b.statistics.nan_count > a.statistics.nan_count
        inf = b.statistics.inf_count > a.statistics.inf_count
    else:
        nan, inf = distance.nan > 0, distance.inf > 0
    if nan or inf:
        return BECAME_NAN if nan else BECAME_INF
    return CHANGED if a.dtype == b.dtype else RETYPED


def measure(a: Array, b: Array) -> Distance | None:
    """Return the distance of two tensors of the same shape; None if they are not real numbers."""
    if not all(np.can_cast(array.dtype, np.float64, "same_kind") for array in (a, b)):
        return None
    flat_a, flat_b = (np.ascontiguousarray(array).reshape(-1) for array in (a, b))
    whole = all(array.dtype.kind in "iu" for array in (a, b))
    largest: float | None = None
    nan = inf = 0
    gaps = squares_a = squares_b = product = 0.0
    # What overflows float64 becomes None.
    with np.errstate(all="ignore"):
        for start in range(0, flat_a.size, PIECE):
            piece_a, piece_b = flat_a[start : start + PIECE], flat_b[start : start + PIECE]
            x, y = piece_a.astype(np.float64), piece_b.astype(np.float64)
            # float64 cannot tell neighbouring integers beyond 2**53 apart.
            gap = _whole_gap(piece_a, piece_b) if whole else np.abs(y - x)
            finite = np.isfinite(x) & np.isfinite(y)
            if not finite.all():
                nan += int((np.isnan(y) & ~np.isnan(x)).sum())
                inf += int((np.isinf(y) & ~np.isinf(x)).sum())
                x, y, gap = x[finite], y[finite], gap[finite]
            if gap.size:
                largest = max(largest or 0.0, float(gap.max()))
            gaps += _dot(gap, gap)
            squares_a, squares_b = squares_a + _dot(x, x), squares_b + _dot(y, y)
            product += _dot(x, y)
    norm_a, norm_b = math.sqrt(squares_a), math.sqrt(squares_b)
    cosine = _ratio(product, norm_a * norm_b)
    return Distance(
        max_abs=None if largest is None or math.isinf(largest) else largest,
        relative=_ratio(math.sqrt(gaps), norm_a),
        cosine=None if cosine is None else max(-1.0, min(1.0, cosine)),
        nan=nan,
        inf=inf,
    )


def _whole_gap(a: Array, b: Array) -> Array:
    # Modulo 2**64, the larger minus the smaller is right for any signs.
    wide_a, wide_b = a.astype(np.uint64), b.astype(np.uint64)
    return np.where(a > b, wide_a - wide_b, wide_b - wide_a).astype(np.float64)


def _dot(a: Array, b: Array) -> float:
    # np.dot would start a thread on every core, where training may run.
    return float(np.einsum("i,i->", a, b))


def _ratio(dividend: float, divisor: float) -> float | None:
    if not divisor or not math.isfinite(divisor):
        return None
    return dividend / divisor if math.isfinite(dividend) else None
