"""The states of Keras's callbacks, and what it has still to tell them.

- Attributes of callbacks (`CALLBACK_STATE`) are their states. Fallback: a missing one is None.
- Attributes that Keras sets in each callback (`SET_BY_KERAS`) are no state. Fallback: what changes
  in others counts as the callback's state.
- `CallbackList._futures` are the reports of steps that Keras makes on other threads. Fallback: one
  that is late is not waited for.
- `SwapEMAWeights._finalize_ema_values` overwrites weights, which are copied before. Fallback:
  resuming from there is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait
from typing import Any

import keras

# Attributes that Keras sets in each callback.
SET_BY_KERAS = frozenset({"model", "_model", "params", "validation_data"})
# Attributes that change during training, by class.
CALLBACK_STATE: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
    ),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}


def await_reports(callbacks: keras.callbacks.CallbackList | None) -> None:
    """Wait until callbacks have been told of all steps, which Keras may do on another thread."""
    wait(list(getattr(callbacks, "_futures", ())))


def before_finalizing(callback: Any, function: Callable[[], None]) -> None:
    """Call a function once, before a `SwapEMAWeights` overwrites the averages for good."""

    def finalize() -> None:
        del callback._finalize_ema_values
        function()
        callback._finalize_ema_values()

    if hasattr(callback, "_finalize_ema_values"):
        callback._finalize_ema_values = finalize
