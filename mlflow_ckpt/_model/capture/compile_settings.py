"""Records how a model was compiled, as far as Keras's own configuration does not hold it."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import keras

from mlflow_ckpt._format.text import first_line
from mlflow_ckpt._model.capture import layers, optimizers
from mlflow_ckpt._model.keras_private import compiled_model

# Settings of `compile` that Keras keeps in attributes, which may be changed afterwards.
_ATTRIBUTES = ("run_eagerly", "jit_compile", "steps_per_execution")
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Record:
    """How a model was compiled.

    Attributes:
        compile: Settings that no configuration holds, as docs/format.md describes them; None for
            an uncompiled model.
        optimizers: What each optimizer was built with, by its path.
        layers: Number of layers and positions of the frozen ones; None if unknown.
    """

    compile: dict[str, Any] | None
    optimizers: dict[str, Any]
    layers: dict[str, Any] | None


class Recorder:
    """Records how a model was compiled; what did not change is not looked up again."""

    def __init__(self) -> None:
        self._key: Any = None
        self._optimizers: dict[str, Any] = {}
        self._metrics: list[str] = []

    def record(self, model: keras.Model) -> Record:
        """Return the record of a built model."""
        key = (id(model), optimizers.state_key(model))
        if key != self._key:
            names = optimizers.names_of(model)
            self._optimizers = optimizers.record(model, names)
            self._metrics = _metric_names(model, names)
            self._key = key
        return Record(describe(model, self._metrics), self._optimizers, layers.record(model))


def describe(model: keras.Model, metrics: list[str] | None = None) -> dict[str, Any] | None:
    """Return the settings that no configuration holds; None for an uncompiled model.

    Args:
        model: The model.
        metrics: Names of the variables of its metrics.
    """
    if not getattr(model, "compiled", False):
        return None
    config = compiled_model.compile_arguments(model)
    described: dict[str, Any] = {"settings": _settings(model, config)}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not is_compiled_with(optimizer, config.get("optimizer")):
        value = serialized(optimizer)
        if value.problem is None:
            described["optimizer"] = value.value
    if overrides(model, "compile"):
        described["metrics"] = list(metrics or ())
        if not overrides(model, "compile_from_config"):
            own = own_arguments(model)
            described["arguments"], described["unknown"] = own.values, own.problems
    return described


def overrides(model: keras.Model, method: str) -> bool:
    """Whether the model's class overrides a method of `keras.Model`."""
    return getattr(type(model), method) is not getattr(keras.Model, method)


