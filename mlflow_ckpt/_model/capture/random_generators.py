"""Random generators that an object holds, other than Keras's: their states.

An initializer that got no seed has drawn one itself, which no configuration holds.
"""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.keras_private import initializer_seeds


def state_of(generator: Any) -> dict[str, Any]:
    """Return the state of a generator of Python, NumPy, TensorFlow or PyTorch, or an initializer.

    The result consists of plain values and arrays.
    """
    if isinstance(generator, np.random.Generator):
        return {"numpy": generator.bit_generator.state}
    if isinstance(generator, np.random.RandomState):
        return {"legacy": generator.get_state(legacy=False)}
    if isinstance(generator, random.Random):
        version, words, gauss = generator.getstate()
        return {"python": [version, np.array(words, dtype=np.uint32), gauss]}
    if isinstance(generator, keras.initializers.Initializer):
        return {"initializer": initializer_seeds.drawn_seed(generator)}
    if hasattr(generator, "get_state"):
        return {"torch": np.array(generator.get_state())}
    return {"tensorflow": np.array(generator.state), "algorithm": int(generator.algorithm)}


def set_state(generator: Any, state: dict[str, Any]) -> None:
    """Set the state of a generator of the same kind.

    Raises:
        AttributeError, KeyError, RuntimeError, TypeError, ValueError: If it is of another kind.
    """
    if is_seed(state):
        initializer_seeds.set_drawn_seed(generator, state["initializer"])
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state["numpy"]
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state["legacy"])
    elif isinstance(generator, random.Random):
        version, words, gauss = state["python"]
        generator.setstate((version, tuple(int(word) for word in words), gauss))
    elif hasattr(generator, "get_state"):
        saved = generator.get_state()
        saved[:] = type(saved)(state["torch"])
        generator.set_state(saved)
    elif int(generator.algorithm) != state["algorithm"]:
        raise ValueError(f"its algorithm is {int(generator.algorithm)}")
    else:
        generator.reset(state["tensorflow"])


def is_seed(state: dict[str, Any]) -> bool:
    """Whether a state is the seed of an initializer."""
    return "initializer" in state
