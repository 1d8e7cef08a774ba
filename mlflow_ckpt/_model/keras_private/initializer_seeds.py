"""The seeds that initializers draw for themselves.

- `RandomInitializer._init_seed` is the seed that it was given, and `seed` the one that it uses.
  Fallback: an initializer that the user calls in training draws other numbers when it is resumed.
- `RandomInitializer` itself is not exported, but inherited from. Fallback: one that is made in a
  training step is not named.
"""

from __future__ import annotations

from typing import Any

import keras

_DRAWING = (keras.random.SeedGenerator, keras.initializers.RandomNormal.__bases__[0])


def drawn_seed(initializer: Any) -> int | None:
    """Return the seed that an initializer has drawn; None if it was given one or uses none."""
    attributes = getattr(initializer, "__dict__", {})
    if attributes.get("_init_seed", initializer) is not None:
        return None
    seed = attributes.get("seed")
    return seed if isinstance(seed, int) else None


def set_drawn_seed(initializer: Any, seed: int) -> None:
    """Set the seed of an initializer that has drawn one; anything else stays as it is."""
    if drawn_seed(initializer) is not None:
        vars(initializer)["seed"] = seed


def draws_a_seed(cls: Any) -> bool:
    """Whether a class of Keras's draws a seed when it is constructed, unless it is given one."""
    return isinstance(cls, type) and issubclass(cls, _DRAWING)
