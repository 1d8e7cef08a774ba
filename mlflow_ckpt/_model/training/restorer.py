"""Puts a training's state back, once `fit` has begun and before its first batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from mlflow_ckpt._format.changes import changed_values
from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._model.training import callback_state, random_state
from mlflow_ckpt._model.training.fit_context import Training
from mlflow_ckpt._warn import warn
from mlflow_ckpt.errors import InvalidArgumentError

ADVICE = "A resumed training cannot be the same as one that never stopped: "


class StateRestorer(keras.callbacks.Callback):  # type: ignore[misc]
    """The first of a resumed training's callbacks: restores the others, and the random generators.

    EarlyStopping and others forget their state when training begins, so it is put back after that,
    when the first epoch begins.

    Args:
        state: What was saved.
        callbacks: The other callbacks.
        name: The checkpoint's name, for messages.
        told: What was said already of how the training differs.
    """

    def __init__(
        self,
        state: TrainingState,
        callbacks: Sequence[keras.callbacks.Callback],
        name: str,
        told: Sequence[str],
    ) -> None:
        super().__init__()
        self._state = state
        self._callbacks = list(callbacks)
        self._name = name
        self._told = set(told)
        self._training: Training | None = None
        self._done = self._inside = False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Look at the data that `fit` was given."""
        if not self._done:
            self._training = Training(self)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Restore everything, once."""
        if self._done:
            return
        self._done = True
        self._require_place(epoch)
        self._warn()
        self._inside = self._state.batch > 0
        if self._inside and self._training is not None and self._training.data is not None:
            # Other data begin the epoch anew, and the metrics with it.
            self._restore_metrics(self._training)
        for problem in self._restore():
            warn(f"{ADVICE}{problem}.")

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Restore the same again inside an epoch, before its next batch.

        Since the epoch began, other callbacks took it for a new one, and PyTorch's loader of data
        drew a number.
        """
        if self._inside:
            self._inside = False
            self._restore()

    def _restore(self) -> list[str]:
        """Restore callbacks and random generators; return what could not be."""
        state = self._state
        callback_state.restore(self._callbacks, state.callbacks or {}, state.arrays)
        return random_state.restore(state.random or {})

    def _require_place(self, epoch: int) -> None:
        """Refuse to train what is not the restored model, or from another place."""
        state = self._state
        if epoch != state.epoch:
            raise InvalidArgumentError(
                f"The checkpoint {self._name} is of epoch {state.epoch}. Expected "
                f"fit(initial_epoch={state.epoch}). Received: initial_epoch={epoch}"
            )
        step = introspection.step_of(self.model)
        if step != state.step:
            raise InvalidArgumentError(
                f"The checkpoint {self._name} is of step {state.step}, and the optimizer of the "
                f"model that fit was called on is at step {step}. Call fit on the restored model "
                "(point.model), and do not compile it again."
            )

    def _restore_metrics(self, training: Training) -> None:
        training.build_metrics()
        variables = list(getattr(self.model, "metrics_variables", []))
        if [tuple(v.shape) for v in variables] == [v.shape for v in self._state.metrics]:
            for variable, value in zip(variables, self._state.metrics, strict=True):
                variable.assign(value)
        else:
            warn(
                f"{ADVICE}the model has other metrics than were saved, so the epoch's mean values "
                "begin anew."
            )

    def _warn(self) -> None:
        """Warn of what is known only now: the data, and how the model is compiled."""
        state, training = self._state, self._training
        found: list[str] = []
        if training is not None:
            described = None if training.data is None else training.data.describe()
            if state.data is not None and described is not None:
                found += changed_values("data", state.data, described)
            elif state.data is not None:
                found.append("the data came from an EpochDataset, and fit was given something else")
            inexact = training.inexact_data(state.epoch, state.batch)
            found += [] if inexact is None else [inexact]
        found += changed_settings(self.model, state)
        new = [phrase for phrase in found if phrase not in self._told]
        if new:
            warn(f"{ADVICE}{'; '.join(new)}.")


def changed_settings(model: keras.Model, state: TrainingState) -> list[str]:
    """Tell how a model's compile settings differ from those that were saved."""
    if state.compile_config is None or not introspection.is_compiled(model):
        return []
    now = json.loads(json.dumps(model.get_compile_config()))
    changes = changed_values("compile", state.compile_config, now)
    # Keras counts objects of the same kind in a process.
    return [phrase for phrase in changes if not phrase.startswith("compile.optimizer.name was")]
