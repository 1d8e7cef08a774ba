"""Resume a training: a model, its training's state, and callbacks that put it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from mlflow_ckpt._callback import MlflowCheckpoint
from mlflow_ckpt._format.changes import changed_code, changed_versions
from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.lineage import Origin
from mlflow_ckpt._format.reference import Selector
from mlflow_ckpt._model.files import training_state
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._model.rebuild import fill, model_loader
from mlflow_ckpt._model.training import callback_state
from mlflow_ckpt._model.training.fit_context import code_digests
from mlflow_ckpt._model.training.restorer import ADVICE, StateRestorer, changed_settings
from mlflow_ckpt._saving.arguments import arguments_of
from mlflow_ckpt._saving.compose import versions
from mlflow_ckpt._tracking import removal
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.checkpoint import Checkpoint
from mlflow_ckpt._tracking.download import Progress
from mlflow_ckpt._tracking.references import resolve
from mlflow_ckpt._tracking.spool import sending
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._warn import warn
from mlflow_ckpt.errors import (
    CheckpointNotFoundError,
    MlflowCkptError,
    NewerSchemaError,
    TrackingUnavailableError,
    VerificationError,
)

Rebuild = Callable[[Path, Checkpoint], keras.Model]


@dataclass(frozen=True)
class ResumePoint:
    """A training that was saved, ready to go on.

        point.model.fit(data, epochs=10, initial_epoch=point.initial_epoch,
                        callbacks=point.callbacks)

    Attributes:
        model: Weights, optimizer, compile settings and seed generators as they were saved.
        checkpoint: The checkpoint that it comes from.
        initial_epoch: Number of completed epochs.
        initial_batch: Batches done of the epoch under way; 0 between two epochs.
        callbacks: What to pass to `fit`: the callbacks that were given, an `MlflowCheckpoint` if
            none was, and before them the one that puts their states back.
        changes: How the training differs from the one that was saved, one phrase each.
    """

    model: keras.Model
    checkpoint: Checkpoint
    initial_epoch: int
    initial_batch: int
    callbacks: list[keras.callbacks.Callback]
    changes: tuple[str, ...] = field(default=())


def resume(
    run_id: str,
    checkpoint: str | int = "latest",
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    in_place: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
) -> ResumePoint:
    """Rebuild a training from a checkpoint, to go on as if it had never stopped.

    What cannot be as it was is named in one warning, by name and value. Where the newest checkpoint
    is damaged or was never uploaded whole, the newest valid one is taken, and that is said.

    Args:
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…` (docs/cli.md).
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        callbacks: Callbacks made as for the first training; their states are put back.
        in_place: Go on in the same run, rather than in a new one whose parent it is. So does a
            training while that run is MLflow's active one.
        custom_objects: Classes and functions by name, which the model uses and which are not
            registered with Keras.
        monitor: For `"best"`, the metric to judge by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        tracking_uri: The tracking server; MLflow's current one if None.
        progress: Called with bytes done and bytes in all, where files are downloaded.

    Raises:
        NotFoundError, SelectorError, TrackingError: As in `load_model`.
        VerificationError, FormNotFoundError, ModelError, FingerprintMismatchError: As there.
    """

    def rebuild(directory: Path, found: Checkpoint) -> keras.Model:
        return model_loader.load_full(directory, found.manifest, custom_objects)

    source = _Source(run_id, checkpoint, monitor, mode, tracking_uri, progress)
    return source.point(rebuild, callbacks, in_place=in_place)


def restore(
    model: keras.Model,
    run_id: str,
    checkpoint: str | int = "latest",
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    in_place: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
) -> ResumePoint:
    """Fill a model that you built and compiled with a checkpoint's whole state.

    Weights, optimizer variables and seed generators are replaced, or nothing is.

    Args:
        model: A built and compiled model.
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…` (docs/cli.md).
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        callbacks: As in `resume`.
        in_place: As in `resume`.
        custom_objects: Needed only where the checkpoint has nothing but legacy HDF5.
        monitor: For `"best"`, the metric to judge by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        tracking_uri: The tracking server; MLflow's current one if None.
        progress: Called with bytes done and bytes in all, where files are downloaded.

    Raises:
        WeightsMismatchError: If a weight or a variable of the optimizer does not fit.
        NotFoundError, SelectorError, TrackingError, VerificationError: As in `resume`.
    """

    def rebuild(directory: Path, found: Checkpoint) -> keras.Model:
        # What the user compiled it with is gone once the optimizer's variables are in.
        state = training_state.read(directory)
        source.changes += changed_settings(model, state)
        fill.fill_all(model, directory, found.manifest, custom_objects)
        return model

    source = _Source(run_id, checkpoint, monitor, mode, tracking_uri, progress)
    return source.point(rebuild, callbacks, in_place=in_place)


class _Source:
    """The run, and the checkpoint of it, that a training goes on from."""

    def __init__(
        self,
        run_id: str,
        checkpoint: str | int,
        monitor: str | None,
        mode: str | None,
        tracking_uri: str | None,
        progress: Progress | None,
    ) -> None:
        reference = resolve(run_id, checkpoint, tracking_uri)
        self.changes: list[str] = []
        self._selector = reference.selector
        self._judging = {"monitor": monitor, "mode": mode}
        self._store = RunStore(reference.run_id, tracking_uri)
        self._catalog = Catalog(self._store)
        self._progress = progress
        self._damaged: dict[str, str] = {}

    def point(
        self, rebuild: Rebuild, callbacks: Sequence[keras.callbacks.Callback], *, in_place: bool
    ) -> ResumePoint:
        """Rebuild the model and all that belongs to it."""
        self._send_what_waits()
        found, model, state = self._rebuilt(rebuild)
        if in_place:
            self._clear_the_way()
        given = _with_checkpoints(list(keras.tree.flatten(list(callbacks))), state)
        epoch_over = state.batch > 0 and state.batch == state.steps
        if epoch_over:
            self.changes.append(
                f"the checkpoint was saved after the last batch of epoch {state.epoch + 1}: its "
                "validation, and what callbacks do at the end of an epoch, are left out"
            )
            state.epoch, state.batch = state.epoch + 1, 0
        self.changes += _changes(model, found, state, given)
        if self.changes:
            warn(f"{ADVICE}{'; '.join(self.changes)}.")
        manifest = found.manifest
        origin = Origin(
            found.run_id, found.name, str(manifest.weights_digest), self._store.tracking_uri
        )
        for callback in given:
            if isinstance(callback, MlflowCheckpoint):
                callback.resume_from(origin, in_place=in_place, batch=state.batch)
        restorer = StateRestorer(state, given, found.name, self.changes)
        return ResumePoint(
            model=model,
            checkpoint=found,
            initial_epoch=state.epoch,
            initial_batch=state.batch,
            callbacks=[restorer, *given],
            changes=tuple(self.changes),
        )

    def _send_what_waits(self) -> None:
        """Send what this machine's spool holds of the run: its newest state may be there."""
        spool = Spool.default()
        for entry in spool.entries(self._store.run_id):
            if entry.tracking_uri != self._store.tracking_uri:
                continue
            try:
                self._store.require_answer()
                sending.send(spool, entry, self._store, lambda _: None, verified=True)
            except TrackingUnavailableError:
                raise
            except (MlflowCkptError, OSError) as error:
                warn(
                    f"{entry.label} of the run {self._store.run_id} waits in this machine's spool "
                    f"and could not be sent: {error}"
                )

    def _rebuilt(self, rebuild: Rebuild) -> tuple[Checkpoint, keras.Model, TrainingState]:
        if self._selector != Selector("latest"):
            found = self._catalog.find(self._selector, **self._judging)
            with self._catalog.fetch(found, self._progress) as directory:
                return found, rebuild(directory, found), training_state.read(directory)
        complete, damaged, unfinished = self._catalog.survey()
        for error in damaged.values():
            if isinstance(error, NewerSchemaError):
                raise error
        self._damaged = {name: str(error) for name, error in damaged.items()}
        for found in reversed(complete):
            try:
                with self._catalog.fetch(found, self._progress) as directory:
                    state = training_state.read(directory)
                    model = rebuild(directory, found)
            except VerificationError as error:
                self._damaged[found.name] = str(error)
                continue
            self._tell_of_newer(found, unfinished)
            return found, model, state
        listed = "; ".join(f"{name}: {why}" for name, why in self._damaged.items())
        raise CheckpointNotFoundError(
            f"The run {self._store.run_id} has no valid checkpoint to resume from"
            + (f". {listed}" if listed else ", nor any other."),
            run_id=self._store.run_id,
        )

    def _tell_of_newer(self, found: Checkpoint, unfinished: Sequence[str]) -> None:
        """Say which checkpoints would have come first, had they been valid."""
        self._damaged = {n: why for n, why in self._damaged.items() if _is_newer(n, found)}
        newer = {**self._damaged}
        newer |= {
            name: "it was not uploaded whole" for name in unfinished if _is_newer(name, found)
        }
        if newer:
            listed = "; ".join(f"{name}: {why}" for name, why in newer.items())
            warn(
                f"Resuming from {found.name}, the newest valid checkpoint of the run "
                f"{found.run_id}. Newer ones cannot be used. {listed}"
            )

    def _clear_the_way(self) -> None:
        """Remove damaged checkpoints that a training in the same run will write again."""
        for name in self._damaged:
            removal.remove(self._store, name)


