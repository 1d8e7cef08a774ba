"""Summarizes what a callback holds, to notice that it changed."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Hashable, Iterable
from typing import Any

import keras

from mlflow_ckpt._model.capture.references_in_code import methods_of_user, plain_function
from mlflow_ckpt._model.capture.summaries import Summarizer
from mlflow_ckpt._model.keras_private import callback_internals, compiled_model
from mlflow_ckpt._model.training.kept_variables import all_variables


def outline(
    callback: keras.callbacks.Callback, ignored: Collection[str], saved: Iterable[int] = ()
) -> dict[str, Hashable]:
    """Summarize a callback's attributes, those of its class, and the variables of its code.

    Args:
        callback: The callback.
        ignored: Names of attributes to leave out, unless they are called.
        saved: Ids of objects that are saved elsewhere, beside those of its model.
    """
    kind: Any = type(callback)
    known = {*saved, *_saved_with(callback.model), *map(id, kind.__mro__)}
    functions: dict[str, Any] = dict(methods_of_user(kind))
    summarizer = Summarizer(known)
    summary = summarizer.of_class(kind)
    for name, value in list(vars(callback).items()):
        if name in callback_internals.SET_BY_KERAS:
            continue
        if name not in ignored or callable(value):
            functions[name] = plain_function(value)
            if not inspect.isfunction(value):
                summary[name] = summarizer.of_root(value)
    for name, function in functions.items():
        if function is not None:
            for variable, content in summarizer.of_function(function).items():
                summary[f"{name}: {variable}"] = content
    return summary


def _saved_with(model: keras.Model | None) -> set[int]:
    """Return the ids of a model's variables and metrics, which are saved with it."""
    if model is None:
        return set()
    given = keras.tree.flatten(list(compiled_model.metrics_given(model).values()))
    metrics = (*getattr(model, "metrics", ()), *given)
    variables = (*all_variables(model), *getattr(model, "metrics_variables", ()))
    return {id(item) for item in (*variables, *metrics)}
