"""The training that a callback serves: its other callbacks, its data, and the state of both."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._format.values import pack
from mlflow_ckpt._model import keras_private
from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._model.training import callback_state, random_state
from mlflow_ckpt._model.training.epoch_dataset import EpochDataset
from mlflow_ckpt.errors import InvalidArgumentError


class Training:
    """One call of `fit`.

    Args:
        callback: The callback that makes it, in its `on_train_begin`.
        settings: Arguments of that callback, to be kept with the state.

    Attributes:
        problem: Why nothing is known of the other callbacks and the data; None if it is.
        data: The data set, if it is an `EpochDataset`.
        kind: What else gives the batches, such as `"shuffled arrays"`; "" if unknown.
    """

    def __init__(
        self, callback: keras.callbacks.Callback, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.problem: str | None = None
        self.data: EpochDataset | None = None
        self.kind = ""
        self._settings = dict(settings or {})
        self._model = callback.model
        self._watch: callback_state.Watch | None = None
        self._code: dict[str, str] | None = None
        self._described: dict[str, Any] | None = None
        try:
            found = keras_private.find_fit_frame()
        except keras_private.PrivateApiError as error:
            self.problem = str(error)
            found = keras_private.FitFrame(None, None)
        self._list, self._iterator = found.callbacks, found.iterator
        if self._iterator is not None:
            self.kind, data = keras_private.data_of(self._iterator)
            if isinstance(data, EpochDataset):
                self.data = data
                self._require_whole_epochs()

    def _require_whole_epochs(self) -> None:
        steps = getattr(self._iterator, "steps_per_epoch", None)
        if steps is not None:
            raise InvalidArgumentError(
                "An EpochDataset gives whole epochs, so fit cannot be told how many steps they "
                f"have. Received: steps_per_epoch={steps}. Leave it out."
            )

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        """All callbacks of the training; none where they are unknown."""
        return [] if self._list is None else list(self._list.callbacks)

    def move_last(self, callback: keras.callbacks.Callback) -> None:
        """Have a callback called after all others, so that it sees what they have done.

        What is saved at the end of an epoch is then the state with which the next one begins.
        """
        if self._list is not None:
            # A new list: Keras is going through the old one.
            others = [each for each in self._list.callbacks if each is not callback]
            self._list.callbacks = [*others, callback]

    def begin_epoch(self, epoch: int, batch: int = 0) -> None:
        """Have the data give an epoch's batches.

        Args:
            epoch: Number of completed epochs.
            batch: Batches of it that are done already.
        """
        if self.data is not None:
            self.data.begin(epoch, batch)
            keras_private.expect_batches(self._iterator, self.data.num_batches)
        if self._watch is None:
            self._watch = callback_state.Watch(self.callbacks)
            self._code = code_digests(self._model)
            self._described = None if self.data is None else self.data.describe()

    def steps(self, params: Mapping[str, Any] | None) -> int | None:
        """Return how many batches a whole epoch has, if it is known."""
        if self.data is not None:
            return self.data.batches
        steps = (params or {}).get("steps")
        return None if steps is None else int(steps)

    def capture(self, *, batch: int, params: Mapping[str, Any] | None) -> TrainingState:
        """Capture the state as it is now.

        Args:
            batch: Batches done of the epoch under way; 0 between two epochs.
            params: What Keras says of the training.
        """
        steps = self.steps(params)
        model = self._model
        watch = self._watch or callback_state.Watch(self.callbacks)
        captured = watch.capture()
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
        """Make the variables of the model's metrics, if they are not there yet.

        Raises:
            PrivateApiError: If Keras has changed.
        """
        if self.data is not None:
            keras_private.build_metrics(self._model, self.data[0])

    def inexact_data(self, epoch: int, batch: int) -> str | None:
        """Tell what of the order of the data is not what it was, as a phrase; None if nothing.

        Args:
            epoch: Number of completed epochs.
            batch: Batches of the epoch under way that are done already.
        """
        if self.data is not None:
            return None
        if batch:
            return (
                f"{batch} batches of epoch {epoch + 1} were done, and the data given to fit begin "
                "again with the first: pass a mlflow_ckpt.EpochDataset, or resume from the end of "
                "an epoch"
            )
        if self.kind in ("arrays", "") or (
            self.kind == "shuffled arrays" and keras.config.backend() != "tensorflow"
        ):
            return None
        return (
            f"whether fit gets the same batches again is not known ({self.kind}): a "
            "mlflow_ckpt.EpochDataset gives them"
        )


def code_digests(model: keras.Model) -> dict[str, str]:
    """Return digests of the source of a model's classes and functions that are the user's own."""
    found: dict[str, str] = {}
    for item in _code_of(model):
        module = getattr(item, "__module__", "") or ""
        if module.split(".")[0] in ("keras", "builtins", "tensorflow", "jax", "torch", "functools"):
            continue
        try:
            source = inspect.getsource(item)
        except (OSError, TypeError):
            continue
        name = f"{module}.{getattr(item, '__qualname__', '?')}"
        found[name] = f"sha256:{hashlib.sha256(source.encode()).hexdigest()}"
    return found


def _code_of(model: keras.Model) -> Iterator[Any]:
    items = [model, *introspection.layers_of(model), getattr(model, "optimizer", None)]
    items += keras.tree.flatten(getattr(model, "loss", None))
    items += list(getattr(model, "metrics", []))
    for item in items:
        if inspect.isfunction(item):
            yield item
        elif item is not None and not isinstance(item, (str, int, float)):
            yield type(item)
            for name in ("activation", "function", "fn", "_fn"):
                inner = vars(item).get(name) if hasattr(item, "__dict__") else None
                if inspect.isfunction(inner):
                    yield inner