def _with_checkpoints(
    callbacks: list[keras.callbacks.Callback], state: TrainingState
) -> list[keras.callbacks.Callback]:
    if any(isinstance(callback, MlflowCheckpoint) for callback in callbacks):
        return callbacks
    arguments = {} if state.settings is None else arguments_of(state.settings)
    return [*callbacks, MlflowCheckpoint(**arguments)]


def _is_newer(name: str, found: Checkpoint) -> bool:
    parsed = CheckpointName.parse(name)
    if parsed is None:
        return False
    manifest = found.manifest
    return parsed.number > (manifest.epoch if parsed.unit == "epoch" else manifest.step)


def _changes(
    model: keras.Model,
    found: Checkpoint,
    state: TrainingState,
    callbacks: Sequence[keras.callbacks.Callback],
) -> list[str]:
    """Tell how the training that goes on differs from the one that was saved."""
    changes = list(changed_versions(found.manifest.versions, versions()))
    changes += changed_code(state.code, code_digests(model))
    if state.callbacks is None or state.random is None:
        changes.append(
            f"{found.name} holds no states of callbacks and random generators (an older "
            "mlflow_ckpt, or no training, saved it)"
        )
    else:
        changes += callback_state.compare(callbacks, state.callbacks)
    changes += state.unsaved
    if state.stopped:
        changes.append("a callback had ended the training there, and now it goes on")
    for each in callbacks:
        swapped = isinstance(each, keras.callbacks.SwapEMAWeights) and each.swap_on_epoch
        if swapped and state.epochs == state.epoch:
            changes.append(
                "SwapEMAWeights put the moving average in the place of the weights for good, as "
                f"epoch {state.epoch} was to be the last"
            )
    if any(isinstance(each, keras.callbacks.BackupAndRestore) for each in callbacks):
        changes.append("BackupAndRestore restores a state of its own over this one: leave it out")
    return changes
