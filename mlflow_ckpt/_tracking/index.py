"""The manifests of a run, and the index that holds them all in one file (docs/format.md).

The index is a cache of the `manifest.json` files in the checkpoint directories. It saves readers
one request per checkpoint; if it is missing, stale or damaged, they read the manifests themselves.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.untrusted import fields, json_text
from mlflow_ckpt._shown.escaping import Logger
from mlflow_ckpt._tracking.parallel import in_parallel
from mlflow_ckpt._tracking.store import RunStore, StoredFile
from mlflow_ckpt.errors import (
    ManifestError,
    TrackingError,
    TrackingUnavailableError,
    UnsafeFileError,
)

SCHEMA_VERSION = 1
PATH = layout.artifact_path(layout.INDEX)
_logger = Logger(__name__)
# Checkpoints to be read one by one.
_MOST_UNCACHED = 10_000
# Concurrent requests: enough to hide the latency, few enough for a small server.
_PARALLEL = 8


@dataclass(frozen=True)
class _Entry:
    """A manifest with its JSON on one line, as the index holds it."""

    manifest: Manifest
    text: str


def read(store: RunStore) -> dict[str, Manifest]:
    """Return the manifests in the index, by checkpoint name.

    Empty if the index is missing or unreadable. Altered manifests are omitted. The result may
    include checkpoints that were deleted, and omit existing ones.
    """
    return {name: entry.manifest for name, entry in _read_index(store).items()}


def record(store: RunStore, manifest: Manifest) -> list[Manifest]:
    """Add a published checkpoint to the index, along with others that the index lacks.

    The index is only a cache: if the store rejects it, a warning is logged.

    Returns:
        The manifests of all complete checkpoints, oldest first; if the store fails, those read
        so far.
    """
    own = {manifest.name: _entry(manifest.to_json())}
    entries = list(own.values())
    try:
        gathered = (_gather(store) | own).values()
        entries = sorted(gathered, key=lambda entry: by_training(entry.manifest))
        _write(store, entries)
    except TrackingUnavailableError:
        raise
    except TrackingError as error:
        _logger.warning(
            "The checkpoint %s is complete, but the index %s of run %s was not updated, so listing "
            "is slower: %s The next save tries again.",
            *(manifest.name, PATH, store.run_id, error),
        )
    return [entry.manifest for entry in entries]


def discard(store: RunStore, names: Collection[str]) -> None:
    """Remove checkpoints from the index, before their manifests are deleted."""
    entries = _read_index(store)
    kept = {name: entry for name, entry in entries.items() if name not in names}
    if len(kept) < len(entries):
        _write(store, kept.values())


def by_training(manifest: Manifest) -> tuple[int, int]:
    """Return the key that sorts checkpoints from the oldest to the newest."""
    # By epoch first, because a new optimizer counts its steps from zero again.
    return manifest.epoch, manifest.step


def require_place(manifest: Manifest, run_id: str, name: str) -> None:
    """Check that a manifest belongs to the checkpoint whose directory it is in.

    Raises:
        ManifestError: If it belongs to another checkpoint, or to another run.
    """
    if manifest.name != name:
        raise ManifestError(f"manifest.json belongs to another checkpoint, {manifest.name}.")
    if manifest.run_id != run_id:
        raise ManifestError(
            f"manifest.json belongs to another run, {manifest.run_id}: the checkpoint was copied "
            "here, and nothing tells what this run saved."
        )


def checkpoint_names(listed: Iterable[StoredFile]) -> list[str]:
    """Return the names of checkpoint directories in a listing of `checkpoints/`."""
    return [item.name for item in listed if item.is_dir and CheckpointName.parse(item.name)]


def read_manifest(store: RunStore, name: str) -> Manifest | ManifestError | None:
    """Read one checkpoint's `manifest.json`.

    Returns:
        The manifest; an error if it cannot be read; None if it does not exist.
    """
    entry = _read_entry(store, name)
    return entry.manifest if isinstance(entry, _Entry) else entry


def read_manifests(
    store: RunStore, names: Iterable[str]
) -> dict[str, Manifest | ManifestError | None]:
    """Read several manifests concurrently. Results as in `read_manifest`."""
    return {
        name: entry.manifest if isinstance(entry, _Entry) else entry
        for name, entry in _read_entries(store, names).items()
    }


def _gather(store: RunStore) -> dict[str, _Entry]:
    """Return the entries of the run's checkpoints, from the index where possible."""
    listed = store.list(layout.CHECKPOINTS_DIR)
    names = checkpoint_names(listed)
    indexed = _read_index(store) if any(item.path == PATH for item in listed) else {}
    results = _read_entries(store, [name for name in names if name not in indexed]).items()
    entries = {name: entry for name, entry in results if isinstance(entry, _Entry)}
    return {name: entry for name, entry in indexed.items() if name in names} | entries


def _read_entries(
    store: RunStore, names: Iterable[str]
) -> dict[str, _Entry | ManifestError | None]:
    names = list(names)
    if len(names) > _MOST_UNCACHED:
        raise UnsafeFileError(
            f"The run {store.run_id} lists {len(names)} checkpoints that its index lacks, more "
            f"than {_MOST_UNCACHED}, so they were not read."
        )
    entries = in_parallel(partial(_read_entry, store), names, _PARALLEL)
    return dict(zip(names, entries, strict=True))


def _read_entry(store: RunStore, name: str) -> _Entry | ManifestError | None:
    try:
        text = store.read(f"{layout.artifact_path(name)}/{layout.MANIFEST}")
        if text is None:
            return None
        entry = _entry(text)
        require_place(entry.manifest, store.run_id, name)
    except UnsafeFileError as error:
        return ManifestError(str(error))
    except ManifestError as error:
        return error
    return entry


def _read_index(store: RunStore) -> dict[str, _Entry]:
    try:
        text = store.read(PATH)
    except TrackingUnavailableError:
        raise
    except (TrackingError, UnsafeFileError):
        # A store may fail while another publisher is writing the file.
        return {}
    if text is None:
        return {}
    try:
        content = fields.table(json_text.parse(text))
        usable = fields.count(content["schema_version"]) <= SCHEMA_VERSION
        manifests = fields.items(content["manifests"]) if usable else []
    except (LookupError, TypeError, ValueError):
        return {}
    entries = {}
    for content in manifests:
        try:
            line = json.dumps(content, ensure_ascii=False)
            manifest = Manifest.from_json(line)
            require_place(manifest, store.run_id, manifest.name)
        except ManifestError:
            continue
        entries[manifest.name] = _Entry(manifest, line)
    return entries


def _entry(text: str | bytes) -> _Entry:
    """Parse `manifest.json`, preserving keys that a later version may have added."""
    manifest = Manifest.from_json(text)
    return _Entry(manifest, json.dumps(json_text.parse(text), ensure_ascii=False))


def _write(store: RunStore, entries: Iterable[_Entry]) -> None:
    lines = ",\n".join(entry.text for entry in entries)
    text = f'{{"schema_version": {SCHEMA_VERSION}, "manifests": [\n{lines}\n]}}\n'
    store.write_text(PATH, text)
