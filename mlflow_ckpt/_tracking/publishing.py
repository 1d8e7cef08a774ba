"""Uploads a checkpoint's directory to a run: data, MLmodel, manifest.json, then tags.

A claim (`claims`) keeps other processes from uploading to the same directory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.ranking import best_name
from mlflow_ckpt._tracking import index, tags
from mlflow_ckpt._tracking.claims import Claim
from mlflow_ckpt._tracking.parallel import in_parallel
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.ui import logged_models, pages
from mlflow_ckpt.errors import (
    CheckpointExistsError,
    ManifestError,
    NewerSchemaError,
    TrackingError,
    TrackingUnavailableError,
)

# Uploaded last, because readers consider a checkpoint complete once these files exist.
_LAST = (layout.MLMODEL, layout.MANIFEST)
# Concurrent uploads: enough to hide the latency, few enough for a small server.
_PARALLEL = 4

# Called with the size of a file, in bytes, once it is uploaded.
OnUploaded = Callable[[int], None]


def publish(
    store: RunStore,
    directory: Path,
    manifest: Manifest,
    *,
    token: str,
    on_uploaded: OnUploaded | None = None,
) -> None:
    """Upload a checkpoint: its data in parallel, then `MLmodel`, then the manifest.

    May be repeated after a failure, also from another process.

    Args:
        store: The run.
        directory: The checkpoint's files, including the manifest.
        manifest: The manifest.
        token: Identifies the upload of this checkpoint; the same on every attempt.
        on_uploaded: Called with the size of every file, in bytes, once it is uploaded.

    Raises:
        CheckpointExistsError: If the run has another checkpoint of that name. It is not changed.
        CheckpointBusyError: If another process is uploading a checkpoint of that name.
        TrackingError: If the server or the store fails. The files uploaded so far are no checkpoint
            without the manifest.
    """
    claim = Claim(store, manifest.name, token)
    if _is_published(store, manifest, claim.path):
        claim.withdraw()
        return
    claim.take()
    try:
        published = _is_published(store, manifest, claim.path)
    except CheckpointExistsError:
        claim.withdraw()
        raise
    if not published:
        with claim.kept_alive():
            _clear_leftovers(store, directory, manifest, claim)
            _upload_files(store, directory, manifest, claim, on_uploaded)
    # The claim stays if the upload failed: the next attempt has the same token.
    claim.withdraw()


def announce(store: RunStore, manifest: Manifest, model_id: str | None = None) -> list[Manifest]:
    """Update the run's index, tags and pages after a checkpoint was uploaded.

    Args:
        store: The run.
        manifest: The checkpoint's manifest.
        model_id: Its row in the Models table; None without one.

    Returns:
        The manifests of all checkpoints of the run, oldest first.
    """
    manifests = index.record(store, manifest)
    run = store.current_run()
    best = best_name(manifests)
    selected = {tags.LATEST: manifests[-1].name, **({} if best is None else {tags.BEST: best})}
    store.set_tags(selected | pages.page_tags(store, manifests, best, run))
    logged_models.complete(store, manifest, model_id, run)
    return manifests


def upload_order(paths: Sequence[str]) -> list[str]:
    """Return the files of a checkpoint in upload order, the manifest last."""
    data = sorted(path for path in paths if path not in _LAST)
    return [*data, *(path for path in _LAST if path in paths or path == layout.MANIFEST)]


def exists_error(run_id: str, name: str) -> CheckpointExistsError:
    """Return the error for a checkpoint that already exists in the run."""
    return CheckpointExistsError(
        f"The run {run_id} already has a checkpoint {name}, which is never overwritten. "
        "Train in another run, or continue from the run's last epoch (fit's initial_epoch).",
        run_id=run_id,
        name=name,
    )


def _is_published(store: RunStore, manifest: Manifest, claim: str) -> bool:
    """Whether the run has exactly this checkpoint.

    Raises:
        CheckpointExistsError: If it has another checkpoint of that name.
    """
    target = layout.artifact_path(manifest.name)
    path = f"{target}/{layout.MANIFEST}"
    paths = {item.path for item in store.list(target)}
    text = store.read(path) if path in paths else None
    if text is None:
        return False
    try:
        if Manifest.from_json(text) == manifest:
            return True
    except ManifestError as error:
        # With this upload's claim, its last attempt died while writing the manifest. Otherwise the
        # checkpoint is another one, which must not be overwritten although it is damaged.
        if claim in paths and not isinstance(error, NewerSchemaError):
            return False
    raise exists_error(store.run_id, manifest.name)


def _upload_files(
    store: RunStore,
    directory: Path,
    manifest: Manifest,
    claim: Claim,
    on_uploaded: OnUploaded | None,
) -> None:
    target = PurePosixPath(layout.artifact_path(manifest.name))

    def upload(path: str) -> None:
        # Not over what another process completed since it took over.
        claim.require()
        store.upload(directory / path, str((target / path).parent))
        if on_uploaded is not None:
            on_uploaded((directory / path).stat().st_size)

    order = upload_order([entry.path for entry in manifest.files] + _signature(directory))
    data = [path for path in order if path not in _LAST]
    in_parallel(upload, data, _PARALLEL)
    for path in order[len(data) :]:
        upload(path)


def _signature(directory: Path) -> list[str]:
    """Return the path of the checkpoint's signature, if it is signed."""
    return [layout.SIGNATURE] if (directory / layout.SIGNATURE).is_file() else []


def _clear_leftovers(store: RunStore, directory: Path, manifest: Manifest, claim: Claim) -> None:
    """Delete files of an aborted upload that the new manifest does not list."""
    target = layout.artifact_path(manifest.name)
    paths = [entry.path for entry in manifest.files] + _signature(directory)
    expected = {claim.path, *(f"{target}/{path}" for path in paths)}
    leftovers = [item.path for item in store.walk(target) if item.path not in expected]
    if not leftovers:
        return
    failure: TrackingError | None = None
    for path in leftovers:
        try:
            store.delete(path)
        except TrackingUnavailableError:
            raise
        except TrackingError as error:
            failure = error  # perhaps because a prune deleted it: list again
    remaining = [item.path for item in store.walk(target) if item.path not in expected]
    if remaining:
        raise TrackingError(
            f"An aborted upload left {remaining[0]} behind, and the artifact store does not delete "
            f"it. Delete the directory {target} of run {store.run_id} manually."
        ) from failure
