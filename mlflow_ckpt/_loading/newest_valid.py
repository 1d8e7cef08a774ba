"""Opens the checkpoint to resume from: the requested one, or the newest valid one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.reference import Query, Selector
from mlflow_ckpt._format.signing.trust import Trust
from mlflow_ckpt._shown.warn import warn
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.checkpoint import Checkpoint
from mlflow_ckpt._tracking.download import Progress
from mlflow_ckpt._tracking.find import find_own
from mlflow_ckpt._tracking.removed import CheckpointRemovedError
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import CheckpointNotFoundError, NewerSchemaError, VerificationError

# The checkpoint, its verified files, and why newer checkpoints cannot be used, by name.
OpenedForResume = tuple[Checkpoint, Path, Mapping[str, str]]


@contextmanager
def open_for_resume(
    store: RunStore, selector: Selector, query: Query, progress: Progress | None
) -> Iterator[OpenedForResume]:
    """Verify and open a checkpoint's files for the duration of the context.

    For `latest`, skips damaged and incomplete checkpoints with a warning.

    Raises:
        CheckpointNotFoundError: If the checkpoint does not exist, or no checkpoint is valid.
        NewerSchemaError: If a newer mlflow_ckpt wrote one of the run's checkpoints.
        VerificationError: If the requested checkpoint is damaged.
        SignatureError: If it, or the newest valid one, is not signed by whom it must be.
    """
    if selector.kind != "latest":
        own = find_own(store, selector, query)
        with own.open(progress) as opened:
            yield own.checkpoint, opened.directory, {}
        return
    catalog = Catalog(store, Trust.of(query.signed_by))
    complete, unreadable, unfinished = catalog.survey()
    for error in unreadable.values():
        if isinstance(error, NewerSchemaError):
            raise error
    damaged = {name: str(error) for name, error in unreadable.items()}
    removed: CheckpointRemovedError | None = None
    for checkpoint in reversed(complete):
        with ExitStack() as stack:
            try:
                directory = stack.enter_context(catalog.fetch(checkpoint, progress))
            except CheckpointRemovedError as error:
                removed = error
                continue
            except VerificationError as error:
                damaged[checkpoint.name] = str(error)
                continue
            newer = {n: reason for n, reason in damaged.items() if _is_newer(n, checkpoint)}
            _warn_of_newer(checkpoint, newer, unfinished)
            yield checkpoint, directory, newer
            return
    if removed is not None:
        raise removed
    reasons = "; ".join(f"{name}: {reason}" for name, reason in damaged.items())
    raise CheckpointNotFoundError(
        f"The run {store.run_id} has no valid checkpoint to resume from"
        + (f". {reasons}" if reasons else "."),
        run_id=store.run_id,
    )


def _warn_of_newer(
    checkpoint: Checkpoint, damaged: Mapping[str, str], unfinished: Sequence[str]
) -> None:
    incomplete = [name for name in unfinished if _is_newer(name, checkpoint)]
    newer = {**damaged, **dict.fromkeys(incomplete, "its upload is incomplete")}
    if newer:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in newer.items())
        warn(
            f"Resuming from {checkpoint.name}, the newest valid checkpoint of the run "
            f"{checkpoint.run_id}. Newer ones were skipped. {reasons}"
        )


def _is_newer(name: str, checkpoint: Checkpoint) -> bool:
    parsed = CheckpointName.parse(name)
    if parsed is None:
        return False
    manifest = checkpoint.manifest
    return parsed.number > (manifest.epoch if parsed.unit == "epoch" else manifest.step)
