"""Input and output schema of a model: names, shapes and dtypes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorSchema:
    """Shape and dtype of one input or output.

    Attributes:
        name: Its name; None if the model has only one.
        shape: Sizes of its axes; None for a free one, such as the batch.
        dtype: NumPy name of its dtype.
    """

    name: str | None
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class ModelSchema:
    """Inputs and outputs of a model."""

    inputs: tuple[TensorSchema, ...]
    outputs: tuple[TensorSchema, ...]
