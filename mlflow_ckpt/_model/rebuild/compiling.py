"""Compiles a rebuilt model as the saved one was, and gives its optimizers their variables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras

from mlflow_ckpt._format.text import first_line, listed
from mlflow_ckpt._model.capture import compile_settings, optimizers
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._model.keras_private import compiled_model, optimizer_internals, tracked_attributes
from mlflow_ckpt._model.rebuild.guarded import guarded, known_objects
from mlflow_ckpt.errors import ModelLoadError, UnknownObjectError

# Compiles an uncompiled model; returns None, or the model to use instead.
Compile = Callable[[keras.Model], keras.Model | None]
CustomObjects = Mapping[str, Any] | None


# What loads a model whose compile() cannot be called again.
_WITHOUT = (
    "load_model(…, compile=False) or form='split' loads the model; resume(…, compile=lambda model: "
    "model.compile(…)) and restore(model, …) also load the optimizer."
)


def compile_as_saved(
    model: keras.Model, state: TrainingState, custom_objects: CustomObjects
) -> None:
    """Compile a model with the saved settings. Its optimizers are not built yet.

    Raises:
        ModelLoadError: If the model's class has a `compile` of its own whose arguments are not
            known, or Keras cannot compile the model.
    """
    config, record = state.compile_config, state.compile
    if record is None:
        if config is not None:  # an older version saved it
            guarded(lambda: model.compile_from_config(config))
        return
    known = known_objects({"compile": config, "record": record}, custom_objects)
    try:
        with keras.saving.custom_object_scope(known):
            if compile_settings.overrides(model, "compile_from_config"):
                guarded(lambda: model.compile_from_config(config))
            elif compile_settings.overrides(model, "compile"):
                _compile_own(model, config or {}, record)
            else:
                guarded(lambda: _compile_plain(model, config or {}, record))
            guarded(lambda: _apply_settings(model, record))
    except UnknownObjectError as error:
        message = f"{error} Only compile() needs it: {_WITHOUT}"
        raise UnknownObjectError(message, name=error.name) from error
    except ModelLoadError as error:
        settings = {**(config or {}), **record.get("arguments", {})}
        lambdas = [name for name in settings if compile_settings.holds_lambda(settings[name])]
        if not lambdas:
            raise
        raise ModelLoadError(
            f"The argument {', '.join(lambdas)} of compile() is a lambda, which Keras does not "
            "load in safe mode. Make it a function or class that is registered with "
            f"keras.saving.register_keras_serializable. Without it: {_WITHOUT}"
        ) from error


def compile_with(model: keras.Model, compile_: Compile) -> keras.Model:
    """Have the user compile a model.

    Raises:
        ModelLoadError: If the model is not compiled afterwards.
    """
    result = compile_(model)
    compiled = model if result is None else result
    if not getattr(compiled, "compiled", False):
        raise ModelLoadError(
            "Expected that compile= compiles the model it gets. Received: "
            f"{getattr(compile_, '__name__', compile_)!r}, after which the model is not compiled."
        )
    return compiled


def _compile_plain(
    model: keras.Model, config: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    arguments = keras.saving.deserialize_keras_object(dict(config))
    if record.get("settings", {}).get("auto_scale_loss") is False:
        arguments["auto_scale_loss"] = False
    model.compile(**arguments)


def _compile_own(model: keras.Model, config: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Call a class's own `compile` again with its recorded arguments."""
    saved = dict(record.get("arguments", {}))
    _require_arguments(model, saved, record.get("unknown", {}))
    guarded(lambda: _call_own(model, saved, {}))
    more = _passed_on(model, config)
    if more:
        # What the class passes on to Keras as **kwargs is known only from the outcome.
        try:
            _call_own(model, saved, more)
        except ModelLoadError:
            raise
        except TypeError:  # the class sets one of them itself
            guarded(lambda: _call_own(model, saved, {}))


def _require_arguments(
    model: keras.Model, saved: Mapping[str, Any], unknown: Mapping[str, str]
) -> None:
    for name, parameter in compile_settings.parameters(type(model)).items():
        if name not in saved and parameter.default is parameter.empty:
            why = unknown.get(name, "it was not recorded")
            raise ModelLoadError(
                f"The compile() of {type(model).__name__} cannot be called again, because its "
                f"argument {name!r} is not known: {why}. Without it: {_WITHOUT}"
            )


