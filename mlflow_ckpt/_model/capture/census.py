"""The census of a model: all state that can be reached from it, and which of it Keras saves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import is_
from types import FunctionType
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.capture import plain, random_generators, structure
from mlflow_ckpt._model.capture.code_origin import package_of
from mlflow_ckpt._model.capture.random_calls import TENSORFLOW, Calls
from mlflow_ckpt._model.capture.script_state import ScriptState
from mlflow_ckpt._model.capture.variable_settings import Settings, VariableSettings
from mlflow_ckpt._model.keras_private import (
    compiled_model,
    global_generators,
    layer_adapters,
    optimizer_internals,
    torch_parameters,
)

# More objects than any model has: beyond this number, the walk follows the user's own data.
MOST_OBJECTS = 50_000
# Of a path, in characters: longer ones follow a chain of the user's own.
LONGEST_PATH = 4000
_LOOKUPS = (keras.layers.StringLookup, keras.layers.IntegerLookup)
# What stands in the file for state, by kind.
VARIABLE, GENERATOR, WEIGHT_DECAY = "variable", "generator", "weight_decay"
ADAPTATION, SETTINGS = "adaptation", "settings"
Copy = Callable[[str, Any], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Held:
    """One piece of state that Keras's files do not give back.

    Attributes:
        path: Its path from the model.
        kind: `"variable"`, `"generator"`, `"weight_decay"`, `"settings"` of variables, or
            `"adaptation"`: how a layer was quantized and given LoRA adapters, which its
            configuration may lack.
        value: Its value: plain values and arrays.
    """

    path: str
    kind: str
    value: Any


@dataclass(frozen=True)
class Taken:
    """The state beside Keras's files at one moment.

    Attributes:
        state: What is put back when the model is rebuilt.
        attributes: Plain attributes of the model's objects, by path.
        before: Those that changed since the training began, with their values then.
        unsaved: Phrases that describe state which cannot be saved.
    """

    state: list[Held] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    unsaved: list[str] = field(default_factory=list)


@dataclass
class Plan:
    """What a walk found, to be read again without another walk.

    Attributes:
        variables: Variables by path, in the order of the walk.
        generators: Random generators other than Keras's, by path.
        optimizers: Optimizers by path.
        scalars: Attributes that can only be replaced, by path.
        mutable: Attributes that may change in place: their owner and name, by path.
        iterators: Paths of iterators.
        tables: Paths of TensorFlow's tables that can change.
        functions: Functions by path.
        adaptations: How layers were quantized, and given adapters.
        objects: The objects that the walk looked into, by path.
    """

    variables: dict[str, Any] = field(default_factory=dict)
    generators: dict[str, Any] = field(default_factory=dict)
    optimizers: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, Any] = field(default_factory=dict)
    mutable: dict[str, tuple[Any, str]] = field(default_factory=dict)
    iterators: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    functions: dict[str, FunctionType] = field(default_factory=dict)
    adaptations: list[Held] = field(default_factory=list)
    objects: dict[str, Any] = field(default_factory=dict)

    def variables_outside_optimizers(self) -> dict[str, Any]:
        """Return the variables of the model and its layers, losses and metrics, by path."""
        inside = tuple(f"{path}/" for path in self.optimizers)
        return {p: variable for p, variable in self.variables.items() if not p.startswith(inside)}

    def by_id(self) -> dict[int, Any]:
        """Return all that state was found in, by id."""
        found = [*self.variables.values(), *self.generators.values(), *self.objects.values()]
        return {id(item): item for item in found}


def survey(model: keras.Model) -> Plan:
    """Walk through everything that is reached from a model, nearest first."""
    plan = Plan()
    # All that was seen stays referenced, so that no other object gets the same id.
    seen: dict[int, Any] = {id(model): model}
    waiting = deque([("", model)])
    while waiting and len(plan.objects) < MOST_OBJECTS:
        path, item = waiting.popleft()
        plan.objects[path] = item
        if isinstance(item, keras.optimizers.Optimizer):
            plan.optimizers[path] = item
        elif isinstance(item, keras.layers.Layer):
            adaptation = layer_adapters.adaptation_of(item)
            if adaptation is not None:
                plan.adaptations.append(Held(path, ADAPTATION, adaptation))
        for name, value in structure.children(item):
            inner = structure.joined(path, name)
            if plain.is_scalar(value):
                if not structure.is_managed(item, name):
                    plan.scalars[inner] = value
            elif id(value) not in seen:
                seen[id(value)] = value
                inside = _record(plan, item, name, inner, value)
                if inside and len(inner) <= LONGEST_PATH:
                    waiting.append((inner, value))
    return plan


def _record(plan: Plan, owner: Any, name: str, path: str, value: Any) -> bool:
    """Record one value; return whether to look inside of it."""
    if structure.is_variable(value):
        if not _begins_anew(owner):
            plan.variables[path] = value
        return False
    if structure.is_generator(value):
        plan.generators[path] = value
        return False
    if structure.is_mutable_table(value):
        # Keras's own layers change theirs only when they are adapted.
        if not isinstance(owner, _LOOKUPS):
            plan.tables.append(path)
        return False
    if isinstance(value, FunctionType):
        if package_of(value) != "keras":
            plan.functions[path] = value
        if not structure.is_managed(owner, name):
            plan.mutable[path] = (owner, name)
        return structure.holds_state(value)
    if structure.is_managed(owner, name) and not isinstance(value, structure.CONTAINERS):
        return structure.holds_state(value)
    try:
        plain.frozen(value)
    except plain.NotPlainError:
        if isinstance(value, Iterator):
            plan.iterators.append(path)
            return False
        return structure.holds_state(value)
    if not structure.is_managed(owner, name):
        plan.mutable[path] = (owner, name)
    return False


def _begins_anew(owner: Any) -> bool:
    """Whether an object's variables are those of a metric that begins every epoch anew.

    Within an epoch, all variables of metrics are saved elsewhere.
    """
    reset = getattr(type(owner), "reset_state", None)
    return isinstance(owner, keras.metrics.Metric) and package_of(reset) == "keras"


def _metrics_that_begin_anew(model: keras.Model) -> Iterator[keras.metrics.Metric]:
    """Yield metrics, which may be variables of the script that a class's own `metrics` returns."""
    yield from filter(_begins_anew, getattr(model, "metrics", ()))


