"""The variants to compare: Keras callbacks that save after each epoch, and no callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import mlflow

import mlflow_ckpt

PLAIN = "none"
MLFLOW_CALLBACK = "mlflow-callback"
LOG_MODEL = "log-model"
FULL = "full"


@dataclass(frozen=True)
class Variant:
    """A way to save checkpoints.

    Attributes:
        name: Name on the command line.
        title: Title in the tables.
        make: Creates the callback, given a directory for plain files; None for no callback.
        proof: Glob pattern of a file that each complete save writes exactly once.
    """

    name: str
    title: str
    make: Callable[[Path], keras.callbacks.Callback] | None
    proof: str


class LogModelEachEpoch(keras.callbacks.Callback):  # type: ignore[misc]
    """Logs the model with `mlflow.keras.log_model` after each epoch."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002
        """Log the model."""
        mlflow.keras.log_model(self.model, name=f"epoch_{epoch + 1}", step=epoch + 1)


def _keras_checkpoint(
    suffix: str, *, save_weights_only: bool = False
) -> Callable[[Path], keras.callbacks.Callback]:
    def make(directory: Path) -> keras.callbacks.Callback:
        return keras.callbacks.ModelCheckpoint(
            str(directory / f"epoch_{{epoch}}{suffix}"), save_weights_only=save_weights_only
        )

    return make


def _mlflow_ckpt(*forms: str, test_load: bool = True) -> Callable[[Path], keras.callbacks.Callback]:
    return lambda _: mlflow_ckpt.MlflowCheckpoint(forms=forms, monitor="loss", test_load=test_load)


def _mlflow_callback(_: Path) -> keras.callbacks.Callback:
    return mlflow.tensorflow.MlflowModelCheckpointCallback(save_best_only=False)


VARIANTS = (
    Variant(PLAIN, "no callback", None, "*"),
    Variant("keras", "ModelCheckpoint .keras", _keras_checkpoint(".keras"), "*.keras"),
    Variant("h5", "ModelCheckpoint .h5", _keras_checkpoint(".h5"), "*.h5"),
    Variant(
        "weights",
        "ModelCheckpoint .weights.h5",
        _keras_checkpoint(".weights.h5", save_weights_only=True),
        "*.weights.h5",
    ),
    Variant(MLFLOW_CALLBACK, "MlflowModelCheckpointCallback", _mlflow_callback, "**/checkpoint.h5"),
    Variant(LOG_MODEL, "mlflow.keras.log_model", lambda _: LogModelEachEpoch(), "**/MLmodel"),
    Variant(FULL, "MlflowCheckpoint full", _mlflow_ckpt("full"), "**/manifest.json"),
    Variant(
        "untried",
        "MlflowCheckpoint full, test_load=False",
        _mlflow_ckpt("full", test_load=False),
        "**/manifest.json",
    ),
    Variant("split", "MlflowCheckpoint split", _mlflow_ckpt("split"), "**/manifest.json"),
    Variant("both", "MlflowCheckpoint both", _mlflow_ckpt("full", "split"), "**/manifest.json"),
)
