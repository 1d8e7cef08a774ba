"""Translates Keras's training events into checkpoints and metrics of an MLflow run."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import mlflow

from mlflow_ckpt.errors import CheckpointExistsError, InvalidArgumentError
from mlflow_ckpt.format.layout import CheckpointName
from mlflow_ckpt.format.monitor import MODES, Monitor, infer_mode, is_better
from mlflow_ckpt.model import keras_private, snapshot
from mlflow_ckpt.saver import (
    CheckpointSaver,
    Saved,
    check_forms,
    check_full_format,
    check_metadata,
    check_model,
)
from mlflow_ckpt.tracking.catalog import Catalog
from mlflow_ckpt.tracking.store import RunStore

# Batches in which even a patient optimizer, accumulating gradients, has made a step.
_LONGEST_ACCUMULATION = 64


class MlflowCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Logs checkpoints, fingerprints and metrics of a training into an MLflow run.

    Takes the place of `keras.callbacks.ModelCheckpoint`, with the same words:

        with mlflow.start_run():
            model.fit(x, y, epochs=5, callbacks=[mlflow_ckpt.MlflowCheckpoint()])

    Each checkpoint is a directory of run artifacts, `checkpoints/epoch_0003` at the end of an
    epoch or `checkpoints/step_00001500` inside one, complete or invisible (docs/format.md).

    Args:
        monitor: The metric that tells which checkpoint is best.
        verbose: 1 prints one line a checkpoint, 0 nothing.
        save_best_only: Save only when the monitored metric improved.
        mode: `"min"`, `"max"`, or `"auto"` to tell from the metric.
        save_freq: `"epoch"`, or a number of batches.
        initial_value_threshold: Value that the metric must beat to be the best.
        forms: `"full"` (architecture, weights, optimizer and compile settings in one file),
            `"split"` (architecture and weights apart), or both.
        full_format: `"keras"`, or `"h5"` for the legacy HDF5 format.
        run_id: The run to log to; the active run if None. Where there is none, the callback starts
            one, and ends it when training ends.
        log_metrics: Log the epoch's metrics to the run, at step = completed epochs.
        metadata: Plain values to keep in every checkpoint, such as class names.

    Raises:
        InvalidArgumentError: If an argument is none of these.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
        *,
        forms: Sequence[str] = ("full",),
        full_format: str = "keras",
        run_id: str | None = None,
        log_metrics: bool = True,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if mode not in ("auto", *MODES):
            raise InvalidArgumentError(
                f"Unrecognized mode. Expected 'auto', 'min' or 'max'. Received: mode={mode!r}"
            )
        if save_freq != "epoch" and (
            isinstance(save_freq, bool) or not isinstance(save_freq, int) or save_freq < 1
        ):
            raise InvalidArgumentError(
                "Unrecognized save_freq. Expected 'epoch' or a number of batches, 1 or more. "
                f"Received: save_freq={save_freq!r}"
            )
        if save_best_only and save_freq != "epoch" and monitor.startswith("val_"):
            raise InvalidArgumentError(
                "Inside an epoch there is no validation. Expected, with save_best_only and "
                "save_freq in batches, a monitor of the training such as 'loss'. "
                f"Received: monitor={monitor!r}"
            )
        self.monitor = monitor
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.mode = mode
        self.save_freq = save_freq
        self.best = initial_value_threshold
        self.run_id = run_id
        self.log_metrics = log_metrics
        self._forms = check_forms(forms)
        self._full_format = check_full_format(full_format)
        self._metadata = check_metadata(metadata)
        self._initial_best = initial_value_threshold
        self._saver: CheckpointSaver | None = None
        self._store: RunStore | None = None
        self._own_run: str | None = None
        self._previous: list[Mapping[str, float]] = []
        self._epoch = 0
        self._first_epoch_checked = False
        self._warned: set[str] = set()
        self._batches_since_save = 0
        self._last_batch = -1
        self._last_step = -1
        if save_freq != "epoch":
            # Not a method of the class: where one exists, Keras's loop waits for it at each batch.
            self.on_train_batch_end = self._save_inside_epoch

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Find or start the run, and refuse what could not be saved, before any training."""
        check_model(self.model, self._forms, self._full_format)
        run_id = self.run_id or self._active_or_own_run()
        if self._store is None or self._store.run_id != run_id:
            self.best = self._initial_best
        self._store = RunStore(run_id)
        self._saver = CheckpointSaver(
            self._store,
            forms=self._forms,
            full_format=self._full_format,
            metadata=self._metadata,
        )
        self._first_epoch_checked = False

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Note the epoch; before the first, make sure that nothing would be overwritten."""
        self._epoch = epoch
        self._last_batch = -1
        if not self._first_epoch_checked:
            self._refuse_to_go_back(epoch)
            self._first_epoch_checked = True

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Log the epoch's metrics and save its checkpoint."""
        completed = epoch + 1
        metrics = _scalars(logs)
        if self.log_metrics and metrics:
            self._require_store().log_metrics(metrics, completed, int(time.time() * 1000))
        if self.save_freq == "epoch":
            self._save(CheckpointName("epoch", completed), completed, metrics)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """End the run that this callback started."""
        self._end_own_run("FINISHED")

    def _save_inside_epoch(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        # With steps_per_execution, this is called for the last batch of several.
        self._batches_since_save += batch - self._last_batch
        self._last_batch = batch
        if self._batches_since_save < int(self.save_freq):
            return
        step = snapshot.step_of(self.model)
        if step <= self._last_step:
            # Gradients are being accumulated, or a step overflowed: save with the next real step.
            patience = 2 * int(self.save_freq) + _LONGEST_ACCUMULATION
            if self._batches_since_save > patience:
                self._warn_once(
                    f"The model's optimizer made no step in {patience} batches, so "
                    "there is no step to name a checkpoint by. A model that trains with optimizers "
                    "of its own counts no steps: use save_freq='epoch'."
                )
            return
        self._batches_since_save = 0
        self._last_step = step
        completed = self._epoch + (1 if batch + 1 == self.params.get("steps") else 0)
        self._save(CheckpointName("step", step), completed, _scalars(logs))

    def _active_or_own_run(self) -> str:
        # A training that raised never came to on_train_end.
        self._end_own_run("FAILED")
        active = mlflow.active_run()
        if active is None:
            active = mlflow.start_run()
            self._own_run = active.info.run_id
        return str(active.info.run_id)

    def _end_own_run(self, status: str) -> None:
        active = mlflow.active_run()
        if self._own_run is not None and active and active.info.run_id == self._own_run:
            mlflow.end_run(status)
        self._own_run = None

    def _save(self, name: CheckpointName, epoch: int, metrics: Mapping[str, float]) -> None:
        monitor = self._resolve_monitor(metrics)
        if monitor is not None:
            self._recall_best(monitor)
        value = metrics.get(monitor.name) if monitor else None
        improved = (
            monitor is not None
            and value is not None
            and (is_better(value, self.best, monitor.mode))
        )
        if value is not None and math.isnan(value):
            self._warn_once(
                f"{self.monitor} is NaN: the model diverged. "
                + (
                    "Such an epoch is not saved."
                    if self.save_best_only
                    else "It is never the best."
                )
            )
        if self.save_best_only and monitor is not None and not improved:
            if self.verbose:
                self._print(f"{name}: {self.monitor} did not improve from {self.best}, not saved")
            return
        saver = self._saver
        if saver is None:
            raise RuntimeError("MlflowCheckpoint saves during fit only")
        saved = saver.save(
            self.model, name, epoch=epoch, metrics=metrics, monitor=monitor, best=improved
        )
        if improved:
            self.best = value
        if self.verbose:
            self._print(_describe(saved, saver.run_id, self.monitor, improved))

    def _resolve_monitor(self, metrics: Mapping[str, float]) -> Monitor | None:
        """Return the monitor, or None where it cannot tell which checkpoint is best."""
        if self.monitor not in metrics:
            advice = (
                "Pass monitor=… or validation data."
                if self.save_freq == "epoch"
                else "Inside an epoch there is no validation: pass monitor='loss' or the like."
            )
            self._warn_once(
                f"The monitored metric {self.monitor!r} was not reported "
                f"(reported: {', '.join(metrics) or 'none'}), so every checkpoint is saved and "
                f"none is marked as best. {advice}"
            )
            return None
        mode: str | None = self.mode
        if mode == "auto":
            mode = keras_private.metric_direction(self.model, self.monitor) or infer_mode(
                self.monitor
            )
        if mode is not None:
            return Monitor(self.monitor, mode)
        if self.save_best_only:
            raise InvalidArgumentError(
                f"Whether a high or a low {self.monitor!r} is better cannot be told from the "
                "metric. Pass mode='min' or mode='max'."
            )
        self._warn_once(
            f"Whether a high or a low {self.monitor!r} is better cannot be told from the metric, "
            "so no checkpoint is marked as best. Pass mode='min' or mode='max'."
        )
        return None

    def _recall_best(self, monitor: Monitor) -> None:
        """Take up the best value of the checkpoints that the run held before this training."""
        values = [metrics[monitor.name] for metrics in self._previous if monitor.name in metrics]
        position = monitor.best(values)
        if position is not None and is_better(values[position], self.best, monitor.mode):
            self.best = values[position]
        self._previous = []

    def _refuse_to_go_back(self, epoch: int) -> None:
        """Raise if this training would repeat epochs that the run already holds."""
        store = self._require_store()
        existing, damaged = Catalog(store).scan()
        self._previous = [checkpoint.manifest.metrics for checkpoint in existing]
        # A damaged checkpoint is not overwritten either.
        names = [CheckpointName.parse(name) for name in [*(c.name for c in existing), *damaged]]
        epochs = [checkpoint.manifest.epoch for checkpoint in existing]
        epochs += [name.number for name in names if name and name.unit == "epoch"]
        newest = max(epochs, default=0)
        if epoch < newest:
            raise CheckpointExistsError(
                f"The run {store.run_id} has checkpoints up to epoch {newest}, and this training "
                f"starts at epoch {epoch}: it would write some of them again. Pass "
                f"initial_epoch={newest} to fit to go on, or train into another run.",
                run_id=store.run_id,
                name=str(CheckpointName("epoch", newest)),
            )
        steps = [name.number for name in names if name and name.unit == "step"]
        step = snapshot.step_of(self.model)
        self._last_step = step
        if self.save_freq != "epoch" and step < max(steps, default=0):
            raise CheckpointExistsError(
                f"The run {store.run_id} has checkpoints up to step {max(steps)}, and this "
                f"training starts at step {step}: it would write some of them again. Go on from "
                "the newest, or train into another run.",
                run_id=store.run_id,
                name=str(CheckpointName("step", max(steps))),
            )

    def _require_store(self) -> RunStore:
        if self._store is None:
            raise RuntimeError("MlflowCheckpoint logs during fit only")
        return self._store

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            warnings.warn(message, stacklevel=2)
            self._warned.add(message)

    def _print(self, line: str) -> None:
        # Keras's progress bar leaves the cursor behind itself.
        start = "\n" if self.params.get("verbose") == 1 else ""
        print(f"{start}{line}", flush=True)  # noqa: T201


def _scalars(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the scalar values among the logs, which may be NumPy's or the backend's."""
    scalars = {}
    for name, value in (logs or {}).items():
        array = keras.ops.convert_to_numpy(value)
        if array.size == 1 and array.dtype.kind in "biuf":
            scalars[name] = float(array.reshape(()))
    return scalars


def _describe(saved: Saved, run_id: str, monitor: str, improved: bool) -> str:
    manifest = saved.manifest
    value = manifest.metrics.get(monitor, math.nan)
    best = f", {monitor}={value:.4f} is the best so far" if improved else ""
    return (
        f"Saved checkpoint {manifest.name} of run {run_id}: {manifest.size / 1e6:.1f} MB, "
        f"weights {str(manifest.weights_digest)[:19]}…{best}"
    )