def _settings(model: keras.Model, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from what `compile_from_config` would set."""
    settings = {}
    for name in _ATTRIBUTES:
        value = getattr(model, name, None)
        if isinstance(value, (int, bool)) and value != config.get(name, value):
            settings[name] = value
    scaled = isinstance(getattr(model, "optimizer", None), keras.optimizers.LossScaleOptimizer)
    if model.dtype_policy.name == "mixed_float16" and not scaled:
        settings["auto_scale_loss"] = False
    return settings


def is_compiled_with(optimizer: Any, compiled: Any) -> bool:
    """Whether an optimizer is the one that `compile` got, or wraps it."""
    return compiled is optimizer or compiled is getattr(optimizer, "inner_optimizer", None)


def _metric_names(model: keras.Model, names: optimizers.Names) -> list[str]:
    metrics = [
        value
        for value in (*vars(model).values(), *getattr(model, "metrics", ()))
        if isinstance(value, keras.metrics.Metric)
    ]
    variables = {id(variable) for metric in metrics for variable in metric.variables}
    return [
        name
        for name, variable in names.items()
        if id(variable) in variables and not name.startswith("variables/")
    ]


@dataclass(frozen=True)
class Serialized:
    """A value as JSON, or the reason why it has none."""

    value: Any = None
    problem: str | None = None


def serialized(value: Any) -> Serialized:
    """Serialize a value as Keras does. A value that cannot be loaded again has a problem too."""
    if isinstance(value, _PLAIN):
        return Serialized(value)
    if isinstance(value, keras.Variable):
        return Serialized(keras.ops.convert_to_numpy(value).tolist())
    if isinstance(value, keras.layers.Layer):
        return Serialized(problem=f"it is a {type(value).__name__}, whose weights are not saved")
    try:
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(value)))
    except Exception as error:  # noqa: BLE001 - a get_config of the user's may raise anything
        return Serialized(problem=f"it cannot be serialized: {first_line(error)}")
    if holds_lambda(config):
        return Serialized(config, "it is a lambda, which Keras loads only in unsafe mode")
    return Serialized(config)


def holds_lambda(config: Any) -> bool:
    """Whether a configuration holds a lambda."""
    if isinstance(config, Mapping):
        return config.get("class_name") == "__lambda__" or any(map(holds_lambda, config.values()))
    return isinstance(config, list) and any(map(holds_lambda, config))


@dataclass(frozen=True)
class OwnArguments:
    """The arguments of a class's own `compile`.

    Attributes:
        values: Serialized arguments by name.
        problems: By name, why an argument is unknown or cannot be loaded again.
    """

    values: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def own_arguments(model: keras.Model) -> OwnArguments:
    """Find the arguments that a class's own `compile` was called with.

    They are what `compile` stored in attributes (`self.d_optimizer = d_optimizer`), and what it
    passed on to Keras's `compile`.
    """
    arguments = OwnArguments()
    for name, parameter in parameters(type(model)).items():
        found, value = _value_of(model, name)
        if not found:
            default = parameter.default is not inspect.Parameter.empty
            kept = "its default is used" if default else "and it has no default"
            arguments.problems[name] = f"compile() does not keep it in an attribute, {kept}"
            continue
        result = serialized(value)
        if result.problem is not None:
            arguments.problems[name] = result.problem
        if result.problem is None or result.value is not None:
            arguments.values[name] = result.value
    return arguments


def parameters(owner: type) -> dict[str, inspect.Parameter]:
    """Return the named parameters of a class's `compile`."""
    signature = inspect.signature(owner.compile)  # type: ignore[attr-defined]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {n: p for n, p in list(signature.parameters.items())[1:] if p.kind in named}


def takes_more(owner: type) -> bool:
    """Whether a class's `compile` takes arguments that it does not name."""
    signature = inspect.signature(owner.compile)  # type: ignore[attr-defined]
    return any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())


def _value_of(model: keras.Model, name: str) -> tuple[bool, Any]:
    """Return whether an argument of `compile` is known, and its value."""
    attributes, passed = _destinations(type(model).compile)
    config = compiled_model.compile_arguments(model)
    if name in attributes and hasattr(model, attributes[name]):
        return True, getattr(model, attributes[name])
    if passed.get(name) in config:
        return True, config[passed[name]]
    if config.get(name) is not None:
        return True, config[name]
    if name in vars(model):
        return True, vars(model)[name]
    return name in config, config.get(name)


@lru_cache(maxsize=64)
def _destinations(method: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Find what a `compile` does with its parameters, from its source.

    Returns:
        By parameter, the attribute that it is stored in; and by parameter, the argument of
        another `compile` that it is passed as. Both empty if there is no source.
    """
    attributes: dict[str, str] = {}
    passed: dict[str, str] = {}
    try:
        source = inspect.getsource(inspect.unwrap(method))
        tree = ast.parse(textwrap.dedent(source))
    except (OSError, SyntaxError, TypeError):
        return attributes, passed
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            attributes = dict(_stored(node)) | attributes
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "compile":
            passed |= dict(_passed(node))
    return attributes, passed


def _stored(node: ast.Assign) -> Iterator[tuple[str, str]]:
    """Yield the names that an assignment stores in attributes of `self`, and the attributes."""
    for target in node.targets:
        several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
        targets = target.elts if several else [target]  # type: ignore[attr-defined]
        values = node.value.elts if several else [node.value]  # type: ignore[attr-defined]
        for to, value in zip(targets, values, strict=False):
            if isinstance(to, ast.Attribute) and _is_self(to.value) and isinstance(value, ast.Name):
                yield value.id, to.attr


def _is_self(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id == "self"


def _passed(call: ast.Call) -> Iterator[tuple[str, str]]:
    positional = list(inspect.signature(keras.Model.compile).parameters)[1:]
    for argument, key in zip(call.args, positional, strict=False):
        if isinstance(argument, ast.Name):
            yield argument.id, key
    for keyword in call.keywords:
        if isinstance(keyword.value, ast.Name) and keyword.arg is not None:
            yield keyword.value.id, keyword.arg
