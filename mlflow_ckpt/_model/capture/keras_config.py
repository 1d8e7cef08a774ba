"""Keras's settings of the process, which take part in what a training computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

_Config = dict[str, Any]


def current() -> _Config:
    """Return the settings that a training in this process uses."""
    return {
        "floatx": keras.config.floatx(),
        "epsilon": keras.config.epsilon(),
        "image_data_format": keras.config.image_data_format(),
    }


@contextmanager
def building_with(policy: str, floatx: str) -> Iterator[None]:
    """Build and compile models as with a dtype policy and float type, within the context.

    They are settings of the whole process: set only if they differ.
    """
    before, float_before = keras.config.dtype_policy(), keras.config.floatx()
    if (policy, floatx) == (before.name, float_before):
        yield
        return
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_floatx(float_before)
        keras.config.set_dtype_policy(before)
