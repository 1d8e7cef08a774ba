"""Summarizes what a callback holds, to notice that it changed."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterable
from typing import Any

import keras

from mlflow_ckpt._model.capture.summaries import Summarizer, methods_of_user
from mlflow_ckpt._model.keras_private import callback_internals
from mlflow_ckpt._model.training.kept_variables import all_variables


def outline(callback: keras.callbacks.Callback, ignored: Iterable[str]) -> dict[str, Hashable]:
    """Summarize a callback's attributes, those of its class, and the variables of its code.

    Args:
        callback: The callback.
        ignored: Names of attributes to leave out.
    """
    left_out = {*callback_internals.SET_BY_KERAS, *ignored}
    saved = _saved_by(callback)
    summary = Summarizer(saved).of_class(type(callback))
    for name, value in vars(callback).items():
        if name not in left_out and not inspect.isfunction(value):
            summary[name] = Summarizer(saved).of_value(value)
    return summary | variables_of_code(callback)


def variables_of_code(callback: keras.callbacks.Callback) -> dict[str, Hashable]:
    """Summarize the variables that a callback's code refers to: of closures, and of modules.

    Args:
        callback: The callback, whose functions are attributes, or methods that the user wrote.
    """
    kind: Any = type(callback)
    functions = {name: f for name, f in vars(callback).items() if inspect.isfunction(f)}
    saved = _saved_by(callback)
    return {
        f"{name}: {variable}": summary
        for name, function in {**methods_of_user(kind), **functions}.items()
        for variable, summary in Summarizer(saved).of_function(function).items()
    }


def _saved_by(callback: keras.callbacks.Callback) -> set[int]:
    """Return the ids of the variables of a callback's model, which are saved with it."""
    model = callback.model
    if model is None:
        return set()
    return {id(variable) for variable in all_variables(model)}