def _call_own(model: keras.Model, saved: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    known = compile_settings.parameters(type(model))
    arguments = keras.saving.deserialize_keras_object(
        {name: value for name, value in saved.items() if name in known}
    )
    model.compile(**arguments, **keras.saving.deserialize_keras_object(dict(more)))


def _passed_on(model: keras.Model, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return Keras's settings that differ from the saved ones and that `compile` takes."""
    if not compile_settings.takes_more(type(model)):
        return {}
    named = compile_settings.parameters(type(model))
    now = json.loads(json.dumps(model.get_compile_config()))
    return {
        name: value
        for name, value in config.items()
        if name not in named and name in now and now[name] != value
    }


def _apply_settings(model: keras.Model, record: Mapping[str, Any]) -> None:
    """Set what was changed after `compile`."""
    saved = record.get("optimizer")
    compiled = compiled_model.compile_arguments(model).get("optimizer")
    if saved is not None and compile_settings.is_compiled_with(model.optimizer, compiled):
        model.optimizer = keras.saving.deserialize_keras_object(saved)
    for name, value in record.get("settings", {}).items():
        if name != "auto_scale_loss" and getattr(model, name, value) != value:
            setattr(model, name, value)


def build_optimizers(
    model: keras.Model, record: Mapping[str, Any], *, replace: bool = True
) -> None:
    """Build each of a model's optimizers with the variables that it was built with when saved.

    Args:
        model: A built model.
        record: What each optimizer was built with, by its path.
        replace: Whether to replace an optimizer that is built with other variables by a new one.

    Raises:
        ModelLoadError: If the model lacks a variable, or an optimizer that is not replaced is
            built with others.
    """
    names: dict[str, Any] = {}
    for path, holder, key, optimizer in list(optimizers.places(model)):
        saved = record.get(path)
        if saved is None or saved["variables"] is None:
            continue
        names = names or optimizers.names_of(model)
        variables = _variables(path, saved, names)
        if replace and path == "optimizer":
            tracked_attributes.order_variables(model, variables)
        if optimizer.built:
            if _is_as_saved(optimizer, variables, saved):
                continue
            if not replace:
                raise ModelLoadError(
                    f"The optimizer {path} of the given model is built with other variables than "
                    "the saved one. Pass a model whose compile() was called last, after its layers "
                    "got their trainable attributes, and that was not trained yet."
                )
            optimizer = _new_like(holder, key, optimizer)
        guarded(partial(_build, optimizer, variables, saved))


def _variables(path: str, saved: Mapping[str, Any], names: optimizers.Names) -> list[Any]:
    missing = [name for name in saved["variables"] if name not in names]
    if missing:
        raise ModelLoadError(
            f"The optimizer {path} was built with {len(missing)} variables that the rebuilt model "
            f"does not have ({listed(missing)}): get_config() does not describe the model that "
            "was trained, or the optimizer trained variables of another object. Load with "
            "compile=False or form='split'."
        )
    return [names[name] for name in saved["variables"]]


def _is_as_saved(optimizer: Any, variables: list[Any], saved: Mapping[str, Any]) -> bool:
    built = optimizers.built_with(optimizer) or []
    same = list(map(id, built)) == list(map(id, variables))
    return same and optimizers.parts(
        variables, optimizer_internals.inner_optimizers(optimizer)
    ) == saved.get("parts", optimizers.parts(variables, []))


def _new_like(holder: Any, key: Any, optimizer: Any) -> Any:
    """Replace a built optimizer, which Keras cannot build again, by an equal one."""
    new = guarded(lambda: type(optimizer).from_config(optimizer.get_config()))
    if isinstance(holder, (dict, list)):
        holder[key] = new
    else:
        setattr(holder, key, new)
    return new


def _build(optimizer: Any, variables: list[Any], saved: Mapping[str, Any]) -> None:
    inner = optimizer_internals.inner_optimizers(optimizer)
    parts = saved.get("parts", [])
    if [type(item).__name__ for item in inner] != saved.get("inner", []) or not inner:
        optimizer.build(variables)
        return
    chosen = {id(v): inner[part] for v, part in zip(variables, parts, strict=True)}
    with optimizer_internals.dividing(optimizer, lambda variable: chosen[id(variable)]):
        optimizer.build(variables)


def require_optimizers(model: keras.Model, record: Mapping[str, Any]) -> None:
    """Check that a model has the saved optimizers, of the saved classes and divisions.

    Raises:
        ModelLoadError: If an optimizer is missing or differs.
    """
    found = optimizers.optimizers_of(model)
    for path, saved in record.items():
        name = type(found[path]).__name__ if path in found else "none"
        if name != saved["class"]:
            raise ModelLoadError(
                f"The checkpoint holds the state of an optimizer {path}, a {saved['class']}. "
                f"Expected the same in the compiled model. Received: {name}. Compile the model as "
                "for the saved training, or load with compile=False."
            )
        inner = optimizer_internals.inner_optimizers(found[path])
        variables = optimizers.built_with(found[path])
        if inner and variables and optimizers.parts(variables, inner) != saved.get("parts"):
            raise ModelLoadError(
                f"The optimizer {path} divides the variables among its optimizers by their paths, "
                "which differ in a rebuilt model. Use an OptimizerMap, or restore(model, …) into a "
                "model that you built and compiled."
            )


def require_rates(model: keras.Model) -> None:
    """Check that the learning rates of a rebuilt model can be computed.

    Of a schedule whose configuration holds another object, Keras makes one that holds the other's
    configuration instead, and the first training step fails.

    Raises:
        ModelLoadError: If one cannot be.
    """
    for path, optimizer in optimizers.optimizers_of(model).items():
        try:
            guarded(partial(getattr, optimizer, "learning_rate", None))
        except ModelLoadError as error:
            raise ModelLoadError(
                f"The learning rate of the optimizer {path} cannot be computed "
                f"({first_line(str(error.__cause__))}). Expected a schedule that can be rebuilt "
                "from what its get_config() returns: if that holds another object, from_config() "
                f"must rebuild it. Without it: {_WITHOUT}"
            ) from error
