"""Derives the input and output schema from a model."""

from __future__ import annotations

from typing import Any

import keras

from mlflow_ckpt._format.schema import ModelSchema, TensorSchema


def schema_of(model: keras.Model) -> ModelSchema | None:
    """Return names, shapes and dtypes of a model's inputs and outputs.

    Returns:
        The schema; None for a subclassed model, which has no symbolic inputs.
    """
    inputs = getattr(model, "inputs", None)
    outputs = getattr(model, "outputs", None)
    if not inputs or not outputs:
        return None
    names = getattr(model, "output_names", None) or []
    return ModelSchema(
        _tensors(inputs, [tensor.name for tensor in inputs]), _tensors(outputs, list(names))
    )


def _tensors(tensors: list[Any], names: list[str]) -> tuple[TensorSchema, ...]:
    # MLflow requires names for all tensors or for none.
    named = len(tensors) > 1 and len(names) == len(tensors)
    return tuple(
        TensorSchema(
            names[index] if named else None,
            tuple(tensor.shape),
            # NumPy's name of Keras's string is str.
            keras.backend.standardize_dtype(tensor.dtype).replace("string", "str"),
        )
        for index, tensor in enumerate(tensors)
    )
