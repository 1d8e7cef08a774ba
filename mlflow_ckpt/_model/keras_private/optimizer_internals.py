"""What optimizers keep in private attributes.

- `Optimizer._trainable_variables` are those an optimizer was built with. Fallback: none, and the
  optimizer is built with the model's trainable variables.
- `MultiOptimizer._optimizer_map` tells which optimizer a variable belongs to. Fallback: as Keras
  assigns them.
- `_model_variables_moving_average` are the averages that `SwapEMAWeights` drops. Fallback: resuming
  from there is reported.
- `_exclude_from_weight_decay`, its pattern and cache, and `_var_key` are what an optimizer excludes
  from weight decay. Fallback: it excludes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras


def variable_names(model: keras.Model) -> dict[str, str]:
    """Return the names of the optimizer's variables, which its weights lack, by their paths."""
    optimizer = getattr(model, "optimizer", None)
    return {} if optimizer is None else dict(_optimizer_names(optimizer, "optimizer"))


def _optimizer_names(optimizer: Any, path: str) -> Iterator[tuple[str, str]]:
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        yield from _optimizer_names(inner, f"{path}/inner_optimizer")
    for index, variable in enumerate(optimizer.variables):
        yield f"{path}/vars/{index}", variable.name


def optimized_variables(optimizer: Any) -> list[Any]:
    """Return the variables that a built optimizer was built with; empty if unknown."""
    return list(getattr(optimizer, "_trainable_variables", ()))


def inner_optimizers(optimizer: Any) -> list[Any]:
    """Return the optimizers among which a `MultiOptimizer` divides the variables."""
    multi = getattr(keras.optimizers, "MultiOptimizer", None)
    return list(optimizer.optimizers) if multi and isinstance(optimizer, multi) else []


@contextmanager
def dividing(optimizer: Any, choose: Callable[[Any], Any]) -> Iterator[None]:
    """Have a `MultiOptimizer` divide variables by a function, not by the paths of variables.

    A variable's path contains the model's name, which a reloaded model's variables lack.
    """
    before = getattr(optimizer, "_optimizer_map", None)
    optimizer._optimizer_map = choose
    try:
        yield
    finally:
        optimizer._optimizer_map = before


def moving_averages(model: keras.Model) -> list[Any]:
    """Return the moving averages of a model's weights, optimizer by optimizer."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    found = []
    for item in getattr(optimizer, "optimizers", None) or [optimizer]:
        if getattr(item, "use_ema", False):
            found += list(getattr(item, "_model_variables_moving_average", []))
    return found


@dataclass(frozen=True)
class WeightDecay:
    """What an optimizer excludes from weight decay.

    Attributes:
        keys: Keys of the excluded variables, as `variable_key` returns them.
        pattern: Regular expression that the names of excluded variables match; None for none.
    """

    keys: frozenset[Any]
    pattern: str | None


def weight_decay_of(optimizer: Any) -> WeightDecay | None:
    """Return what an optimizer excludes from weight decay; None if it excludes nothing."""
    keys = getattr(optimizer, "_exclude_from_weight_decay", None)
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    if not keys and pattern is None:
        return None
    return WeightDecay(frozenset(keys or ()), None if pattern is None else pattern.pattern)


def exclude_from_weight_decay(optimizer: Any, excluded: WeightDecay) -> None:
    """Set what an optimizer that is already built excludes from weight decay."""
    optimizer._exclude_from_weight_decay = set(excluded.keys)
    optimizer._exclude_from_weight_decay_pattern = (
        None if excluded.pattern is None else re.compile(excluded.pattern)
    )
    optimizer._exclude_from_weight_decay_cache = {}


def variable_key(optimizer: Any, variable: keras.Variable) -> Any:
    """Return the key under which an optimizer knows a variable; None if Keras has changed."""
    key = getattr(optimizer, "_var_key", None)
    return None if key is None else key(variable)
