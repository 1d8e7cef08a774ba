"""Keeps a model's variables as they are while callbacks are told that a training begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.capture.code_origin import is_of_user
from mlflow_ckpt._model.capture.introspection import layers_of


def all_variables(model: keras.Model) -> Iterator[Any]:
    """Yield the variables of a model, but its metrics', and of the optimizers in it."""
    metrics = {id(variable) for variable in getattr(model, "metrics_variables", ())}
    yield from (variable for variable in model.variables if id(variable) not in metrics)
    for item in (model, *layers_of(model)):
        for value in vars(item).values():
            if isinstance(value, keras.optimizers.Optimizer):
                yield from value.variables


class KeptVariables:
    """The values of a model's variables when `fit` began.

    A callback such as a cyclical learning rate sets variables in `on_train_begin`, which a training
    that never stopped calls only once, or in `on_epoch_begin`, which one that is resumed inside an
    epoch calls again.

    Args:
        model: The restored model.
        callbacks: The other callbacks; nothing is kept if the user wrote none of their hooks.
        hooks: Names of the hooks that are called once more than in a training that never stopped.
    """

    def __init__(
        self,
        model: keras.Model,
        callbacks: Iterable[keras.callbacks.Callback],
        hooks: Iterable[str],
    ) -> None:
        self._values: list[tuple[Any, np.ndarray[Any, Any]]] = []
        methods = [getattr(callback, hook) for callback in callbacks for hook in hooks]
        if any(is_of_user(method.__module__) for method in methods):
            self._values = [(variable, _copy(variable)) for variable in all_variables(model)]

    def put_back(self) -> None:
        """Set the variables that have another value now."""
        for variable, value in self._values:
            if _copy(variable).tobytes() != value.tobytes():
                variable.assign(value)

    def release(self) -> None:
        """Keep the values no longer."""
        self._values = []


def _copy(variable: Any) -> np.ndarray[Any, Any]:
    return np.array(keras.ops.convert_to_numpy(variable), copy=True)
