"""The `fit` that a callback belongs to: its other callbacks, its data, and their state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._format.values import pack
from mlflow_ckpt._model.capture import code
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._model.keras_private import (
    callback_internals,
    compiled_model,
    epoch_iterator,
    fit_internals,
    keras_version,
)
from mlflow_ckpt._model.training import callback_state, random_state
from mlflow_ckpt._model.training.data import feed as feeds
from mlflow_ckpt._model.training.data.describe_data import describe_arguments, describe_data
from mlflow_ckpt._model.training.data.feed import Feed
from mlflow_ckpt._model.training.data.source import CannotContinueError
from mlflow_ckpt._model.training.data.validation import ValidationData
from mlflow_ckpt._model.training.epoch_dataset import EpochDataset
from mlflow_ckpt._model.training.swapped import DroppedWeights
from mlflow_ckpt.errors import InvalidArgumentError


class StepObserver(keras.callbacks.Callback):  # type: ignore[misc]
    """The first callback of a `fit`, which sees steps end and epochs begin before all others.

    Args:
        end_step: Called with the index of each batch whose step has ended.
        begin: Called when an epoch or a batch begins, before other callbacks can change the model.
        end_epoch: Called when an epoch ends.
    """

    def __init__(
        self,
        end_step: Callable[[int], None],
        begin: Callable[[], None],
        end_epoch: Callable[[], None],
    ) -> None:
        super().__init__()
        self._end_step, self._begin, self._end_epoch = end_step, begin, end_epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Note that the callbacks are told of the begin of an epoch."""
        self._begin()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Note the end of the previous step, which Keras may report late."""
        self._end_step(batch - 1)
        self._begin()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Note the end of the step."""
        self._end_step(batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Note that the callbacks are told of the end of an epoch."""
        self._end_epoch()


class FitContext:
    """The callbacks and data of a running `fit`.

    Args:
        callback: The callback that creates it, in its `on_train_begin`.
        data_state_limit: Largest estimated state of a `tf.data` iterator, in bytes, that is saved.

    Attributes:
        problem: Why the other callbacks and the data are unknown; None if they are known.
        data: The data set, if it is an `EpochDataset`.
        feed: Other data; None if they are unknown.
        kind: Kind of the data, such as `"shuffled arrays"`; "" if unknown.
        settings: Arguments of the callbacks that save, to be saved with the state.
        validates: Whether `fit` validates after some epochs; False if unknown.
    """

    def __init__(
        self, callback: keras.callbacks.Callback, data_state_limit: int = feeds.STATE_LIMIT
    ) -> None:
        self.problem: str | None = None
        self.data: EpochDataset | None = None
        self.feed: Feed | None = None
        self.kind = ""
        self.settings: Mapping[str, Any] = {}
        self._model = callback.model
        self._validation: tuple[list[np.ndarray[Any, Any]], dict[str, Any]] | None = None
        self._ending = False
        self._dropped: DroppedWeights | None = None
        self._monitor: callback_state.CallbackMonitor | None = None
        self._validated: ValidationData | None = None
        self._code: dict[str, str] | None = None
        self._described: dict[str, Any] | None = None
        self._arguments: dict[str, Any] | None = None
        try:
            frame = fit_internals.find_fit_frame()
        except keras_version.PrivateApiError as error:
            self.problem = str(error)
            frame = fit_internals.FitFrame(None, None)
        self._list, self._iterator = frame.callbacks, frame.iterator
        self._variables = frame.variables
        self.validates = self._variables.get("validation_data") is not None
        self._data_set: Any = None  # whose state is saved
        if self._iterator is not None:
            self.kind, self._data_set = epoch_iterator.data_of(self._iterator)
            data = self._data_set
            if isinstance(data, EpochDataset):
                self.data = data
                self._require_whole_epochs()
            else:
                self.feed = feeds.find_feed(self._model, self._iterator, data_state_limit)

    def _require_whole_epochs(self) -> None:
        steps = epoch_iterator.steps_per_epoch(self._iterator)
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

    @property
    def is_running(self) -> bool:
        """Whether its `fit` is the one that calls a callback now; False if that is unknown."""
        try:
            running = fit_internals.find_fit_frame().callbacks
        except keras_version.PrivateApiError:
            return False
        return running is not None and running is self._list

    def is_of(self, other: FitContext) -> bool:
        """Whether both are of the same `fit`; False if that is unknown."""
        return self._list is not None and self._list is other._list

    def move_to_end(self, callback: keras.callbacks.Callback) -> None:
        """Call a callback after all others."""
        if self._list is not None:
            others = [other for other in self._list.callbacks if other is not callback]
            self._list.callbacks = [*others, callback]

    def surround(
        self,
        callback: keras.callbacks.Callback,
        end_step: Callable[[int], None],
        pause: Callable[[], None],
    ) -> bool:
        """Call a callback after all others, and functions before them.

        At the end of an epoch, the callback then saves the state with which the next epoch begins;
        a step counts as done if another callback fails when it is told of it; and what others do
        when an epoch or a batch begins is not done before a pause and again after it.

        Args:
            callback: The callback.
            end_step: Called with the index of each batch whose step has ended.
            pause: Called when an epoch or a batch begins.

        Returns:
            Whether the other callbacks are known; if not, nothing is called.
        """
        if self._list is None:
            return False

        def begin() -> None:
            self._monitor_callbacks()
            pause()

        # A new list, as Keras is iterating over the old one.
        others = [other for other in self._list.callbacks if other is not callback]
        observer = StepObserver(end_step, begin, self._note_end)
        self._list.callbacks = [observer, *others, callback]
        return True

    def _monitor_callbacks(self) -> None:
        """Begin to look at the other callbacks, once."""
        if self._monitor is None:
            self._monitor = callback_state.CallbackMonitor(self.callbacks, self._data_set)
            self._validated = ValidationData(self._variables.get("validation_data"))

    def _note_end(self) -> None:
        self._ending = True

    def begin_validation(self) -> None:
        """Keep what a validation changes: the metrics, and random generators."""
        self._validation = self._metrics(), random_state.capture()

    def _metrics(self) -> list[np.ndarray[Any, Any]]:
        return [
            np.array(keras.ops.convert_to_numpy(variable), copy=True)
            for variable in getattr(self._model, "metrics_variables", [])
        ]

    def await_reports(self) -> None:
        """Wait until the callbacks have been told of all steps."""
        callback_internals.await_reports(self._list)

    @property
    def left_out(self) -> int:
        """Number of batches that the next epoch leaves out, if only its validation is left."""
        return 0 if self._iterator is None else epoch_iterator.left_out(self._iterator)

    def leave_out(self, batches: int) -> None:
        """Have the next epoch begin with its validation."""
        if self._iterator is not None:
            epoch_iterator.leave_out_epoch(self._iterator, batches)

    def skipped(self, batch: int) -> int:
        """Return how many of the completed batches of the first epoch are left out."""
        if self.data is not None or self.left_out:
            return batch
        return 0 if self.feed is None else self.feed.skipped

    def describe(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Return descriptions of the data and of the arguments of `fit`; None if unknown."""
        if self._iterator is None:
            return None, None
        data = describe_data(self._iterator) if self.data is None else self.data.describe()
        return data, describe_arguments(self._variables)

    def begin_epoch(self, epoch: int, batch: int = 0) -> None:
        """Begin an epoch of the data; on the first call, record callbacks, code and data."""
        self._validation, self._ending = None, False
        if self.feed is not None:
            self.feed.begin_epoch(epoch)
        if self.data is not None and not self.left_out:
            self.data.begin(epoch, batch)
            epoch_iterator.expect_batches(self._iterator, self.data.num_batches)
        if self._dropped is None:
            self._monitor_callbacks()
            self._dropped = DroppedWeights(self.callbacks)
            self._code = code.digests(self._model)
            self._described, self._arguments = self.describe()
            # The arguments may be large arrays, which Keras need not keep.
            self._variables = {}

    def end_epoch(self, batch: int) -> None:
        """End an epoch of a number of batches."""
        self._validation, self._ending = None, False
        if self.feed is not None:
            stopped = bool(getattr(self._model, "stop_training", False))
            self.feed.end_epoch(batch, whole=not stopped)

    def steps(self, params: Mapping[str, Any] | None) -> int | None:
        """Return the number of batches in a whole epoch; None if unknown."""
        if self.data is not None:
            return self.data.batches
        steps = (params or {}).get("steps")
        if steps is None and self.feed is not None:
            return self.feed.length
        return None if steps is None else int(steps)

    def capture(self, *, batch: int, params: Mapping[str, Any] | None) -> TrainingState:
        """Capture the current state.

        Args:
            batch: Number of completed batches of the current epoch; 0 between epochs.
            params: The callback's `params`, which Keras sets.
        """
        steps = self.steps(params)
        if batch and self._validation is not None:
            steps = batch  # all batches of the epoch, even if Keras does not know their number
        finished = steps is not None and batch >= steps
        model = self._model
        monitor = self._monitor or callback_state.CallbackMonitor(self.callbacks, self._data_set)
        captured = monitor.capture()
        metrics: list[np.ndarray[Any, Any]] = []
        random = random_state.capture()
        data_state = None
        if self.feed is not None:
            data_state, arrays, own = self.feed.capture(batch, finished=finished)
            captured.arrays.update(arrays)
            random.update(own)
        if batch and self._validation is not None:
            metrics, random = self._validation
        elif batch:
            metrics = self._metrics()
        return TrainingState(
            batch=batch if steps is None else min(batch, steps),
            steps=steps,
            epochs=(params or {}).get("epochs"),
            arrays=captured.arrays,
            random=random,
            metrics=metrics,
            validation_pending=batch > 0 and finished and not self._ending,
            dropped=[] if self._dropped is None else self._dropped.take(),
            callbacks=captured.states,
            unsaved=[*captured.unsaved, *self._problems()],
            stopped=bool(getattr(model, "stop_training", False)),
            data=self._described,
            data_state=data_state,
            fit=self._arguments,
            code=self._code or {},
            settings=pack(dict(self.settings), "settings", {}),
        )

    def _problems(self) -> list[str]:
        """Return phrases that describe what is unknown of `fit`, or not saved."""
        of_validation = None if self._validated is None else self._validated.problem()
        return [problem for problem in (self.problem, of_validation) if problem is not None]

    def build_metrics(self) -> None:
        """Create the variables of the model's metrics, unless they exist."""
        if self.data is not None:
            batch = self.data[0]
        else:
            batch = None if self.feed is None else self.feed.example()
        if batch is not None:
            compiled_model.build_metrics(self._model, batch)

    def resume_data(
        self, state: TrainingState, *, replay: bool, after: Callable[[], Any]
    ) -> str | None:
        """Continue the data where they were; return a phrase if they may differ.

        Args:
            state: The saved state.
            replay: Whether to read data again from their beginning if necessary.
            after: Called once the data are continued within an epoch.
        """
        if self.data is not None:
            return None
        saved = state.data_state
        if saved is None or self.feed is None:
            return self._unknown_data(state)
        try:
            return self.feed.resume(
                *(saved, state.arrays, state.batch),
                finished=state.validation_pending,
                replay=replay,
                after=after,
            )
        except CannotContinueError as error:
            return f"the data of fit start over: {error}"

    def _unknown_data(self, state: TrainingState) -> str | None:
        if state.batch:
            return (
                f"{state.batch} batches of epoch {state.epoch + 1} were completed, but the data of "
                "fit start from the first batch again: pass a mlflow_ckpt.EpochDataset, or resume "
                "at the end of an epoch"
            )
        if self.kind in ("arrays", "") or (
            self.kind == "shuffled arrays" and keras.config.backend() != "tensorflow"
        ):
            return None
        return (
            f"whether fit gets the same batches again is unknown ({self.kind}): a "
            "mlflow_ckpt.EpochDataset guarantees it"
        )
