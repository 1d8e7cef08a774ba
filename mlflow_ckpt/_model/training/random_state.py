"""Captures and restores the global random generators that a training may use."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.keras_private import global_generators

_PYTHON, _NUMPY, _KERAS = "python", "numpy", "keras"


def capture() -> dict[str, Any]:
    """Return the states of the global generators of Python, NumPy, Keras, TensorFlow and PyTorch.

    TensorFlow and PyTorch are included only if loaded: data may use them with any backend.
    """
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        _PYTHON: [version, np.array(words, dtype=np.uint32), gauss],
        _NUMPY: np.random.get_state(legacy=False),
    }
    seed = global_generators.global_seed_state()
    if seed is not None:
        state[_KERAS] = np.array(keras.ops.convert_to_numpy(seed), copy=True)
    for name, (module, get_state, _) in _LIBRARIES.items():
        if module in sys.modules:
            try:
                state[name] = get_state()
            except (AttributeError, KeyError):  # pragma: no cover - another version of it
                state[name] = None
    return state


def capture_drawn() -> dict[str, Any]:
    """Return the states of the generators that code which produces data may draw from."""
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        _PYTHON: [version, np.array(words, dtype=np.uint32), gauss],
        _NUMPY: np.random.get_state(legacy=False),
    }
    if "torch" in sys.modules:
        state["torch"] = _capture_torch()
    return state


def restore(state: Mapping[str, Any]) -> list[str]:
    """Restore the states.

    Returns:
        Phrases that describe the states that could not be restored.
    """
    problems = []
    # Keras's first: if it has to be created, it draws its seed from Python's.
    for key, value in sorted(state.items(), key=lambda item: item[0] != _KERAS):
        try:
            if key == _PYTHON:
                version, words, gauss = value
                random.setstate((version, tuple(int(word) for word in words), gauss))
            elif key == _NUMPY:
                np.random.set_state(value)
            elif key == _KERAS:
                global_generators.set_global_seed_state(value)
            elif key in _LIBRARIES and value is not None:
                # The training may use a library that is not loaded yet.
                import_module(_LIBRARIES[key][0])
                _LIBRARIES[key][2](value)
            else:
                problems.append(f"the state of {key}'s random generator is not known")
        except (
            AttributeError,
            ImportError,
            LookupError,
            OverflowError,
            TypeError,
            ValueError,
            RuntimeError,
        ) as error:
            problems.append(f"the random generator of {key}: {error}")
    return problems


def _capture_torch() -> dict[str, Any]:
    torch = sys.modules["torch"]
    state: dict[str, Any] = {"cpu": np.array(torch.get_rng_state())}
    if torch.cuda.is_available():
        state["cuda"] = [np.array(gpu) for gpu in torch.cuda.get_rng_state_all()]
    return state


def _restore_torch(state: Mapping[str, Any]) -> None:
    torch = sys.modules["torch"]
    torch.set_rng_state(torch.from_numpy(np.array(state["cpu"])))
    if "cuda" in state:
        torch.cuda.set_rng_state_all([torch.from_numpy(np.array(gpu)) for gpu in state["cuda"]])


# JAX has no global generator. The libraries are accessed by name, as the package does not depend on
# any backend.
_LIBRARIES = {
    "tensorflow": (
        "tensorflow",
        global_generators.tensorflow_random_state,
        global_generators.set_tensorflow_random_state,
    ),
    "torch": ("torch", _capture_torch, _restore_torch),
}