class Census:
    """Takes the state beside Keras's files, again and again, of a model that is being trained.

    The walk is repeated only if the structure changed. This is found by comparing all attributes
    and members with those at the walk, by identity.
    """

    def __init__(self) -> None:
        self._model: keras.Model | None = None
        self._plan = Plan()
        self._nodes: list[_Node] = []
        self._scalars: dict[str, Any] = {}
        self._begin: dict[str, Any] | None = None
        self._calls = Calls({}, {})
        self._known: tuple[bool, list[str]] | None = None
        self._script = ScriptState()
        self._settings = VariableSettings()
        self._own_variables: dict[str, Any] = {}

    def take(
        self,
        model: keras.Model,
        saved: Iterable[Any],
        copy: Copy,
        *,
        optimizer: bool = True,
    ) -> Taken:
        """Take the state of a model.

        Args:
            model: A built model.
            saved: The variables that are saved elsewhere.
            copy: Copies a tensor to the host, given a name and its value.
            optimizer: Whether to take the state of optimizers.
        """
        self._refresh(model)
        plan = self._plan
        skipped = {id(variable) for variable in saved}
        for path, item in plan.optimizers.items():
            # Keras saves their values, if not always the variables themselves.
            if _is_saved(plan, path):
                skipped |= {id(variable) for variable in item.variables}
        if not optimizer:
            outside = self._own_variables
            skipped |= {id(v) for path, v in plan.variables.items() if path not in outside}
        unsaved: list[str] = []
        state = list(_variables(model, plan, skipped, copy, unsaved))
        state += _generators(plan)
        state += plan.adaptations
        settings = self._settings.of(self._own_variables)
        state.append(Held("", SETTINGS, settings))
        if optimizer:
            state += _weight_decay(plan)
        attributes = self._attributes()
        if self._begin is None:
            self._begin = attributes
        before = {
            path: self._begin[path]
            for path, value in attributes.items()
            if path in self._begin
            and value is not self._begin[path]
            and not plain.equal(value, self._begin[path])
        }
        unsaved += self._script.changed()
        unsaved += self._inexact(model, attributes, before, settings)
        return Taken(state, attributes, before, unsaved)

    def in_python(self, model: keras.Model) -> Taken:
        """Take the state that is in no variable: random generators, and plain attributes."""
        self._refresh(model)
        return Taken(list(_generators(self._plan)), self._attributes())

    def _inexact(
        self,
        model: keras.Model,
        attributes: Mapping[str, Any],
        before: Mapping[str, Any],
        settings: Settings,
    ) -> list[str]:
        """Return phrases that describe state which cannot be saved."""
        compiled = compiled_model.runs_compiled(model)
        if self._known is None or self._known[0] != compiled:
            self._calls = Calls(self._plan.objects, self._plan.functions)
            self._known = (compiled, list(_unknown(model, self._plan, self._calls, compiled)))
        phrases = list(self._known[1])
        for path, value in before.items() if compiled else ():
            owner, _, name = path.rpartition("/")
            if self._calls.reads(owner, name):
                label = structure.label_of(model, owner)
                phrases.append(
                    f"{label}: `{name}` changed from {plain.text(value)} to "
                    f"{plain.text(attributes[path])} in training, but a compiled step keeps the "
                    "value with which it was compiled"
                )
        for difference in self._settings.changed(settings):
            if compiled and difference.name != "trainable":  # told when the training is resumed
                old, new = difference.texts()
                phrases.append(
                    f"{difference.label(model)} changed from {old} to {new} in training, but a "
                    "compiled step keeps the one with which it was compiled"
                )
        return phrases

    def _refresh(self, model: keras.Model) -> None:
        scalars, mutable = self._scalars, self._plan.mutable
        if model is self._model and all(
            node.is_unchanged(scalars, mutable) for node in self._nodes
        ):
            return
        self._model, self._known = model, None
        plan = self._plan = survey(model)
        self._own_variables = plan.variables_outside_optimizers()
        known = plan.by_id() | {id(metric): metric for metric in _metrics_that_begin_anew(model)}
        self._script.look_at(plan.objects, plan.functions, known)
        self._scalars = dict(plan.scalars)
        self._nodes = [_Node(path, item) for path, item in plan.objects.items()]

    def _attributes(self) -> dict[str, Any]:
        attributes = dict(self._scalars)
        for path, (owner, name) in self._plan.mutable.items():
            try:
                attributes[path] = plain.frozen(structure.step(owner, name))
            except (plain.NotPlainError, structure.MissingPathError):
                self._model = None  # walk again the next time
        return attributes


