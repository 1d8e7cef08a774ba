"""Puts back the state that Keras's files do not give back (`capture/census.py`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.capture import (
    census,
    layers,
    plain,
    random_generators,
    structure,
    variable_settings,
)
from mlflow_ckpt._model.capture.census import GENERATOR, SETTINGS, VARIABLE, WEIGHT_DECAY
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._model.keras_private import optimizer_internals
from mlflow_ckpt._shown.warn import warn

_COMPILED = ("optimizer", "loss", "metrics", "weighted_metrics")
_ABSENT = object()
Held = Mapping[str, Any]


class PutBack:
    """Puts state back into models, and collects what could not be put back.

    Args:
        shared: Objects by id that a training in this process uses too, and that stay as they are.

    Attributes:
        lost: Phrases that describe what could not be put back.
    """

    def __init__(self, shared: Mapping[int, Any] | None = None) -> None:
        self.lost: list[str] = []
        self._shared = shared or {}

    def warn(self) -> None:
        """Warn of what could not be put back."""
        if self.lost:
            warn(f"The loaded model differs from the one that was saved: {'; '.join(self.lost)}.")

    def into_rebuilt(
        self, model: keras.Model, state: TrainingState, *, compiled: bool = True, own: bool = False
    ) -> None:
        """Put all state back into a model that was rebuilt from its configuration.

        Args:
            model: The model, after Keras loaded its files.
            state: The training's state.
            compiled: Whether the model is compiled. If not, it lacks what `compile` creates.
            own: Whether the user compiled it, with settings that stay as they are.
        """
        held = state.state
        attributes = state.attributes or {}
        if not compiled:
            has = structure.members(model).keys() - set(_COMPILED)
            held = [item for item in held if _first(item["path"]) in has]
            attributes = {path: value for path, value in attributes.items() if _first(path) in has}
        self._state(model, held, optimizer=compiled)
        self._settings(model, state)
        for path, value in attributes.items():
            set_by_compile = _first(path) in (*_COMPILED, *_arguments(state))
            before = state.attributes_before.get(path, _ABSENT) if own and set_by_compile else None
            if before is not _ABSENT:
                self._attribute(model, path, value, only_if=before)

    def into_own(self, model: keras.Model, state: TrainingState) -> None:
        """Put all state back into a model that the user built and compiled.

        An attribute that changed in training is changed again if it has the value from before.
        Others that differ are the user's choice, and named.
        """
        self._state(model, state.state, optimizer=True)
        named = layers.variables_of_differing(model, state.layers)
        for variable, difference in _differing_settings(model, state):
            if id(variable) not in named:
                self._name(model, difference)
        for path, value in (state.attributes or {}).items():
            before = state.attributes_before.get(path, _ABSENT)
            if before is _ABSENT and path in _arguments(state):
                continue  # named as an argument of compile()
            self._attribute(model, path, value, only_if=before)

    def weights(self, model: keras.Model, state: TrainingState) -> None:
        """Put back the variables of the objects whose variables the model has all.

        Where it has no adapters, Keras loaded a kernel with the saved ones merged.
        """
        own = census.survey(model).variables
        held = [held for held in state.state if held["kind"] == VARIABLE]
        foreign = {_owner(item) for item in held if item["path"] not in own}
        self._state(model, [item for item in held if _owner(item) not in foreign], optimizer=False)

    @classmethod
    @contextmanager
    def keeping(cls, model: keras.Model) -> Iterator[None]:
        """Put back what the user's code changes in Python within the context.

        Keras calls it to learn the shapes of a model's outputs, which is no step of a training.
        """
        before = census.Census().in_python(model)
        put_back = cls()
        try:
            yield
        finally:
            for held in before.state:
                put_back._generator(model, vars(held))
            for path, value in before.attributes.items():
                put_back._attribute(model, path, value)
        put_back.warn()

    def _state(self, model: keras.Model, state: Sequence[Held], *, optimizer: bool) -> None:
        owners: dict[str, list[Held]] = defaultdict(list)
        for held in state:
            if held["kind"] == VARIABLE:
                owners[_owner(held)].append(held)
            elif held["kind"] == GENERATOR:
                self._generator(model, held)
            elif held["kind"] == WEIGHT_DECAY and optimizer:
                self._weight_decay(model, held)
        for group in owners.values():
            self._variables(model, group)

    def _settings(self, model: keras.Model, state: TrainingState) -> None:
        """Set the settings of variables, such as `trainable`, where they differ."""
        for variable, difference in _differing_settings(model, state):
            if id(variable) not in self._shared:
                try:
                    variable_settings.assign(variable, difference.name, difference.before)
                except (RuntimeError, TypeError, ValueError):  # RuntimeError: PyTorch's
                    self._name(model, difference)

    def _name(self, model: keras.Model, difference: variable_settings.Difference) -> None:
        before, now = difference.texts()
        self.lost.append(f"{difference.label(model)} was {before} and is {now}")

    def _variables(self, model: keras.Model, group: Sequence[Held]) -> None:
        """Assign the variables of one object: all or none, as Keras may have merged some."""
        found: list[tuple[Any, np.ndarray[Any, Any]]] = []
        for held in group:
            path, value = held["path"], held["value"]
            label = structure.label_of(model, path)
            try:
                variable = structure.resolve(model, path)
            except structure.MissingPathError:
                self.lost.append(f"{label} is missing, and its value is lost")
                return
            shape = tuple(getattr(variable, "shape", ()))
            if not structure.is_variable(variable) or shape != value.shape:
                self.lost.append(
                    f"{label} had the shape {list(value.shape)} and has {list(shape)}, so its "
                    "value is lost"
                )
                return
            found.append((variable, value))
        for variable, value in found:
            if id(variable) not in self._shared:
                structure.assign(variable, value)

    def _generator(self, model: keras.Model, held: Held) -> None:
        label = structure.label_of(model, held["path"])
        try:
            generator = structure.resolve(model, held["path"])
            if id(generator) not in self._shared:
                random_generators.set_state(generator, held["value"])
        except structure.MissingPathError:
            if random_generators.is_seed(held["value"]):
                return  # initializers are the user's choice, which few models use again
            self.lost.append(f"{label} is missing, and the state of this random generator is lost")
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            self.lost.append(f"the state of the random generator {label} cannot be set ({error})")

    def _weight_decay(self, model: keras.Model, held: Held) -> None:
        try:
            optimizer = structure.resolve(model, held["path"])
            variables = [structure.resolve(model, path) for path in held["value"]["variables"]]
        except structure.MissingPathError as error:
            label = structure.label_of(model, held["path"])
            self.lost.append(f"{label} excludes {error} from weight decay, which is missing")
            return
        keys = frozenset(
            optimizer_internals.variable_key(optimizer, variable) for variable in variables
        )
        excluded = optimizer_internals.WeightDecay(keys, held["value"]["names"])
        optimizer_internals.exclude_from_weight_decay(optimizer, excluded)

    def _attribute(self, model: keras.Model, path: str, value: Any, *, only_if: Any = None) -> None:
        """Set an attribute that differs, if it can be set.

        Args:
            model: The model.
            path: The attribute's path.
            value: Its saved value.
            only_if: If given, the value that it must have to be set; `_ABSENT` if none will do.
        """
        *inside, name = structure.parts(path)
        owner = model
        try:
            for part in inside:
                owner = structure.step(owner, part)
        except structure.MissingPathError:
            self.lost.append(f"{structure.label_of(model, path)} is missing")
            return
        current = _frozen(owner, name)
        if plain.equal(current, value) or id(owner) in self._shared:
            return
        if (only_if is not None and not plain.equal(current, only_if)) or not _set(
            owner, name, value
        ):
            now = "is missing" if current is _ABSENT else f"is {plain.text(current)}"
            label = structure.label_of(model, "/".join(path.split("/")[:-1]))
            self.lost.append(f"{label}: `{name}` was {plain.text(value)} and {now}")


def _arguments(state: TrainingState) -> Collection[str]:
    """Return the names of the arguments of a class's own `compile`."""
    arguments: Collection[str] = (state.compile or {}).get("arguments", {})
    return arguments


