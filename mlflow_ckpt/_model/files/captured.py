"""Host copies of a model's state: the objects of Keras's weights file and their tensors."""

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
    """The saved state of one object of the model: a layer, the optimizer.

    Attributes:
        path: Path of the object in Keras's weights file, such as `layers/conv2d`; "" for the model.
        owner: The object's name, which Keras stores in the file; None if it has none.
        arrays: Host copies of its values by key, in the order in which the object saves them.
        variables: Names of the variables, by the same keys, if known.
        role: `"weights"`, or `"optimizer"` for the state of an optimizer.
    """

    path: str
    owner: str | None
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    role: str = WEIGHTS_ROLE


@dataclass
class CapturedState:
    """Host copies of everything that `model.save` would write.

    Attributes:
        groups: The content of the weights file, in Keras's order.
        config_json: The archive's `config.json`.
        metadata_json: The archive's `metadata.json`.
        assets: Directory of the files that layers save in addition to weights, such as
            vocabularies; None if there are none.
        handed_over: The variables whose own values the file has. A layer may also save a value that
            it computed, such as a kernel with its adapters merged: its variables are not among
            these.
    """

    groups: list[Group]
    config_json: str
    metadata_json: str
    assets: Path | None = None
    handed_over: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Tensor:
    """One tensor of a snapshot.

    Attributes:
        name: Path of the tensor in Keras's weights file.
        array: Its values.
        layer: Name of the object that owns it; None if it has none.
        variable: Name of the variable; None if it has none.
        role: `"weights"` or `"optimizer"`.
    """

    name: str
    array: np.ndarray[Any, Any]
    layer: str | None
    variable: str | None
    role: str

    def fingerprinter(self) -> TensorFingerprinter:
        """Return a fingerprinter for this tensor, which takes it piece by piece."""
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
        variable_names: Readable names of tensors that are stored without a name.
    """
    for group in groups:
        prefix = f"{group.path}/vars" if group.path else "vars"
        for key, array in group.arrays.items():
            name = f"{prefix}/{key}"
            variable = group.variables.get(key) or variable_names.get(name)
            yield Tensor(name, array, group.owner, variable, group.role)


def mark_optimizers(model: keras.Model, groups: Iterable[Group]) -> None:
    """Set the role of groups that belong to an optimizer: the compiled one, or another."""
    optimizers = ["optimizer"]
    for attribute, value in vars(model).items():
        members = list(value.values()) if isinstance(value, dict) else value
        for member in members if isinstance(members, (list, tuple)) else [members]:
            if isinstance(member, keras.optimizers.Optimizer):
                optimizers.append(attribute)
    for group in groups:
        parts = group.path.split("/")
        # Deeper in the path, "optimizer" is that of a compiled submodel.
        if parts[0] in optimizers or "optimizer" in parts[1:]:
            group.role = OPTIMIZER_ROLE
