"""Fingerprints: digests and statistics of every tensor of a model (docs/format.md).

A tensor's name is its path in Keras's weights file, such as `layers/conv2d/vars/0`. Keras loads
weights by that path, so it is the same for a live model and a reloaded one, in any process, and
`h5py.File(...)[name]` is the tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.digest import Digest, array_bytes
from mlflow_ckpt._format.dtypes import is_dtype
from mlflow_ckpt._format.statistics import Statistics, StatisticsAccumulator
from mlflow_ckpt._format.untrusted import fields, json_text, regular_file
from mlflow_ckpt.errors import IntegrityError, NewerSchemaError

SCHEMA_VERSION = 1
WEIGHTS_ROLE = "weights"
OPTIMIZER_ROLE = "optimizer"
_ROLES = (WEIGHTS_ROLE, OPTIMIZER_ROLE)
_OPTIMIZER_PREFIX = "optimizer/"
# Number of elements that are hashed and summarized together.
PIECE = 1 << 18


def role_of(name: str) -> str:
    """Return `"optimizer"` for a variable of the compiled optimizer, else `"weights"`."""
    return OPTIMIZER_ROLE if name.startswith(_OPTIMIZER_PREFIX) else WEIGHTS_ROLE


@dataclass(frozen=True)
class TensorFingerprint:
    """Digest and statistics of one tensor.

    Attributes:
        name: Path of the tensor in Keras's weights file.
        layer: Readable name of the layer or optimizer that owns it; None if there is none.
        variable: Readable name of the variable; None if it has none.
        shape: Sizes of its axes.
        dtype: NumPy name of its dtype, such as `float32`, `bfloat16`, `int64`.
        digest: SHA-256 of its little-endian, C-order bytes.
        statistics: Mean, std, min, max, norm over the finite elements; NaN and Inf counts.
        role: `"weights"` or `"optimizer"`.
        update_norm: Euclidean norm of its change since the training's previous checkpoint; None if
            unknown. Ignored when tensors are compared.
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
        """Readable name, such as `conv2d/kernel`."""
        return f"{self.layer}/{self.variable}" if self.layer and self.variable else self.name

    @property
    def identity(self) -> str:
        """A line that is equal for equal tensors only: name, dtype, shape and digest."""
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
        """Parse an entry of `fingerprint.json`.

        Raises:
            KeyError, TypeError, ValueError: If the entry is malformed.
        """
        dtype, role = fields.text(entry["dtype"]), fields.text(entry["role"])
        if not is_dtype(dtype) or role not in _ROLES:
            raise ValueError(f"unknown dtype {dtype!r} or role {role!r}")
        return cls(
            name=fields.text(entry["name"]),
            layer=fields.optional(fields.text, entry["layer"]),
            variable=fields.optional(fields.text, entry["variable"]),
            shape=tuple(fields.count(size) for size in fields.items(entry["shape"])),
            dtype=dtype,
            digest=Digest.parse(entry["digest"]),
            statistics=Statistics.from_dict(entry),
            role=role,
            update_norm=fields.optional(fields.number, entry.get("update_norm")),
        )


