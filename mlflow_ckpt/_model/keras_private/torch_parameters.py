"""The parameters of a model on PyTorch, whose gradients Keras resets before each step.

- `Layer.torch_params` holds the values of variables by `Variable.path`, so that of several with the
  same path, only one is there. Fallback: none is added or named.
- `Model._flatten_layers` leads to submodels. No fallback.
"""

from __future__ import annotations

from collections.abc import Iterable

import keras

from mlflow_ckpt._model.keras_private.tracked_attributes import TORCH_PARAMETERS


def complete_parameters(model: keras.Model) -> None:
    """Give PyTorch all variables of a model and its submodels as parameters, once `fit` built it.

    In a rebuilt model, whose paths lack the names of submodels, several variables may have the same
    path. The gradients of those that Keras left out would add up from step to step.
    """
    for item in model._flatten_layers():
        if isinstance(item, keras.Model) and item.built and hasattr(item, "torch_params"):
            parameters = item.torch_params
            for number, variable in _left_out(item, parameters.values()):
                parameters[f"{variable.path}/{number}"] = variable.value


def paths_without_reset(model: keras.Model) -> list[str]:
    """Return the paths of trained variables whose gradients are not reset."""
    parameters = getattr(model, TORCH_PARAMETERS, None)
    if parameters is None:
        return []
    variables = _left_out(model, parameters.values())
    return sorted({variable.path for _, variable in variables if variable.trainable})


def _left_out(model: keras.Model, parameters: Iterable[object]) -> list[tuple[int, keras.Variable]]:
    known = {id(parameter) for parameter in parameters}
    return [item for item in enumerate(model.variables) if id(item[1].value) not in known]
