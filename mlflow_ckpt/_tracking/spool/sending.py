"""Sends one entry of the spool to its run."""

from __future__ import annotations

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.verification import read_manifest, verify_directory
from mlflow_ckpt._shown.warn import warn, warn_once
from mlflow_ckpt._tracking import claims, deleted_runs, publishing, visibility
from mlflow_ckpt._tracking.claims import ClaimUndecidedError
from mlflow_ckpt._tracking.publishing import OnUploaded
from mlflow_ckpt._tracking.spool import disk, entries, servers
from mlflow_ckpt._tracking.spool.drafts import Draft
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.ui import logged_models
from mlflow_ckpt.errors import (
    CheckpointBusyError,
    IntegrityError,
    MlflowCkptError,
    RequestRefusedError,
    RunNotFoundError,
    TrackingError,
    TrackingUnavailableError,
)

# Between two looks at a claim.
_POLL_SECONDS = 2.0


def send(
    spool: Spool,
    entry: Entry,
    store: RunStore,
    on_uploaded: OnUploaded | None = None,
    *,
    verified: bool = False,
) -> Manifest | None:
    """Send an entry and remove it from the spool. Safe to repeat, also from several processes.

    Args:
        spool: The spool that holds the entry.
        entry: The entry.
        store: Its run.
        on_uploaded: Called with the size of every file, in bytes, once it is uploaded.
        verified: Whether to verify a checkpoint's files first, for entries that may have been in
            the spool for a long time.

    Returns:
        The manifest of the uploaded checkpoint; None for metrics, tags and a status, for a
        checkpoint that was removed before its announcement, and if another process sent the entry.

    Raises:
        CheckpointBusyError: If it, or a checkpoint of the same name, is being sent already.
        CheckpointExistsError: If the run has another checkpoint of that name. The entry stays.
        IntegrityError: If the files were damaged or altered. The entry stays.
        OSError: If this machine's disk fails. The entry stays.
        RunNotFoundError: If the run was deleted. All its entries stay.
        TrackingError: If the server or the store fails. The entry stays.
    """
    with spool.locked(entry) as is_locked:
        if not is_locked:
            raise CheckpointBusyError(
                f"{entry.label} of run {entry.run_id} is being sent already.",
                run_id=entry.run_id,
                name=entry.name,
            )
        if not entry.path.exists():
            return None
        try:
            _require_own(entry)
            if verified and entry.kind == entries.CHECKPOINT:
                verify_directory(entry.files, read_manifest(entry.files)).raise_if_damaged()
            manifest = deliver(entry, store, on_uploaded)
        except RequestRefusedError:
            deleted_runs.require_run(store, entry.path.parent)
            raise
        except (IntegrityError, OSError):
            if entry.path.exists():
                raise
            return None  # somebody deleted it by hand, or locks do not work there
        spool.remove(entry)
        return manifest


def _require_own(entry: Entry) -> None:
    """Raise IntegrityError if another user may have written, or linked, a file of an entry."""
    reason = disk.reason_against_all(entry.path)
    if reason is not None:
        raise IntegrityError(
            f"The entry cannot be trusted ({reason}), so it is not sent. Expected files that only "
            "this user can have written."
        )


def send_patiently(
    spool: Spool, entry: Entry, store: RunStore, on_uploaded: OnUploaded | None = None
) -> Manifest | None:
    """Send an entry as `send` does, verified, and wait for a claim of a process that may be dead.

    Arguments, result and errors as in `send`.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(ClaimUndecidedError),
        wait=wait_fixed(_POLL_SECONDS),
        stop=stop_after_delay(claims.DEAD_SECONDS + claims.BEAT_SECONDS),
        reraise=True,
    )
    return retrying(send, spool, entry, store, on_uploaded, verified=True)


def entries_for(spool: Spool, store: RunStore) -> list[Entry]:
    """Return a run's entries; warn, once, of those that wait for it at another server's address."""
    waiting = spool.entries(store.run_id)
    own = [entry for entry in waiting if servers.is_same(entry.tracking_uri, store.tracking_uri)]
    for uri in sorted({entry.tracking_uri for entry in waiting if entry not in own}):
        warn_once(
            f"Entries of the run {store.run_id} wait in this machine's spool for the server {uri}, "
            f"and are not sent to {store.tracking_uri}. If these are two addresses of one server: "
            f"mlflow-ckpt flush {store.run_id} --tracking-uri {store.tracking_uri}"
        )
    return own


def send_waiting(store: RunStore) -> None:
    """Send a run's entries in this machine's spool; warn of those that cannot be sent."""
    spool = Spool.default()
    for entry in entries_for(spool, store):
        try:
            store.require_answer()
            send_patiently(spool, entry, store)
        except TrackingUnavailableError:
            raise
        except RunNotFoundError as error:
            warn(str(error))
            return
        except (MlflowCkptError, OSError) as error:
            warn(
                f"{entry.label} of the run {store.run_id} waits in this machine's spool "
                f"and could not be sent: {error}"
            )


def move_into_run(draft: Draft, store: RunStore, manifest: Manifest) -> Entry | None:
    """Move a written checkpoint into the run's local artifacts.

    Returns:
        The announcement to send; None if the target directory exists, which only an upload file by
        file can handle.

    Raises:
        OSError: If the disk fails.
    """
    target = store.known_local_path(layout.artifact_path(manifest.name))
    if target is None:
        return None
    try:
        return draft.move_to(
            target,
            kind=entries.ANNOUNCEMENT,
            run_id=store.run_id,
            tracking_uri=store.tracking_uri,
            name=manifest.name,
        )
    except FileExistsError:
        return None


def deliver(
    entry: Entry, store: RunStore, on_uploaded: OnUploaded | None = None
) -> Manifest | None:
    """Send an entry without changing the spool. Errors and result as in `send`."""
    if entry.kind == entries.METRICS:
        store.log_metrics(entry.metrics, entry.step, entry.timestamp)
        return None
    if entry.kind == entries.TAGS:
        store.set_tags(entry.tags)
        return None
    if entry.kind == entries.STATUS:
        store.end(entry.status, entry.timestamp)
        return None
    if entry.kind == entries.CHECKPOINT:
        manifest = entry.manifest()
        if manifest is None:
            return None
        model_id = logged_models.begin(store, manifest)
        try:
            publishing.publish(
                store, entry.files, manifest, token=entry.token, on_uploaded=on_uploaded
            )
        except Exception as error:
            if isinstance(error, RequestRefusedError) or not isinstance(error, TrackingError):
                logged_models.fail(store, manifest, model_id)
            raise
    else:
        text = store.read(f"{layout.artifact_path(entry.name)}/{layout.MANIFEST}")
        if text is None:
            return None  # the checkpoint was removed meanwhile
        manifest = Manifest.from_json(text)
        model_id = logged_models.begin(store, manifest)
    visibility.require_listed(store, manifest.name)
    publishing.announce(store, manifest, model_id)
    return manifest