class TensorFingerprinter:
    """Fingerprints a tensor piece by piece, while it is written.

    Args:
        name: Path of the tensor in Keras's weights file.
        shape: Sizes of its axes.
        dtype: Its dtype, of a fixed item size.
        layer: Name of the object that owns it.
        variable: Name of the variable.
        role: `"weights"` or `"optimizer"`; inferred from `name` if None.
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
        self._description = (name, layer, variable, tuple(shape), dtype.name)
        self._role = role or role_of(name)
        self._hash = hashlib.sha256()
        self._statistics = StatisticsAccumulator(dtype)

    def update(self, flat: np.ndarray[Any, Any]) -> None:
        """Add the next elements in C order, a one-dimensional array."""
        self._hash.update(array_bytes(flat))
        self._statistics.update(flat)

    def result(self) -> TensorFingerprint:
        """Return the fingerprint, after all elements were added."""
        digest = Digest("sha256", self._hash.hexdigest())
        statistics = self._statistics.result()
        return TensorFingerprint(*self._description, digest, statistics, self._role)


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
        array: Its values: any shape, any dtype with a fixed item size.
        layer: Name of the object that owns it.
        variable: Name of the variable.
        role: `"weights"` or `"optimizer"`; inferred from `name` if None.
    """
    fingerprinter = TensorFingerprinter(
        name, array.shape, array.dtype, layer=layer, variable=variable, role=role
    )
    flat = np.ascontiguousarray(array).reshape(-1)
    # In pieces, so that the bytes are still in the processor's cache for the statistics.
    for start in range(0, flat.size, PIECE):
        fingerprinter.update(flat[start : start + PIECE])
    return fingerprinter.result()


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprints of a model's tensors, and the digest of its architecture.

    Attributes:
        tensors: One entry per tensor, in the order of Keras's weights file.
        architecture_digest: Digest of the architecture as canonical JSON; None if there is none.
        updated_since: The previous checkpoint of the same training, from which `update_norm` is
            measured; None if it is not.
    """

    tensors: tuple[TensorFingerprint, ...]
    architecture_digest: Digest | None = None
    updated_since: str | None = field(default=None, compare=False)

    def __getitem__(self, name: str) -> TensorFingerprint:
        """Return the tensor called `name`.

        Raises:
            KeyError: If there is no such tensor.
        """
        return self._by_name[name]

    def _require_names(self) -> None:
        if len(self._by_name) < len(self.tensors):
            raise ValueError("two tensors have the same name")

    @cached_property
    def _by_name(self) -> dict[str, TensorFingerprint]:
        return {tensor.name: tensor for tensor in self.tensors}

    def with_updates(self, since: str, norms: Mapping[str, float]) -> Fingerprint:
        """Return a copy with the tensors' update norms.

        Args:
            since: Name of the checkpoint that the updates are measured from.
            norms: Euclidean norms of the updates, by tensor name.
        """
        tensors = (replace(t, update_norm=norms.get(t.name)) for t in self.tensors)
        return replace(self, tensors=tuple(tensors), updated_since=since)

    def of_role(self, role: str) -> tuple[TensorFingerprint, ...]:
        """Return the tensors of one role: `"weights"` or `"optimizer"`."""
        return tuple(tensor for tensor in self.tensors if tensor.role == role)

    @cached_property
    def weights_digest(self) -> Digest:
        """Digest of all weights: SHA-256 of their sorted identity lines."""
        return _combined(self.of_role(WEIGHTS_ROLE))

    @cached_property
    def optimizer_digest(self) -> Digest | None:
        """Digest of all optimizer variables; None if there are none."""
        tensors = self.of_role(OPTIMIZER_ROLE)
        return _combined(tensors) if tensors else None

    def differing(self, other: Fingerprint, roles: Iterable[str]) -> list[str]:
        """Return the names of the tensors that differ from `other` or are in only one of them."""
        compared = set(roles)
        a = {t.name: t.identity for t in self.tensors if t.role in compared}
        b = {t.name: t.identity for t in other.tensors if t.role in compared}
        return [name for name in {**a, **b} if a.get(name) != b.get(name)]

    def nonfinite(self) -> tuple[TensorFingerprint, ...]:
        """Return the tensors with NaN or infinite elements."""
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
        """Parse the text of `fingerprint.json`.

        Raises:
            NewerSchemaError: If a newer mlflow_ckpt wrote it.
            IntegrityError: If it is malformed, or a digest does not match its tensors.
        """
        try:
            content = fields.table(json_text.parse(text))
            version = fields.count(content["schema_version"])
            if version > SCHEMA_VERSION:
                raise NewerSchemaError.of("The fingerprint", version, SCHEMA_VERSION)
            architecture, since = content["architecture_digest"], content.get("updated_since")
            fingerprint = cls(
                tensors=tuple(
                    TensorFingerprint.from_dict(fields.table(entry))
                    for entry in fields.items(content["tensors"])
                ),
                architecture_digest=None if architecture is None else Digest.parse(architecture),
                updated_since=fields.optional(fields.text, since),
            )
            fingerprint._require_names()
            consistent = (content["weights_digest"], content["optimizer_digest"]) == (
                str(fingerprint.weights_digest),
                _text(fingerprint.optimizer_digest),
            )
        except NewerSchemaError:
            raise
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"fingerprint.json is not a fingerprint as docs/format.md describes it ({error!r})."
            ) from error
        if not consistent:
            raise IntegrityError(
                "fingerprint.json is inconsistent: a combined digest does not match its tensors."
            )
        return fingerprint


def read_fingerprint(directory: Path) -> Fingerprint:
    """Read `fingerprint.json` in a checkpoint's directory.

    Raises:
        OSError: If the file cannot be read.
        IntegrityError, NewerSchemaError: As in `Fingerprint.from_json`.
    """
    return Fingerprint.from_json(regular_file.read(directory / layout.FINGERPRINT))


def architecture_digest(architecture: Mapping[str, Any]) -> Digest:
    """Return the SHA-256 of an architecture as JSON with sorted keys and no white space."""
    canonical = json.dumps(architecture, sort_keys=True, separators=(",", ":"))
    return Digest.of_bytes(canonical.encode())


def _combined(tensors: Iterable[TensorFingerprint]) -> Digest:
    return Digest.of_bytes("".join(sorted(t.identity for t in tensors)).encode())


def _text(digest: Digest | None) -> str | None:
    return None if digest is None else str(digest)
