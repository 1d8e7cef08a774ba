"""Publishes a checkpoint's directory into a run: data, MLmodel, manifest.json, then tags.

A store of artifacts offers no way to write a file only if it is not there. So whoever uploads a
checkpoint first leaves a claim in its directory, and goes on only if it finds no other's.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.ranking import best_name
from mlflow_ckpt._tracking import index, tags
from mlflow_ckpt._tracking.parallel import in_parallel
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.ui import logged_models, pages
from mlflow_ckpt.errors import (
    CheckpointBusyError,
    CheckpointExistsError,
    ManifestError,
    NewerSchemaError,
    TrackingError,
)

# What a reader looks for comes last, so that what it finds is whole.
_LAST = (layout.MLMODEL, layout.MANIFEST)
# Files under way at once: enough to hide a round trip, few enough for a small server.
_PARALLEL = 4
# A process that died elsewhere leaves its claim behind. Hardly a checkpoint takes this long.
_CLAIM_SECONDS = 3600

Progress = Callable[[int], None]


def publish(
    store: RunStore,
    directory: Path,
    manifest: Manifest,
    *,
    token: str,
    progress: Progress | None = None,
) -> None:
    """Upload a checkpoint: its data in parallel, then `MLmodel`, then the manifest.

    May be called again after a failure, and after the process that called it died.

    Args:
        store: The run.
        directory: The checkpoint's files, the manifest among them.
        manifest: The same manifest.
        token: The same at every call for this checkpoint, and another for any other.
        progress: Called with the size of each file, in bytes, once it is uploaded.

    Raises:
        CheckpointExistsError: If the run has another checkpoint of that name; nothing is changed.
        CheckpointBusyError: If another process is uploading one of that name.
        TrackingError: If the server or the store fails. Without its manifest, what was uploaded is
            not a checkpoint.
    """
    target = layout.artifact_path(manifest.name)
    claim = f"{target}/{layout.claim_name(token)}"
    if _is_published(store, manifest, claim):
        _withdraw(store, claim)
        return
    _refuse_other_claims(store, manifest.name, claim)
    store.write_text(claim, _claim())
    try:
        # Both may have looked before either claimed: then both see both now, and both give way.
        _refuse_other_claims(store, manifest.name, claim)
        published = _is_published(store, manifest, claim)
    except (CheckpointBusyError, CheckpointExistsError):
        _withdraw(store, claim)
        raise
    if not published:
        wanted = {claim, *(f"{target}/{entry.path}" for entry in manifest.files)}
        _clear_leftovers(store, target, wanted)
        _upload_files(store, directory, manifest, claim, progress)
    # Not where the upload failed: the next attempt, which has the same token, finds its own claim.
    _withdraw(store, claim)


def announce(store: RunStore, manifest: Manifest, model_id: str | None = None) -> list[Manifest]:
    """Bring the run's index, tags and pages up to date with a checkpoint that it has.

    Args:
        store: The run.
        manifest: The checkpoint's manifest.
        model_id: Its row in the Models table; None if it has none.

    Returns:
        The manifests of all its checkpoints, oldest first.

    Raises:
        TrackingError: If the server fails.
    """
    found = index.record(store, manifest)
    run = store.current_run()
    best = best_name(found)
    selected = {tags.LATEST: found[-1].name, **({} if best is None else {tags.BEST: best})}
    store.set_tags(selected | pages.page_tags(store, found, best, run))
    logged_models.complete(store, manifest, model_id, run)
    return found


def upload_order(paths: Sequence[str]) -> list[str]:
    """Return the files of a checkpoint in the order of their upload, the manifest last."""
    data = sorted(path for path in paths if path not in _LAST)
    return [*data, *(path for path in _LAST if path in paths or path == layout.MANIFEST)]


def exists_error(run_id: str, name: str) -> CheckpointExistsError:
    """Return the error for a checkpoint that the run has already."""
    return CheckpointExistsError(
        f"The run {run_id} has a checkpoint {name} already, which is never overwritten. "
        "Train into another run, or go on from the run's last epoch (fit's initial_epoch).",
        run_id=run_id,
        name=name,
    )


def _is_published(store: RunStore, manifest: Manifest, claim: str) -> bool:
    """Whether the run has this very checkpoint.

    Raises:
        CheckpointExistsError: If it has another one of that name.
    """
    target = layout.artifact_path(manifest.name)
    path = f"{target}/{layout.MANIFEST}"
    listed = {item.path for item in store.list(target)}
    text = store.read(path) if path in listed else None
    if text is None:
        return False
    try:
        if Manifest.from_json(text) == manifest:
            return True
    except ManifestError as error:
        # Where our own claim still is, our own upload died while it wrote the manifest. Elsewhere,
        # a damaged checkpoint is not overwritten either.
        if claim in listed and not isinstance(error, NewerSchemaError):
            return False
    raise exists_error(store.run_id, manifest.name)


def _refuse_other_claims(store: RunStore, name: str, own: str) -> None:
    for item in store.list(layout.artifact_path(name)):
        if layout.is_claim(item.path.rpartition("/")[2]) and item.path != own:
            holder = _read_claim(store, item.path)
            if holder is not None:
                raise _busy_error(store.run_id, name, holder)


def _require_claim(store: RunStore, name: str, own: str) -> None:
    """Raise if another process took an upload for dead that took too long, and cleared it away."""
    if all(item.path != own for item in store.list(layout.artifact_path(name))):
        raise _busy_error(store.run_id, name, "that took over")


def _busy_error(run_id: str, name: str, holder: str) -> CheckpointBusyError:
    return CheckpointBusyError(
        f"The process {holder} is saving the checkpoint {name} of run {run_id} as well. "
        "Let one process at a time train into a run.",
        run_id=run_id,
        name=name,
    )


def _claim() -> str:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()})


def _read_claim(store: RunStore, path: str) -> str | None:
    """Return who holds a claim; None if nobody does any more."""
    text = store.read(path)
    if text is None:
        return None
    try:
        content = json.loads(text)
        host, pid, since = str(content["host"]), int(content["pid"]), float(content["time"])
    except (KeyError, TypeError, ValueError):
        # Stores are seen to have a file before they have all of it.
        return f"of {path}" if _has_young_token(path) else None
    if time.time() - since > _CLAIM_SECONDS:
        return None
    if host == socket.gethostname() and not _is_alive(pid):
        return None
    return f"{pid} on {host}"


def _has_young_token(path: str) -> bool:
    """Whether a claim's name tells that its entry was made a short while ago."""
    found = re.search(r"upload-(\d+)-", path)
    return found is not None and time.time() - int(found[1]) / 1e9 < _CLAIM_SECONDS


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # there, signal 0 would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _withdraw(store: RunStore, claim: str) -> None:
    """Delete a claim; where that fails, readers ignore it and it expires."""
    try:
        store.delete(claim)
    except TrackingError:
        return


def _upload_files(
    store: RunStore, directory: Path, manifest: Manifest, claim: str, progress: Progress | None
) -> None:
    target = PurePosixPath(layout.artifact_path(manifest.name))

    def upload(path: str) -> None:
        store.upload(directory / path, str((target / path).parent))
        if progress is not None:
            progress((directory / path).stat().st_size)

    order = upload_order([entry.path for entry in manifest.files])
    data = [path for path in order if path not in _LAST]
    in_parallel(upload, data, _PARALLEL)
    _require_claim(store, manifest.name, claim)
    for path in order[len(data) :]:
        upload(path)


def _clear_leftovers(store: RunStore, target: str, wanted: Collection[str]) -> None:
    """Delete what an upload that died left behind, which the new manifest does not know.

    Raises:
        TrackingError: If the store does not delete.
    """
    leftovers = [item.path for item in store.walk(target) if item.path not in wanted]
    if not leftovers:
        return
    for path in leftovers:
        store.delete(path)
    remaining = [item.path for item in store.walk(target) if item.path not in wanted]
    if remaining:
        raise TrackingError(
            f"An earlier upload that died left {remaining[0]} behind, and the artifact store does "
            f"not delete it. Delete the directory {target} of run {store.run_id} by hand."
        )
