"""Restores a training's state after `fit` began and before its first batch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from mlflow_ckpt._format.changes import changed_values, leaves
from mlflow_ckpt._model.capture import compile_settings, introspection
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._model.keras_private import compiled_model, messages_of_keras, torch_parameters
from mlflow_ckpt._model.training import callback_state, random_state, swapped
from mlflow_ckpt._model.training.data.feed import STATE_LIMIT
from mlflow_ckpt._model.training.fit_context import FitContext
from mlflow_ckpt._model.training.kept_variables import KeptVariables
from mlflow_ckpt._shown.warn import warn
from mlflow_ckpt.errors import InvalidArgumentError

# Ends a name that Keras made up for an object of a class that it has seen before.
_NUMBER = re.compile(r"_\d+$")
ADVICE = "A resumed training cannot be the same as one that never stopped: "


class StateRestorer(keras.callbacks.Callback):  # type: ignore[misc]
    """The first callback of a resumed `fit`: restores the others and the random generators.

    Callbacks such as EarlyStopping reset their state when training begins, so states are restored
    at the start of the first epoch.
    """

    def __init__(
        self,
        state: TrainingState,
        callbacks: Sequence[keras.callbacks.Callback],
        name: str,
        reported: Sequence[str],
        *,
        replay_data: bool = False,
        data_state_limit: int = STATE_LIMIT,
    ) -> None:
        super().__init__()
        self._state = state
        self._callbacks = list(callbacks)
        self._name = name
        self._reported = set(reported)
        self._replay_data, self._data_state_limit = replay_data, data_state_limit
        self._fit: FitContext | None = None
        self._kept: KeptVariables | None = None
        self._done = self._inside = False
        self._results: dict[str, Any] = {}

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Find the data of `fit`, which has built the model."""
        compiled_model.end_around_building(self.model)
        torch_parameters.complete_parameters(self.model)
        if not self._done:
            self._fit = FitContext(self, data_state_limit=self._data_state_limit)
            inside = self._state.batch > 0
            hooks = ("on_train_begin", *(("on_epoch_begin",) if inside else ()))
            self._kept = KeptVariables(self.model, self._callbacks, hooks)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Restore everything, once."""
        if self._done:
            return
        self._done = True
        self._inside = self._state.batch > 0
        self._put_back_variables()
        self._require_position(epoch)
        if self._state.validation_pending and self._fit is not None:
            self._fit.leave_out(self._state.batch)
        self._warn()
        if self._inside and self._fit is not None and self._fit.skipped(self._state.batch):
            # With other data, the epoch starts over, and so do the metrics.
            self._restore_metrics(self._fit)
            if self._state.validation_pending:
                self._results = compiled_model.metrics_results(self.model)
        else:
            compiled_model.reset_unbuilt_metrics(self.model)
        for problem in self._restore():
            warn(f"{ADVICE}{problem}.")

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Restore everything again before the first batch, if it is within an epoch.

        When the epoch began, other callbacks reset their state, and PyTorch's data loader drew a
        random number.
        """
        if self._inside:
            self._restore_inside()

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Restore everything again before the validation, if only that was left of an epoch."""
        if self._inside:
            self._restore_inside()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Give the other callbacks the metrics of an epoch of which only the end was left."""
        if self._inside:
            self._restore_inside()
        results, self._results = self._results, {}
        if logs is not None:
            logs.update({name: value for name, value in results.items() if name not in logs})

    def _restore_inside(self) -> None:
        """Restore everything again, once the data are where they were."""
        self._inside = False
        self._put_back_variables()
        self._restore()

    def _put_back_variables(self) -> None:
        """Put back what callbacks changed in the model when they were told what was told before."""
        if self._kept is not None:
            self._kept.put_back()
            if not self._inside:
                self._kept.release()

    def _restore(self) -> list[str]:
        """Restore callbacks and random generators; return descriptions of failures."""
        state = self._state
        callback_state.restore(self._callbacks, state.callbacks or {}, state.arrays)
        dropped, state.dropped = state.dropped, []
        if dropped:
            swapped.restore(self.model, dropped)
        return random_state.restore(state.random or {})

    def _require_position(self, epoch: int) -> None:
        """Raise InvalidArgumentError if `fit` is called with another model or initial epoch."""
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

    def _restore_metrics(self, fit: FitContext) -> None:
        variables = self._metrics_variables()
        if _shapes(variables) != _shapes(self._state.metrics):
            try:
                fit.build_metrics()
            except (RuntimeError, ValueError) as error:  # of the model, called on unknown shapes
                warn(
                    f"{ADVICE}the metrics cannot be created before the first batch, so the epoch's "
                    f"mean values are reset ({messages_of_keras.call_message(error)})."
                )
                return
            variables = self._metrics_variables()
        if _shapes(variables) == _shapes(self._state.metrics):
            for variable, value in zip(variables, self._state.metrics, strict=True):
                variable.assign(value)
        else:
            warn(
                f"{ADVICE}the model's metrics differ from the saved ones, so the epoch's mean "
                "values are reset."
            )

    def _metrics_variables(self) -> list[Any]:
        return list(getattr(self.model, "metrics_variables", []))

    def _warn(self) -> None:
        """Warn of differences that show only in `fit`: data and compile settings."""
        state = self._state
        changes = [] if self._fit is None else self._changed_data(self._fit)
        changes += changed_settings(self.model, state)
        new = [phrase for phrase in changes if phrase not in self._reported]
        if new:
            warn(f"{ADVICE}{'; '.join(new)}.")

    def _changed_data(self, fit: FitContext) -> list[str]:
        state = self._state
        changes: list[str] = []
        data, arguments = fit.describe()
        if state.data is not None and data is not None:
            if "kind" in state.data or fit.data is not None:
                changes += changed_values("data", state.data, data)
            else:
                changes.append("the data came from an EpochDataset, but fit received other data")
        if state.fit is not None:
            changes += changed_values("fit", state.fit, arguments or {})
        inexact = fit.resume_data(state, replay=self._replay_data, after=self._restore_inside)
        return changes if inexact is None else [*changes, inexact]


