"""Builds models on another thread than the one that trains.

- `global_state` has the settings of a thread, and `_SHARED` are the modules with which Keras draws
  default seeds and warns. Fallback: no checkpoint is loaded on trial.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import keras

from mlflow_ckpt._model.keras_private.keras_version import PrivateApiError

# Keras's settings of a thread that loading depends on.
_SETTINGS = ("custom_objects_scope_dict", "dtype_policy", "safe_mode_saving")

# Modules that Keras uses while it loads, and whose effects are not limited to a thread.
_SHARED = (
    ("keras.src.random.seed_generator", "python_random"),
    ("keras.src.saving.saving_lib", "warnings"),
    ("keras.src.optimizers.base_optimizer", "warnings"),
    ("keras.src.trainers.trainer", "warnings"),
)

_thread = threading.local()


class _OfThread:
    """A module, but for another object on a thread that is apart from training."""

    def __init__(self, shared: Any, own: Any) -> None:
        self._shared, self._own = shared, own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own if is_apart() else self._shared, name)


def is_apart() -> bool:
    """Whether this thread is in `apart_from_training`."""
    return getattr(_thread, "apart", False)


def thread_settings() -> dict[str, Any]:
    """Return Keras's settings of this thread that loading depends on."""
    try:
        from keras.src.backend.common import global_state
    except ImportError:  # pragma: no cover - another Keras
        return {}
    return {name: global_state.get_global_attribute(name) for name in _SETTINGS}


@contextmanager
def apart_from_training(settings: Mapping[str, Any]) -> Iterator[None]:
    """Build models on another thread without effect on a training, on the CPU.

    Keras counts names and keeps its settings by thread, but draws default seeds from Python's
    global generator, and warns through filters that are global too.

    Args:
        settings: From `thread_settings` on the thread that trains.

    Raises:
        PrivateApiError: If Keras has changed.
    """
    own = {"python_random": random.Random(0), "warnings": SimpleNamespace(warn=_ignore)}  # noqa: S311
    try:
        from keras.src.backend.common import global_state

        modules = [(import_module(name), attribute) for name, attribute in _SHARED]
        shared = [getattr(module, attribute) for module, attribute in modules]
    except (AttributeError, ImportError) as error:  # pragma: no cover - another Keras
        raise PrivateApiError(str(error)) from error
    for (module, attribute), value in zip(modules, shared, strict=True):
        setattr(module, attribute, _OfThread(value, own[attribute]))
    for name, value in settings.items():
        global_state.set_global_attribute(name, value)
    _thread.apart = True
    # PyTorch copies a parameter of the device "cpu" to "cpu:0", to a tensor that is no parameter.
    device = "cpu" if keras.config.backend() == "torch" else "cpu:0"
    try:
        with keras.device(device):
            yield
    finally:
        _thread.apart = False
        for (module, attribute), value in zip(modules, shared, strict=True):
            setattr(module, attribute, value)


def _ignore(*_: Any, **__: Any) -> None:
    pass
