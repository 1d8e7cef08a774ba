"""What a model holds, as host copies: the objects of Keras's weights file, and their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._format.fingerprint import (
    OPTIMIZER_ROLE,
    WEIGHTS_ROLE,
    TensorFingerprint,
    TensorFingerprinter,
    fingerprint_tensor,
)


@dataclass
class Group:
    """What one object of the model (a layer, the optimizer) saves of itself.

    Attributes:
        path: Path of the object in Keras's weights file, such as `layers/conv2d`; "" for the model.
        owner: The object's name, which Keras notes in the file; None if it has none.
        arrays: Host copies of its values by key, in the order in which the object stored them.
        variables: Names of the variables they come from, where known.
        role: `"weights"`, or `"optimizer"` for the state of an optimizer.
    """

    path: str
    owner: str | None
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    role: str = WEIGHTS_ROLE


@dataclass
class CapturedState:
    """Everything that `model.save` would write, as host copies.

    Attributes:
        groups: The content of the weights file, in Keras's order.
        config_json: The archive's `config.json`.
        metadata_json: The archive's `metadata.json`.
        assets: Directory of files that layers save beside their weights (vocabularies); None if
            there are none.
    """

    groups: list[Group]
    config_json: str
    metadata_json: str
    assets: Path | None = None


@dataclass(frozen=True)
class Tensor:
    """One tensor of a snapshot.

    Attributes:
        name: Path of the tensor in Keras's weights file.
        array: Its values.
        layer: Name of the object that owns it; None if it has none.
        variable: The variable's own name; None if it has none.
        role: `"weights"` or `"optimizer"`.
    """

    name: str
    array: np.ndarray[Any, Any]
    layer: str | None
    variable: str | None
    role: str

    def fingerprinter(self) -> TensorFingerprinter:
        """Return what fingerprints this tensor piece by piece."""
        return TensorFingerprinter(
            self.name,
            self.array.shape,
            self.array.dtype,
            layer=self.layer,
            variable=self.variable,
            role=self.role,
        )

    def fingerprint(self) -> TensorFingerprint:
        """Fingerprint the tensor."""
        return fingerprint_tensor(
            self.name, self.array, layer=self.layer, variable=self.variable, role=self.role
        )


def tensors_of(groups: Iterable[Group], variable_names: Mapping[str, str]) -> Iterator[Tensor]:
    """Yield the tensors of some groups.

    Args:
        groups: The groups, in the order of Keras's weights file.
        variable_names: What people call tensors that are stored without a name.
    """
    for group in groups:
        prefix = f"{group.path}/vars" if group.path else "vars"
        for key, array in group.arrays.items():
            name = f"{prefix}/{key}"
            variable = group.variables.get(key) or variable_names.get(name)
            yield Tensor(name, array, group.owner, variable, group.role)


def mark_optimizers(model: keras.Model, groups: Iterable[Group]) -> None:
    """Tell the state of optimizers from weights: the compiled one, and others a model may own."""
    owned = ["optimizer"]
    for attribute, value in vars(model).items():
        members = list(value.values()) if isinstance(value, dict) else value
        for member in members if isinstance(members, (list, tuple)) else [members]:
            if isinstance(member, keras.optimizers.Optimizer):
                owned.append(attribute)
    for group in groups:
        parts = group.path.split("/")
        # Deeper down, a part called so is the optimizer of a compiled submodel.
        if parts[0] in owned or "optimizer" in parts[1:]:
            group.role = OPTIMIZER_ROLE
