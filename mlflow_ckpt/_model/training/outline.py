"""Summarizes what a callback holds, to notice that it changed."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterable

import keras

from mlflow_ckpt._model.capture.summaries import Summarizer, methods_of_user
from mlflow_ckpt._model.keras_private import callback_internals


def outline(callback: keras.callbacks.Callback, ignored: Iterable[str]) -> dict[str, Hashable]:
    """Summarize a callback's attributes, those of its class, and the variables of its code.

    Args:
        callback: The callback.
        ignored: Names of attributes to leave out.
    """
    left_out = {*callback_internals.SET_BY_KERAS, *ignored}
    summary = Summarizer().of_class(type(callback))
    for name, value in vars(callback).items():
        if name not in left_out and not inspect.isfunction(value):
            summary[name] = Summarizer().of_value(value)
    return summary | variables_of_code(callback)


def variables_of_code(callback: keras.callbacks.Callback) -> dict[str, Hashable]:
    """Summarize the variables that a callback's code refers to: of closures, and of modules.

    Args:
        callback: The callback, whose functions are attributes, or methods that the user wrote.
    """
    functions = {name: f for name, f in vars(callback).items() if inspect.isfunction(f)}
    return {
        f"{name}: {variable}": summary
        for name, function in (methods_of_user(type(callback)) | functions).items()
        for variable, summary in Summarizer().of_function(function).items()
    }
