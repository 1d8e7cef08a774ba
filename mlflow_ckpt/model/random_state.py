"""The states of the random generators that a training may draw from, besides the model's own."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from mlflow_ckpt.model import keras_private

_PYTHON, _NUMPY, _KERAS = "python", "numpy", "keras"


def capture() -> dict[str, Any]:
    """Return the states of Python's, NumPy's, Keras's and the backend's global generators."""
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        _PYTHON: [version, np.array(words, dtype=np.uint32), gauss],
        _NUMPY: np.random.get_state(legacy=False),
    }
    seed = keras_private.global_seed_state()
    if seed is not None:
        state[_KERAS] = np.array(keras.ops.convert_to_numpy(seed), copy=True)
    name = keras.config.backend()
    backend = _BACKENDS.get(name)
    if backend is not None:
        state[name] = backend[0]()
    return state


def restore(state: Mapping[str, Any]) -> list[str]:
    """Put the states back.

    Returns:
        What could not be put back, and why.
    """
    problems = []
    name = keras.config.backend()
    # Keras's first: if it must be made anew, it draws its seed from Python's.
    for key, value in sorted(state.items(), key=lambda item: item[0] != _KERAS):
        try:
            if key == _PYTHON:
                version, words, gauss = value
                random.setstate((version, tuple(int(word) for word in words), gauss))
            elif key == _NUMPY:
                np.random.set_state(value)
            elif key == _KERAS:
                keras_private.set_global_seed_state(value)
            elif key == name and name in _BACKENDS:
                _BACKENDS[name][1](value)
            else:
                problems.append(f"the random generators of {key}: the backend is {name} now")
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            problems.append(f"the random generator of {key}: {error}")
    return problems


def _capture_tensorflow() -> dict[str, Any]:
    # Keras has imported it; this package itself is neutral to the backend.
    context = sys.modules["tensorflow.python.eager.context"].context()
    state: dict[str, Any] = {"seed": context._seed}
    # What operations without a seed of their own draw theirs from.
    if context._seed is not None and context._rng is not None:
        version, words, gauss = context._rng.getstate()
        state["operations"] = [version, np.array(words, dtype=np.uint32), gauss]
    generator = sys.modules["tensorflow.python.ops.stateful_random_ops"].global_generator
    if generator is not None:
        state["generator"] = np.array(generator.state)
        state["algorithm"] = int(generator.algorithm)
    return state


def _restore_tensorflow(state: Mapping[str, Any]) -> None:
    random_of_tf = sys.modules["tensorflow"].random
    context = sys.modules["tensorflow.python.eager.context"].context()
    if state["seed"] != context._seed:
        random_of_tf.set_seed(state["seed"])
    if "operations" in state:
        version, words, gauss = state["operations"]
        context._rng.setstate((version, tuple(int(word) for word in words), gauss))
    if "generator" in state:
        generator = random_of_tf.Generator.from_state(state["generator"], state["algorithm"])
        random_of_tf.set_global_generator(generator)


def _capture_torch() -> dict[str, Any]:
    torch = sys.modules["torch"]
    state: dict[str, Any] = {"cpu": np.array(torch.get_rng_state())}
    if torch.cuda.is_available():
        state["cuda"] = [np.array(each) for each in torch.cuda.get_rng_state_all()]
    return state


def _restore_torch(state: Mapping[str, Any]) -> None:
    torch = sys.modules["torch"]
    torch.set_rng_state(torch.from_numpy(np.array(state["cpu"])))
    if "cuda" in state:
        torch.cuda.set_rng_state_all([torch.from_numpy(np.array(each)) for each in state["cuda"]])


# JAX has no global generator.
_BACKENDS = {
    "tensorflow": (_capture_tensorflow, _restore_tensorflow),
    "torch": (_capture_torch, _restore_torch),
}
