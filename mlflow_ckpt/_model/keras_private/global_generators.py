"""The global random generators of Keras and TensorFlow.

- `global_seed_generator`, in `global_state` and `seed_generator`, has Keras's global random state.
  Fallback: it is not saved; a saved one is reported as not restored.
- `_seed` and `_rng` of TensorFlow's `context`, and `global_generator` of `stateful_random_ops`, are
  its random state. Fallback: it is reported as not restored.
- `_seed` and `_rng` of TensorFlow's `context` also tell whether a training is repeatable. Fallback:
  `AttributeError`, with which the data count as unknown.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

_TF_CONTEXT = "tensorflow.python.eager.context"

_TF_GENERATORS = "tensorflow.python.ops.stateful_random_ops"

_CALLS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def global_seed_state() -> Any:
    """Return the state of Keras's global seed generator; None if it is unused or unknown."""
    try:
        from keras.src.backend.common import global_state

        generator = global_state.get_global_attribute("global_seed_generator")
    except (ImportError, AttributeError):  # pragma: no cover - another Keras
        return None
    return None if generator is None else generator.state


def set_global_seed_state(value: Any) -> None:
    """Set the state of Keras's global seed generator.

    Raises:
        AttributeError, ImportError: If Keras has changed.
        ValueError: If the state has another shape.
    """
    from keras.src.random import seed_generator

    seed_generator.global_seed_generator().state.assign(value)


def tensorflow_random_state() -> dict[str, Any]:
    """Return the state of TensorFlow's global random generators.

    Raises:
        AttributeError, KeyError: If TensorFlow has changed.
    """
    context = sys.modules[_TF_CONTEXT].context()
    state: dict[str, Any] = {"seed": context._seed}
    # Operations without a seed draw one from it.
    if context._seed is not None and context._rng is not None:
        version, words, gauss = context._rng.getstate()
        state["operations"] = [version, np.array(words, dtype=np.uint32), gauss]
    generator = sys.modules[_TF_GENERATORS].global_generator
    if generator is not None:
        state["generator"] = np.array(generator.state)
        state["algorithm"] = int(generator.algorithm)
    return state


def set_tensorflow_random_state(state: Mapping[str, Any]) -> None:
    """Set the state of TensorFlow's global random generators. Imports TensorFlow.

    Raises:
        AttributeError, ImportError, KeyError: If TensorFlow has changed, or is not installed.
        TypeError, ValueError: If the state does not fit.
    """
    context = import_module(_TF_CONTEXT).context()
    random_of_tf = sys.modules["tensorflow"].random
    if state["seed"] != context._seed:
        random_of_tf.set_seed(state["seed"])
    if "operations" in state:
        version, words, gauss = state["operations"]
        context._rng.setstate((version, tuple(int(word) for word in words), gauss))
    if "generator" in state:
        generator = random_of_tf.Generator.from_state(state["generator"], state["algorithm"])
        random_of_tf.set_global_generator(generator)


def tensorflow_is_seeded() -> bool:
    """Whether TensorFlow's operations draw their seeds from a generator that is restored."""
    return getattr(_loaded_context(), "_seed", None) is not None


def tensorflow_seed() -> tuple[int, int] | None:
    """Return the seed given to `tf.random.set_seed`, and the number of calls since; None without.

    Nothing is drawn from TensorFlow's generator.
    """
    context = _loaded_context()
    if context is None or context._seed is None or context._rng is None:
        return None
    # Setting a seed creates another generator.
    count = _CALLS.get(context._rng, 0)
    _CALLS[context._rng] = count + 1
    return int(context._seed), count


def _loaded_context() -> Any:
    """Return TensorFlow's context; None if it is not loaded."""
    module = sys.modules.get(_TF_CONTEXT)
    return None if module is None else module.context()
