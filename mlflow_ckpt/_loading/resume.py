"""Resumes a training: its model, its state, and the callbacks that restore it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import keras
import mlflow

from mlflow_ckpt._callback import MlflowCheckpoint
from mlflow_ckpt._format.changes import changed_code, changed_values, changed_versions
from mlflow_ckpt._format.lineage import Origin
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.reference import Query
from mlflow_ckpt._format.signing.trust import SignedBy
from mlflow_ckpt._loading.newest_valid import open_for_resume
from mlflow_ckpt._model.capture import code, keras_config, layers
from mlflow_ckpt._model.files import training_state
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._model.keras_private import compiled_model
from mlflow_ckpt._model.rebuild import compiling, fill, model_loader
from mlflow_ckpt._model.rebuild.compiling import Compile
from mlflow_ckpt._model.rebuild.put_back import PutBack
from mlflow_ckpt._model.training import callback_state
from mlflow_ckpt._model.training.restorer import ADVICE, StateRestorer, changed_settings
from mlflow_ckpt._saving.arguments import arguments_of
from mlflow_ckpt._saving.compose import versions
from mlflow_ckpt._saving.group import BESIDE
from mlflow_ckpt._saving.training import settle_run
from mlflow_ckpt._shown.warn import warn
from mlflow_ckpt._tracking import claims, removal
from mlflow_ckpt._tracking.checkpoint import Checkpoint
from mlflow_ckpt._tracking.download import Progress
from mlflow_ckpt._tracking.references import resolve
from mlflow_ckpt._tracking.removed import again_if_removed
from mlflow_ckpt._tracking.spool.sending import send_waiting
from mlflow_ckpt._tracking.store import RunStore

# Returns the model with the checkpoint's state, and its differences from the saved one.
Rebuilt = tuple[keras.Model, list[str]]
Rebuild = Callable[[Path, Manifest, TrainingState], Rebuilt]


@dataclass(frozen=True)
class ResumePoint:
    """A saved training, ready to be continued.

        point.model.fit(data, epochs=10, initial_epoch=point.initial_epoch,
                        callbacks=point.callbacks)

    Attributes:
        model: The model with its saved weights, optimizer, compile settings and seed generators.
        checkpoint: The checkpoint.
        initial_epoch: Number of completed epochs.
        initial_batch: Number of completed batches of the current epoch; 0 between two epochs.
        callbacks: The callbacks to pass to `fit`: one that restores their states, those passed to
            `resume`, and the `MlflowCheckpoint`s that were recorded unless one was passed.
        changes: Differences from the saved training, as phrases.
    """

    model: keras.Model
    checkpoint: Checkpoint
    initial_epoch: int
    initial_batch: int
    callbacks: list[keras.callbacks.Callback]
    changes: tuple[str, ...] = ()


def resume(
    run_id: str,
    checkpoint: str | int = "latest",
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    in_place: bool = False,
    replay_data: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
    compile: Compile | None = None,  # noqa: A002 - Keras's word
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
    signed_by: SignedBy = (),
    progress: Progress | None = None,
) -> ResumePoint:
    """Rebuild a training from a checkpoint, to continue as if it had never stopped.

    One warning names everything that cannot be restored, by name and value. If the newest
    checkpoint is damaged or incomplete, the newest valid one is used, with a warning.

    Args:
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…` (docs/cli.md).
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        callbacks: Callbacks created as for the first training; their states are restored.
        in_place: Continue in the same run instead of a new child run. Also the case while that run
            is MLflow's active one. States that no earlier training of the run goes on: uploads that
            it began on another machine are ended, so that they do not block this one's.
        replay_data: Read data that cannot be saved, such as Python generators, again from their
            beginning, and discard the batches that were trained on.
        custom_objects: Custom classes and functions of the model by name, unless registered with
            Keras.
        compile: A function that takes the rebuilt, uncompiled model and compiles it, if that cannot
            be done from the checkpoint; it returns None, or the model to use. The state of the
            optimizers is loaded afterwards.
        monitor: For `"best"`, the metric to rank by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        tracking_uri: The tracking server; MLflow's current one if None.
        signed_by: By whom the checkpoint must be signed (docs/signing.md).
        progress: Called with bytes done and total bytes if files are downloaded.

    Raises:
        NotFoundError, SelectorError, TrackingError, VerificationError, SignatureError,
            FormNotFoundError, ModelError, FingerprintMismatchError: As in `load_model`.
    """

    def rebuild(directory: Path, manifest: Manifest, state: TrainingState) -> Rebuilt:
        put_back = PutBack()

        def compile_model(model: keras.Model) -> keras.Model:
            compiled = compiling.compile_with(model, cast(Compile, compile))
            # Before the optimizer's variables are replaced, which include compile settings.
            put_back.lost.extend(changed_settings(compiled, state, to_be_loaded=True))
            return compiled

        how = True if compile is None else compile_model
        model = model_loader.load_full(directory, manifest, custom_objects, how, put_back)
        return model, put_back.lost

    query = Query(run_id, checkpoint, monitor, mode, tracking_uri, signed_by)
    return _resume(query, rebuild, callbacks, in_place, replay_data, progress)


def restore(
    model: keras.Model,
    run_id: str,
    checkpoint: str | int = "latest",
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    in_place: bool = False,
    replay_data: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
    signed_by: SignedBy = (),
    progress: Progress | None = None,
) -> ResumePoint:
    """Load a checkpoint's complete state into a model that is already built and compiled.

    Replaces either all weights, optimizer variables and seed generators, or none.

    Args:
        model: A built and compiled model.
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…` (docs/cli.md).
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        callbacks: As in `resume`.
        in_place: As in `resume`.
        replay_data: As in `resume`.
        custom_objects: Needed only if the checkpoint's only form is legacy HDF5.
        monitor: For `"best"`, the metric to rank by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        tracking_uri: The tracking server; MLflow's current one if None.
        signed_by: By whom the checkpoint must be signed (docs/signing.md).
        progress: Called with bytes done and total bytes if files are downloaded.

    Raises:
        WeightsMismatchError: If a weight or an optimizer variable does not fit.
        ModelLoadError: If the seed generators differ.
        NotFoundError, SelectorError, TrackingError, VerificationError, SignatureError: As in
            `resume`.
    """

    def rebuild(directory: Path, manifest: Manifest, state: TrainingState) -> Rebuilt:
        # Before the optimizer's variables are replaced, which include compile settings.
        changes = changed_settings(model, state, to_be_loaded=True)
        changes += layers.changed_trainable(model, state.layers)
        changes += fill.fill_all(model, directory, manifest, custom_objects)
        return model, changes

    query = Query(run_id, checkpoint, monitor, mode, tracking_uri, signed_by)
    return _resume(query, rebuild, callbacks, in_place, replay_data, progress)


def _resume(
    query: Query,
    rebuild: Rebuild,
    callbacks: Sequence[keras.callbacks.Callback],
    in_place: bool,
    replay_data: bool,
    progress: Progress | None,
) -> ResumePoint:
    """Open the checkpoint, rebuild the model, and prepare the callbacks."""
    reference = resolve(query.run, query.checkpoint, query.tracking_uri)
    store = RunStore(reference.run_id, query.tracking_uri)
    settle_run(store.run_id)
    in_place = in_place or _is_active(store)
    if in_place:
        claims.end_all(store)
    # The run's newest checkpoint may still be in this machine's spool.
    send_waiting(store)

    @again_if_removed
    def rebuild_newest() -> tuple[Checkpoint, Mapping[str, str], TrainingState, Rebuilt]:
        with open_for_resume(store, reference.selector, query, progress) as opened:
            checkpoint, directory, damaged = opened
            state = training_state.read(directory)
            return checkpoint, damaged, state, rebuild(directory, checkpoint.manifest, state)

    checkpoint, damaged, state, (model, changes) = rebuild_newest()
    compiled_model.around_building(model, lambda: PutBack.keeping(model))
    changes += _end_finished_epoch(state)
    callbacks, unknown = _with_checkpoints(list(keras.tree.flatten(list(callbacks))), state)
    changes += [*unknown, *_changes(model, checkpoint, state, callbacks)]
    if in_place:
        # A training in the same run will write these checkpoints again.
        for name in damaged:
            removal.remove(store, name)
    if changes:
        warn(f"{ADVICE}{'; '.join(changes)}.")
    digest = str(checkpoint.manifest.weights_digest)
    origin = Origin(checkpoint.run_id, checkpoint.name, digest, store.tracking_uri)
    for callback in callbacks:
        if isinstance(callback, MlflowCheckpoint):
            callback.resume_from(origin, in_place=in_place, batch=state.batch)
    restorer = StateRestorer(
        *(state, callbacks, checkpoint.name, changes),
        replay_data=replay_data,
        data_state_limit=next(
            callback.data_state_limit
            for callback in callbacks
            if isinstance(callback, MlflowCheckpoint)
        ),
    )
    return ResumePoint(
        model=model,
        checkpoint=checkpoint,
        initial_epoch=state.epoch,
        initial_batch=state.batch,
        callbacks=[restorer, *callbacks],
        changes=tuple(changes),
    )


def _is_active(store: RunStore) -> bool:
    """Whether a run is MLflow's active one, which is on MLflow's current server."""
    active = mlflow.active_run()
    same = active is not None and active.info.run_id == store.run_id
    return same and RunStore(store.run_id).tracking_uri == store.tracking_uri


def _end_finished_epoch(state: TrainingState) -> list[str]:
    """Move a state saved after an epoch's last batch to the next epoch; return what is skipped.

    If the callbacks had not been told of its end, that is made up for instead, except on JAX, where
    `fit` fails in an epoch without batches.
    """
    pending = state.validation_pending and keras.config.backend() != "jax"
    if pending or state.batch == 0 or state.batch != state.steps:
        return []
    state.validation_pending = False
    state.epoch, state.batch = state.epoch + 1, 0
    return [
        f"the checkpoint was saved after the last batch of epoch {state.epoch}: its "
        "validation, and what callbacks do at the end of an epoch, are skipped"
    ]


def _with_checkpoints(
    callbacks: list[keras.callbacks.Callback], state: TrainingState
) -> tuple[list[keras.callbacks.Callback], list[str]]:
    """Add the recorded `MlflowCheckpoint`s unless there is one; name settings they lack."""
    if any(isinstance(callback, MlflowCheckpoint) for callback in callbacks):
        return callbacks, []
    first = dict(state.settings or {})
    recorded = [first, *first.pop(BESIDE, ())]
    restored = [arguments_of(settings) for settings in recorded]
    ours = [MlflowCheckpoint(**arguments) for arguments, _ in restored]
    return [*callbacks, *ours], [phrase for _, unknown in restored for phrase in unknown]


def _changes(
    model: keras.Model,
    checkpoint: Checkpoint,
    state: TrainingState,
    callbacks: Sequence[keras.callbacks.Callback],
) -> list[str]:
    """Return the differences of the resumed training from the saved one, as phrases."""
    changes = list(changed_versions(checkpoint.manifest.versions, versions()))
    changes += changed_code(state.code, code.digests(model))
    if state.keras_config is not None:
        changes += changed_values("keras.config", state.keras_config, keras_config.current())
    if state.callbacks is None or state.random is None:
        changes.append(
            f"{checkpoint.name} holds no states of callbacks and random generators (an older "
            "mlflow_ckpt, or no training, saved it)"
        )
    else:
        changes += callback_state.compare(callbacks, state.callbacks)
    changes += [*layers.frozen_since_built(model), *state.unsaved]
    if state.stopped:
        changes.append("a callback had ended the training there, and now it goes on")
    for callback in callbacks:
        swapped = isinstance(callback, keras.callbacks.SwapEMAWeights) and callback.swap_on_epoch
        if swapped and state.epochs == state.epoch and not state.dropped:
            changes.append(
                "SwapEMAWeights put the moving average in the place of the weights for good, as "
                f"epoch {state.epoch} was to be the last"
            )
    if any(isinstance(callback, keras.callbacks.BackupAndRestore) for callback in callbacks):
        changes.append("BackupAndRestore overwrites the restored state: remove it")
    return changes
