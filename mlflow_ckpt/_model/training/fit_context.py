"""The `fit` that a callback belongs to: its other callbacks, its data, and their state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._format.values import pack
from mlflow_ckpt._model import keras_private
from mlflow_ckpt._model.capture import code
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._model.training import callback_state, random_state
from mlflow_ckpt._model.training.epoch_dataset import EpochDataset
from mlflow_ckpt.errors import InvalidArgumentError


class StepObserver(keras.callbacks.Callback):  # type: ignore[misc]
    """Calls a function with the index of each batch whose step has ended."""

    def __init__(self, end_step: Callable[[int], None]) -> None:
        super().__init__()
        self._end_step = end_step

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Note the end of the previous step, which Keras may report late."""
        self._end_step(batch - 1)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Note the end of the step."""
        self._end_step(batch)


class FitContext:
    """The callbacks and data of a running `fit`.

    Args:
        callback: The callback that creates it, in its `on_train_begin`.
        settings: Arguments of that callback, to be saved with the state.

    Attributes:
        problem: Why the other callbacks and the data are unknown; None if they are known.
        data: The data set, if it is an `EpochDataset`.
        kind: Kind of the data, such as `"shuffled arrays"`; "" if unknown.
    """

    def __init__(
        self, callback: keras.callbacks.Callback, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.problem: str | None = None
        self.data: EpochDataset | None = None
        self.kind = ""
        self._settings = dict(settings or {})
        self._model = callback.model
        self._monitor: callback_state.CallbackMonitor | None = None
        self._code: dict[str, str] | None = None
        self._described: dict[str, Any] | None = None
        try:
            frame = keras_private.find_fit_frame()
        except keras_private.PrivateApiError as error:
            self.problem = str(error)
            frame = keras_private.FitFrame(None, None)
        self._list, self._iterator = frame.callbacks, frame.iterator
        if self._iterator is not None:
            self.kind, data = keras_private.data_of(self._iterator)
            if isinstance(data, EpochDataset):
                self.data = data
                self._require_whole_epochs()

    def _require_whole_epochs(self) -> None:
        steps = getattr(self._iterator, "steps_per_epoch", None)
        if steps is not None:
            raise InvalidArgumentError(
                "An EpochDataset defines the length of an epoch. Expected fit without "
                f"steps_per_epoch. Received: steps_per_epoch={steps}"
            )

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        """All callbacks of the training; empty if they are unknown."""
        callbacks = [] if self._list is None else self._list.callbacks
        return [callback for callback in callbacks if not isinstance(callback, StepObserver)]

    def surround(self, callback: keras.callbacks.Callback, end_step: Callable[[int], None]) -> None:
        """Call a callback after all others, and a function before them when a step has ended.

        At the end of an epoch, the callback then saves the state with which the next epoch begins;
        and a step counts as done if another callback fails when it is told of it.
        """
        if self._list is not None:
            # A new list, as Keras is iterating over the old one.
            others = [other for other in self._list.callbacks if other is not callback]
            self._list.callbacks = [StepObserver(end_step), *others, callback]

    def await_reports(self) -> None:
        """Wait until the callbacks have been told of all steps."""
        keras_private.await_reports(self._list)

    def begin_epoch(self, epoch: int, batch: int = 0) -> None:
        """Begin an epoch of the data; on the first call, record callbacks, code and data."""
        if self.data is not None:
            self.data.begin(epoch, batch)
            keras_private.expect_batches(self._iterator, self.data.num_batches)
        if self._monitor is None:
            self._monitor = callback_state.CallbackMonitor(self.callbacks)
            self._code = code.digests(self._model)
            self._described = None if self.data is None else self.data.describe()

    def steps(self, params: Mapping[str, Any] | None) -> int | None:
        """Return the number of batches in a whole epoch; None if unknown."""
        if self.data is not None:
            return self.data.batches
        steps = (params or {}).get("steps")
        return None if steps is None else int(steps)

    def capture(self, *, batch: int, params: Mapping[str, Any] | None) -> TrainingState:
        """Capture the current state.

        Args:
            batch: Number of completed batches of the current epoch; 0 between epochs.
            params: The callback's `params`, which Keras sets.
        """
        steps = self.steps(params)
        model = self._model
        monitor = self._monitor or callback_state.CallbackMonitor(self.callbacks)
        captured = monitor.capture()
        metrics = []
        if batch:
            metrics = [
                np.array(keras.ops.convert_to_numpy(variable), copy=True)
                for variable in getattr(model, "metrics_variables", [])
            ]
        return TrainingState(
            batch=batch if steps is None else min(batch, steps),
            steps=steps,
            epochs=(params or {}).get("epochs"),
            arrays=captured.arrays,
            random=random_state.capture(),
            metrics=metrics,
            callbacks=captured.states,
            unsaved=[*captured.unsaved, *([self.problem] if self.problem else [])],
            stopped=bool(getattr(model, "stop_training", False)),
            data=self._described,
            code=self._code or {},
            settings=pack(self._settings, "settings", {}),
        )

    def build_metrics(self) -> None:
        """Create the variables of the model's metrics, unless they exist."""
        if self.data is not None:
            keras_private.build_metrics(self._model, self.data[0])

    def inexact_data(self, epoch: int, batch: int) -> str | None:
        """Return a phrase that says why the order of the data may differ; None if it does not."""
        if self.data is not None:
            return None
        if batch:
            return (
                f"{batch} batches of epoch {epoch + 1} were completed, but the data of fit starts "
                "from the first batch again: pass a mlflow_ckpt.EpochDataset, or resume at the "
                "end of an epoch"
            )
        if self.kind in ("arrays", "") or (
            self.kind == "shuffled arrays" and keras.config.backend() != "tensorflow"
        ):
            return None
        return (
            f"whether fit gets the same batches again is unknown ({self.kind}): a "
            "mlflow_ckpt.EpochDataset guarantees it"
        )
