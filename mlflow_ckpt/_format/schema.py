"""What a model takes and gives: names, shapes and types."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorSchema:
    """Shape and type of one input or output.

    Attributes:
        name: Its name; None where the model has just one.
        shape: Sizes of its axes; None for one that is free, such as the batch.
        dtype: NumPy's name of its element type.
    """

    name: str | None
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class ModelSchema:
    """What a model takes and gives."""

    inputs: tuple[TensorSchema, ...]
    outputs: tuple[TensorSchema, ...]
