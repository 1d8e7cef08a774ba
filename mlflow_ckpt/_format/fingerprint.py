"""Fingerprints: digests and statistics of every tensor of a model (docs/format.md).

A tensor's name is its path in Keras's own weights file, such as `layers/conv2d/vars/0`. Keras finds
a tensor by that path when it loads weights, so it is the same for a live model and its reloaded
twin, in every process; `h5py.File(...)[name]` gives the very tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from mlflow_ckpt._format.digest import Digest, array_bytes
from mlflow_ckpt._format.statistics import Statistics, StatisticsAccumulator
from mlflow_ckpt.errors import IntegrityError, NewerSchemaError

SCHEMA_VERSION = 1
WEIGHTS_ROLE = "weights"
OPTIMIZER_ROLE = "optimizer"
_OPTIMIZER_PREFIX = "optimizer/"
# Elements hashed and summed up together.
PIECE = 1 << 18


def role_of(name: str) -> str:
    """Return `"optimizer"` for a name below the compiled optimizer's, else `"weights"`."""
    return OPTIMIZER_ROLE if name.startswith(_OPTIMIZER_PREFIX) else WEIGHTS_ROLE


@dataclass(frozen=True)
class TensorFingerprint:
    """Digest and statistics of one tensor.

    Attributes:
        name: Path of the tensor in Keras's weights file.
        layer: Name of the layer or optimizer that owns it, for people; None if it has none.
        variable: The variable's own name, for people; None if it has none.
        shape: Sizes of its axes.
        dtype: NumPy's name of its element type, such as `float32`, `bfloat16`, `int64`.
        digest: SHA-256 over its little-endian, C-order bytes.
        statistics: Mean, std, min, max, norm over the finite elements; NaN and Inf counts.
        role: `"weights"` or `"optimizer"`.
        update_norm: Euclidean norm of its change since the training's last checkpoint; None if
            that is unknown. No part of what the tensor is: equal tensors may differ in it.
    """

    name: str
    layer: str | None
    variable: str | None
    shape: tuple[int, ...]
    dtype: str
    digest: Digest
    statistics: Statistics
    role: str
    update_norm: float | None = field(default=None, compare=False)

    @property
    def label(self) -> str:
        """What a person would call it, such as `conv2d/kernel`."""
        return f"{self.layer}/{self.variable}" if self.layer and self.variable else self.name

    @property
    def identity(self) -> str:
        """One line that two tensors share exactly if they are equal (name, type, shape, bytes)."""
        shape = ",".join(str(size) for size in self.shape)
        return f"{self.name} {self.dtype} [{shape}] {self.digest}\n"

    def to_dict(self) -> dict[str, Any]:
        """Return the tensor's entry in `fingerprint.json`."""
        return {
            "name": self.name,
            "layer": self.layer,
            "variable": self.variable,
            "role": self.role,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "digest": str(self.digest),
            **asdict(self.statistics),
            **({} if self.update_norm is None else {"update_norm": self.update_norm}),
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> TensorFingerprint:
        """Read an entry of `fingerprint.json`.

        Raises:
            KeyError, TypeError, ValueError: If it is not shaped like one.
        """
        update_norm = entry.get("update_norm")
        return cls(
            name=str(entry["name"]),
            layer=entry["layer"],
            variable=entry["variable"],
            shape=tuple(int(size) for size in entry["shape"]),
            dtype=str(entry["dtype"]),
            digest=Digest.parse(entry["digest"]),
            statistics=Statistics.from_dict(entry),
            role=str(entry["role"]),
            update_norm=None if update_norm is None else float(update_norm),
        )


class TensorFingerprinter:
    """Fingerprints a tensor whose bytes come piece by piece, as they are written.

    Args:
        name: Path of the tensor in Keras's weights file.
        shape: Sizes of its axes.
        dtype: Type of its elements: of a fixed size.
        layer: Name of the object that owns it.
        variable: The variable's own name.
        role: `"weights"` or `"optimizer"`; told from the name if None.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        layer: str | None = None,
        variable: str | None = None,
        role: str | None = None,
    ) -> None:
        self._known = (name, layer, variable, tuple(shape), dtype.name)
        self._role = role or role_of(name)
        self._hash = hashlib.sha256()
        self._statistics = StatisticsAccumulator(dtype)

    def update(self, flat: np.ndarray[Any, Any]) -> None:
        """Take in the next elements, in C order, as a one-dimensional array."""
        self._hash.update(array_bytes(flat))
        self._statistics.update(flat)

    def result(self) -> TensorFingerprint:
        """Return the fingerprint, once all elements were given."""
        digest = Digest("sha256", self._hash.hexdigest())
        return TensorFingerprint(*self._known, digest, self._statistics.result(), self._role)


def fingerprint_tensor(
    name: str,
    array: np.ndarray[Any, Any],
    *,
    layer: str | None = None,
    variable: str | None = None,
    role: str | None = None,
) -> TensorFingerprint:
    """Fingerprint one tensor.

    Args:
        name: Path of the tensor in Keras's weights file.
        array: Its values: any shape, any fixed-size dtype.
        layer: Name of the object that owns it.
        variable: The variable's own name.
        role: `"weights"` or `"optimizer"`; told from the name if None.
    """
    fingerprinter = TensorFingerprinter(
        name, array.shape, array.dtype, layer=layer, variable=variable, role=role
    )
    flat = np.ascontiguousarray(array).reshape(-1)
    # Piece by piece, so that what is hashed is still in the processor's cache for the statistics.
    for start in range(0, flat.size, PIECE):
        fingerprinter.update(flat[start : start + PIECE])
    return fingerprinter.result()


@dataclass(frozen=True)
class Fingerprint:
    """The named set of tensor fingerprints of a model, and its architecture's digest.

    Attributes:
        tensors: One entry a tensor, in the order of Keras's weights file.
        architecture_digest: Digest of the architecture as canonical JSON; None if it has none.
        updated_since: The checkpoint of the same training that the tensors' updates are measured
            from; None if none are.
    """

    tensors: tuple[TensorFingerprint, ...]
    architecture_digest: Digest | None = None
    updated_since: str | None = field(default=None, compare=False)

    def __getitem__(self, name: str) -> TensorFingerprint:
        """Return the tensor called `name`.

        Raises:
            KeyError: If there is none.
        """
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, TensorFingerprint]:
        return {tensor.name: tensor for tensor in self.tensors}

    def with_updates(self, since: str, norms: Mapping[str, float]) -> Fingerprint:
        """Return the same fingerprint, and how far its tensors moved.

        Args:
            since: Name of the checkpoint that they moved from.
            norms: Euclidean norms of their changes, by tensor name.
        """
        tensors = (replace(each, update_norm=norms.get(each.name)) for each in self.tensors)
        return replace(self, tensors=tuple(tensors), updated_since=since)

    def of_role(self, role: str) -> tuple[TensorFingerprint, ...]:
        """Return the tensors of one role: `"weights"` or `"optimizer"`."""
        return tuple(tensor for tensor in self.tensors if tensor.role == role)

    @cached_property
    def weights_digest(self) -> Digest:
        """One digest for all weights: SHA-256 over the sorted identity lines of the tensors."""
        return _combined(self.of_role(WEIGHTS_ROLE))

    @cached_property
    def optimizer_digest(self) -> Digest | None:
        """One digest for all optimizer variables; None if there are none."""
        tensors = self.of_role(OPTIMIZER_ROLE)
        return _combined(tensors) if tensors else None

    def differing(self, other: Fingerprint, roles: Iterable[str]) -> list[str]:
        """Return the names of tensors that differ from `other`, or that only one of them has.

        Args:
            other: The fingerprint to compare with.
            roles: Only tensors of these roles count.
        """
        wanted = set(roles)
        mine = {t.name: t.identity for t in self.tensors if t.role in wanted}
        theirs = {t.name: t.identity for t in other.tensors if t.role in wanted}
        names = [*mine, *(name for name in theirs if name not in mine)]
        return [name for name in names if mine.get(name) != theirs.get(name)]

    def nonfinite(self) -> tuple[TensorFingerprint, ...]:
        """Return the tensors that hold NaN or infinite elements."""
        return tuple(t for t in self.tensors if t.statistics.nan_count or t.statistics.inf_count)

    def to_json(self) -> str:
        """Return the text of `fingerprint.json`."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "weights_digest": str(self.weights_digest),
            "optimizer_digest": _text(self.optimizer_digest),
            "architecture_digest": _text(self.architecture_digest),
            **({} if self.updated_since is None else {"updated_since": self.updated_since}),
            "tensors": [tensor.to_dict() for tensor in self.tensors],
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Fingerprint:
        """Read the text of `fingerprint.json`.

        Raises:
            NewerSchemaError: If a newer mlflow_ckpt wrote it.
            IntegrityError: If it is not a fingerprint, or its digests contradict each other.
        """
        try:
            content = json.loads(text)
            found = int(content["schema_version"])
            if found > SCHEMA_VERSION:
                raise NewerSchemaError(
                    f"The fingerprint has schema version {found}; this mlflow_ckpt reads up to "
                    f"{SCHEMA_VERSION}. Install a newer mlflow-ckpt.",
                    found=found,
                    supported=SCHEMA_VERSION,
                )
            architecture, since = content["architecture_digest"], content.get("updated_since")
            fingerprint = cls(
                tensors=tuple(TensorFingerprint.from_dict(entry) for entry in content["tensors"]),
                architecture_digest=None if architecture is None else Digest.parse(architecture),
                updated_since=None if since is None else str(since),
            )
            consistent = (content["weights_digest"], content["optimizer_digest"]) == (
                str(fingerprint.weights_digest),
                _text(fingerprint.optimizer_digest),
            )
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"fingerprint.json is not a fingerprint as docs/format.md describes it ({error!r})."
            ) from error
        if not consistent:
            raise IntegrityError(
                "fingerprint.json contradicts itself: a combined digest is not its tensors'."
            )
        return fingerprint


def architecture_digest(architecture: Mapping[str, Any]) -> Digest:
    """Hash an architecture: SHA-256 over its JSON with sorted keys and no white space."""
    canonical = json.dumps(architecture, sort_keys=True, separators=(",", ":"))
    return Digest.of_bytes(canonical.encode())


def _combined(tensors: Iterable[TensorFingerprint]) -> Digest:
    return Digest.of_bytes("".join(sorted(t.identity for t in tensors)).encode())


def _text(digest: Digest | None) -> str | None:
    return None if digest is None else str(digest)