def _shapes(arrays: Sequence[Any]) -> list[tuple[int, ...]]:
    return [tuple(array.shape) for array in arrays]


def changed_settings(
    model: keras.Model, state: TrainingState, *, to_be_loaded: bool = False
) -> list[str]:
    """Describe how a model's compile settings differ from the saved ones.

    Args:
        model: The model.
        state: The saved state.
        to_be_loaded: Whether the state of the optimizers is still to be loaded into the model. A
            learning rate that was changed in training is then changed again.
    """
    if state.compile_config is None or not introspection.is_compiled(model):
        return []
    now = json.loads(json.dumps(model.get_compile_config()))
    saved = state.compile_config
    own = dict(leaves(now, "compile")) if to_be_loaded else {}
    before = {p for p, value in state.compile_before.items() if p in own and own[p] == value}
    again = {path for path in before if path.endswith(".learning_rate")}
    changes = list(changed_values("compile", _unnumbered(saved), _unnumbered(now), again))
    return [*changes, *_changed_arguments(model, state.compile, changes)]


def _changed_arguments(
    model: keras.Model, saved: Mapping[str, Any] | None, known: Sequence[str]
) -> list[str]:
    """Describe differing arguments of a class's own `compile`, and those that are unknown."""
    if saved is None or "arguments" not in saved:
        return []
    arguments = _unnumbered(saved["arguments"])
    now = _unnumbered(compile_settings.own_arguments(model).values)
    unknown = [
        f"the argument {name!r} of compile() is not known ({why})"
        for name, why in saved.get("unknown", {}).items()
        if name not in arguments
    ]
    phrases = (*changed_values("compile", arguments, now), *unknown)
    return [phrase for phrase in phrases if phrase not in known]


def _unnumbered(config: Any) -> Any:
    """Return a configuration without the numbers of names, which Keras counts in a process."""
    if isinstance(config, Mapping):
        return {
            key: _NUMBER.sub("", value)
            if key == "name" and isinstance(value, str)
            else _unnumbered(value)
            for key, value in config.items()
        }
    return [_unnumbered(item) for item in config] if isinstance(config, list) else config
