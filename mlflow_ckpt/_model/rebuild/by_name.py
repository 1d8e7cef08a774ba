"""Puts tensors back by their names, where Keras's loader leaves them as they were."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import keras

from mlflow_ckpt._format.weights_file import open_weights
from mlflow_ckpt._model.capture import optimizers
from mlflow_ckpt._model.files.hdf5 import native


def put_back(model: keras.Model, source: Path, names: Collection[str]) -> bool:
    """Assign tensors of a weights file to the variables that save them under these names.

    Args:
        model: A built model.
        source: A `.keras` or `.weights.h5` file.
        names: The tensors' paths in it.

    Returns:
        Whether a variable was assigned.
    """
    variables = optimizers.names_of(model)
    assigned = False
    with open_weights(source) as file:
        for name in names:
            variable = variables.get(name)
            if variable is None or name not in file:
                continue
            value = native(file[name])
            if tuple(variable.shape) == value.shape:
                variable.assign(value)
                assigned = True
    return assigned