class _Node:
    """An object or container, with the references that it had when the walk looked into it."""

    __slots__ = ("_ignored", "_names", "_path", "_read", "_values")

    def __init__(self, path: str, item: Any) -> None:
        self._path = path
        self._read = structure.reader_of(item)
        self._ignored = structure.ignored_in(item)
        content = self._read()
        self._names, self._values = list(content), list(_values(content))

    def is_unchanged(self, scalars: dict[str, Any], mutable: Mapping[str, Any]) -> bool:
        """Whether there is no new object in it; note scalars that were replaced by others."""
        content = self._read()
        values = _values(content)
        if len(content) == len(self._values) and all(map(is_, values, self._values)):
            return True
        if not isinstance(content, dict) or list(content) != self._names:
            return False
        for index, (name, value) in enumerate(content.items()):
            if value is self._values[index]:
                continue
            path = structure.joined(self._path, str(name))
            if path in scalars and plain.is_scalar(value):
                scalars[path] = value
            elif path not in mutable and name not in self._ignored:
                return False
            self._values[index] = value
        return True


def _unknown(model: keras.Model, plan: Plan, calls: Calls, compiled: bool) -> Iterator[str]:
    """Yield phrases that describe positions and random states which no file can hold."""
    for path in plan.tables:
        yield f"{structure.label_of(model, path)} is a table of TensorFlow, which cannot be saved"
    for path in plan.iterators:
        yield f"{structure.label_of(model, path)} is an iterator, whose position cannot be saved"
    for path in torch_parameters.paths_without_reset(model):
        yield (
            f"several variables have the path {path!r}, and on PyTorch, Keras adds up the "
            "gradients of all but one of them from step to step (give layers different names)"
        )
    for path, owner, call, seeded in calls.draws():
        label = structure.label_of(model, path)
        if owner != TENSORFLOW:
            if compiled:
                yield (
                    f"{label} calls {call}, which draws from {owner} only while the step is "
                    "compiled, so a resumed training draws other numbers"
                )
        elif compiled or seeded or not global_generators.tensorflow_is_seeded():
            yield (
                f"{label} calls {call}, a random operation of TensorFlow whose state cannot be "
                "saved (keras.random with a SeedGenerator can)"
            )


def _values(content: Any) -> Any:
    return content.values() if isinstance(content, dict) else content


def _variables(
    model: keras.Model, plan: Plan, skipped: set[int], copy: Copy, unsaved: list[str]
) -> Iterator[Held]:
    for path, variable in plan.variables.items():
        if id(variable) not in skipped:
            try:
                yield Held(path, VARIABLE, copy(f"state/{path}", variable))
            except (AttributeError, RuntimeError, TypeError, ValueError) as error:
                unsaved.append(f"{structure.label_of(model, path)} cannot be read: {error}")


def _is_saved(plan: Plan, path: str) -> bool:
    """Whether a path leads through objects only that Keras looks into when it saves a model."""
    while path:
        path = path.rpartition("/")[0]
        if not structure.is_walked_by_keras(plan.objects[path]):
            return False
    return True


def _generators(plan: Plan) -> Iterator[Held]:
    for path, generator in plan.generators.items():
        yield Held(path, GENERATOR, random_generators.state_of(generator))


def _weight_decay(plan: Plan) -> Iterator[Held]:
    for path, optimizer in plan.optimizers.items():
        excluded = optimizer_internals.weight_decay_of(optimizer)
        if excluded is not None:
            keys = paths_by_key(plan, optimizer)
            paths = [keys[key] for key in excluded.keys if key in keys]
            yield Held(path, WEIGHT_DECAY, {"variables": sorted(paths), "names": excluded.pattern})


def paths_by_key(plan: Plan, optimizer: Any) -> Mapping[Any, str]:
    """Return the paths of variables by the keys under which an optimizer knows them."""
    return {
        optimizer_internals.variable_key(optimizer, variable): path
        for path, variable in plan.variables.items()
        if isinstance(variable, keras.Variable)
    }
