"""Which layers of a model are frozen: Keras's files tell it only of some layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from mlflow_ckpt._format.text import listed
from mlflow_ckpt._model.capture import optimizers
from mlflow_ckpt._model.keras_private import tracked_attributes


def record(model: keras.Model) -> dict[str, Any] | None:
    """Return the number of layers, sublayers included, and the positions of the frozen ones.

    Returns:
        The record; None if the layers are unknown.
    """
    layers = tracked_attributes.all_layers(model)
    if layers is None:
        return None
    frozen = [index for index, layer in enumerate(layers) if not layer.trainable]
    return {"count": len(layers), "frozen": frozen}


def set_trainable(model: keras.Model, saved: Mapping[str, Any] | None) -> None:
    """Freeze the layers that were frozen, and no others."""
    for layer, trainable in _differing(model, saved):
        # A layer comes before its sublayers, which this changes too.
        if layer.trainable != trainable:
            layer.trainable = trainable


def changed_trainable(model: keras.Model, saved: Mapping[str, Any] | None) -> list[str]:
    """Describe the layers whose `trainable` differs from the saved one."""
    return [
        f"{layer.name}.trainable was {trainable} and is now {not trainable}"
        for layer, trainable in _differing(model, saved)
    ]


def variables_of_differing(model: keras.Model, saved: Mapping[str, Any] | None) -> set[int]:
    """Return the ids of the variables of the layers whose `trainable` differs."""
    return {id(variable) for layer, _ in _differing(model, saved) for variable in layer.variables}


def _differing(
    model: keras.Model, saved: Mapping[str, Any] | None
) -> Iterator[tuple[keras.layers.Layer, bool]]:
    """Yield the layers whose `trainable` differs, and the saved value."""
    layers = tracked_attributes.all_layers(model)
    if saved is None or layers is None or len(layers) != saved["count"]:
        return
    frozen = set(saved["frozen"])
    for index, layer in enumerate(layers):
        if layer.trainable != (index not in frozen):
            yield layer, index not in frozen


def frozen_since_built(model: keras.Model) -> list[str]:
    """Describe the variables that a compiled graph trains although their layers are frozen.

    TensorFlow's graph keeps the layers' `trainable` of its first step, and a resumed training
    traces it again.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or model.run_eagerly or keras.backend.backend() != "tensorflow":
        return []
    now = {id(variable) for variable in model.trainable_variables}
    frozen = [v.path for v in optimizers.built_with(optimizer) or () if id(v) not in now]
    if not frozen:
        return []
    return [
        f"trainable was set to False after the first step without a new compile(), so the training "
        f"that went on in one process still trained {listed(frozen)}, and this one does not"
    ]
