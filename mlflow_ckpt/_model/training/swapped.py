"""The weights that `SwapEMAWeights` drops at the end of a training's last epoch.

At the end of an epoch, it swaps the weights with their averages. After the last one, it overwrites
the averages, which then hold the weights, so a training that goes on could not swap them back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.keras_private import callback_internals, optimizer_internals
from mlflow_ckpt.errors import IntegrityError


class DroppedWeights:
    """Copies the weights before `SwapEMAWeights` drops them.

    Args:
        callbacks: All callbacks of a training.
    """

    def __init__(self, callbacks: Iterable[keras.callbacks.Callback]) -> None:
        self._arrays: list[np.ndarray[Any, Any]] = []
        for callback in callbacks:
            if isinstance(callback, keras.callbacks.SwapEMAWeights) and callback.swap_on_epoch:
                callback_internals.before_finalizing(callback, partial(self._copy, callback))

    def _copy(self, callback: keras.callbacks.Callback) -> None:
        self._arrays = [
            np.array(keras.ops.convert_to_numpy(average), copy=True)
            for average in optimizer_internals.moving_averages(callback.model)
        ]

    def take(self) -> list[np.ndarray[Any, Any]]:
        """Return the weights that were dropped since the last call."""
        arrays, self._arrays = self._arrays, []
        return arrays


def restore(model: keras.Model, weights: Sequence[np.ndarray[Any, Any]]) -> None:
    """Put dropped weights in the place of the averages, from where they are swapped back.

    Raises:
        IntegrityError: If they do not fit.
    """
    averages = optimizer_internals.moving_averages(model)
    if [tuple(average.shape) for average in averages] != [value.shape for value in weights]:
        raise IntegrityError(
            "The weights that SwapEMAWeights dropped, as training_state.json holds them, do not "
            "fit the optimizer's averages."
        )
    for average, value in zip(averages, weights, strict=True):
        average.assign(value)