def _first(path: str) -> str:
    return next(iter(structure.parts(path)), "")


def _differing_settings(
    model: keras.Model, state: TrainingState
) -> Iterator[tuple[keras.Variable, variable_settings.Difference]]:
    """Yield variables whose settings differ from the saved ones, and how."""
    saved = next((held["value"] for held in state.state if held["kind"] == SETTINGS), None)
    if saved is not None:
        variables = census.survey(model).variables_outside_optimizers()
        for difference in variable_settings.differing(variables, saved):
            yield variables[difference.path], difference


def _owner(held: Held) -> str:
    return str(held["path"]).rpartition("/")[0]


def _frozen(owner: Any, name: str) -> Any:
    """Return a copy of an attribute's value; `_ABSENT` if it has none."""
    try:
        return plain.frozen(structure.step(owner, name))
    except structure.MissingPathError:
        return _ABSENT
    except plain.NotPlainError:
        return {plain.SUMMARIZED: "an object"}


def _set(owner: Any, name: str, value: Any) -> bool:
    """Set an attribute to a plain value; return whether that was possible."""
    if plain.is_summarized(value):
        return False
    current = structure.members(owner).get(name)
    try:
        structure.replace(owner, name, structure.like(current, value))
    except (AttributeError, IndexError, TypeError, ValueError):
        return False
    return True
