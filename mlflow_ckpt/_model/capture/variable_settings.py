"""Settings of single variables that no configuration holds: trainable, regularizer, constraint.

A layer's configuration has its arguments. What the training uses are attributes of its variables,
which scripts and callbacks may set: `layer.kernel.trainable = False`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from mlflow_ckpt._model.capture import plain, structure
from mlflow_ckpt._model.capture.compile_settings import Serialized, serialized

_DEFAULTS = {"trainable": True, "regularizer": None, "constraint": None}
_OBJECTS = ("regularizer", "constraint")
# Stands for an object that cannot be loaded again.
_UNKNOWN = "unknown"
Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Difference:
    """A setting of a variable that differs: its name, its value before, and the one now."""

    path: str
    name: str
    before: Any
    now: Any

    def label(self, model: keras.Model) -> str:
        """Return a readable name of the setting, such as `layer 'dense': kernel.trainable`."""
        label = structure.label_of(model, self.path).replace(": _", ": ")  # behind a property
        return f"{label}.{self.name}"

    def texts(self) -> tuple[str, str]:
        """Return both values as short text."""
        return plain.text(self.before), plain.text(self.now)


class VariableSettings:
    """Records the settings of variables; what did not change is not serialized again."""

    def __init__(self) -> None:
        self._serialized: dict[int, tuple[Any, list[Any], Serialized]] = {}
        self._begin: Settings | None = None

    def of(self, variables: Mapping[str, Any]) -> Settings:
        """Return the settings of variables by path, without those that have Keras's defaults."""
        return {
            path: settings
            for path, variable in variables.items()
            if isinstance(variable, keras.Variable) and (settings := self._of(variable))
        }

    def changed(self, now: Settings) -> Iterator[Difference]:
        """Yield what differs from the settings of the first call."""
        if self._begin is None:
            self._begin = now
        yield from _differences(self._begin, now)

    def _of(self, variable: keras.Variable) -> dict[str, Any]:
        settings: dict[str, Any] = {} if variable.trainable else {"trainable": False}
        for name in _OBJECTS:
            value = getattr(variable, name, None)
            if value is not None:
                result = self._serialize(value)
                settings[name] = _UNKNOWN if result.problem else result.value
        return settings

    def _serialize(self, value: Any) -> Serialized:
        attributes = list(getattr(value, "__dict__", {}).values())
        known = self._serialized.get(id(value))
        if known is None or not _same(known[1], attributes):
            known = self._serialized[id(value)] = value, attributes, serialized(value)
        return known[2]


def differing(variables: Mapping[str, Any], saved: Settings) -> Iterator[Difference]:
    """Yield how the settings of variables, by path, differ from the saved ones."""
    for difference in _differences(saved, VariableSettings().of(variables)):
        if difference.path in variables:  # else named as missing where its value is
            yield difference


def assign(variable: keras.Variable, name: str, value: Any) -> None:
    """Set a setting of a variable.

    Raises:
        TypeError, ValueError: If Keras cannot load it.
    """
    if isinstance(value, Mapping):
        value = keras.saving.deserialize_keras_object(dict(value))
    setattr(variable, name, value)


def _differences(before: Settings, now: Settings) -> Iterator[Difference]:
    for path in {**before, **now}:
        for name, default in _DEFAULTS.items():
            old = before.get(path, {}).get(name, default)
            new = now.get(path, {}).get(name, default)
            if old != new and _UNKNOWN not in (old, new):
                yield Difference(path, name, old, new)


def _same(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and all(a is b for a, b in zip(before, now, strict=True))
