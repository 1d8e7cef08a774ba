"""The manifests of a run, and the index that holds them all in one file (docs/format.md).

`manifest.json` in a checkpoint's directory says what the checkpoint is. The index is a cache of
those files: it saves readers one request for each checkpoint, and where it is missing, stale or
damaged they go and read the manifests themselves.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._tracking.parallel import in_parallel
from mlflow_ckpt._tracking.store import RunStore, StoredFile
from mlflow_ckpt.errors import ManifestError, TrackingError, TrackingUnavailableError

SCHEMA_VERSION = 1
PATH = layout.artifact_path(layout.INDEX)
_logger = logging.getLogger(__name__)
# Requests under way at once: enough to hide a round trip, few enough for a small server.
_PARALLEL = 8


@dataclass(frozen=True)
class _Entry:
    """A manifest with its JSON on one line, as the index holds it."""

    manifest: Manifest
    text: str


def read(store: RunStore) -> dict[str, Manifest]:
    """Return the manifests in the index, by checkpoint name.

    Empty if there is no index, or none that this version can read. A manifest that was altered is
    left out. What is here may be gone from the run, and what is missing may be there.

    Raises:
        TrackingUnavailableError: If the server does not answer.
    """
    return {name: entry.manifest for name, entry in _read(store).items()}


def record(store: RunStore, manifest: Manifest) -> list[Manifest]:
    """Add a checkpoint that was just published to the index, and mend what the index lacks.

    The index is a cache: where the store refuses it, the log says so, and the checkpoint is
    published all the same.

    Args:
        store: The run.
        manifest: What `manifest.json`, which is in the store already, says.

    Returns:
        The manifests of all complete checkpoints, oldest first; where the store fails, those that
        are known.

    Raises:
        TrackingUnavailableError: If the server does not answer.
    """
    own = {manifest.name: _entry(manifest.to_json())}
    entries = list(own.values())
    try:
        found = (_gather(store) | own).values()
        entries = sorted(found, key=lambda entry: by_training(entry.manifest))
        _write(store, entries)
    except TrackingUnavailableError:
        raise
    except TrackingError as error:
        _logger.warning(
            "The checkpoint %s is complete, but %s, which makes listing the checkpoints of run %s "
            "quick, could not be brought up to date: %s The next save tries again.",
            *(manifest.name, PATH, store.run_id, error),
        )
    return [entry.manifest for entry in entries]


def discard(store: RunStore, names: Collection[str]) -> None:
    """Take checkpoints out of the index, before their manifests are deleted.

    Raises:
        TrackingError: If the server or the store fails.
    """
    entries = _read(store)
    kept = {name: entry for name, entry in entries.items() if name not in names}
    if len(kept) < len(entries):
        _write(store, kept.values())


def by_training(manifest: Manifest) -> tuple[int, int]:
    """Return the key that sorts checkpoints from the oldest to the newest."""
    # A new optimizer counts its steps from zero again; epochs go on.
    return manifest.epoch, manifest.step


def require_name(manifest: Manifest, name: str) -> None:
    """Raise if a manifest lies in the directory of another checkpoint.

    Raises:
        ManifestError: Then.
    """
    if manifest.name != name:
        raise ManifestError(f"manifest.json belongs to another checkpoint, {manifest.name}.")


def checkpoint_names(listed: Iterable[StoredFile]) -> list[str]:
    """Return the names of checkpoint directories in a listing of `checkpoints/`."""
    names = (item.path.rpartition("/")[2] for item in listed if item.is_dir)
    return [name for name in names if CheckpointName.parse(name)]


def read_manifest(store: RunStore, name: str) -> Manifest | ManifestError | None:
    """Read one checkpoint's `manifest.json`.

    Returns:
        The manifest; the error, where there is one that cannot be read; None where there is none.

    Raises:
        TrackingError: If the server or the store fails.
    """
    found = _read_entry(store, name)
    return found.manifest if isinstance(found, _Entry) else found


def read_manifests(
    store: RunStore, names: Iterable[str]
) -> dict[str, Manifest | ManifestError | None]:
    """Read several as `read_manifest` does, at the same time."""
    return {
        name: found.manifest if isinstance(found, _Entry) else found
        for name, found in _read_entries(store, names).items()
    }


def _gather(store: RunStore) -> dict[str, _Entry]:
    """Return the entries of the checkpoints that the run has, from the index where it knows."""
    listed = store.list(layout.CHECKPOINTS_DIR)
    names = checkpoint_names(listed)
    known = _read(store) if any(item.path == PATH for item in listed) else {}
    unknown = [name for name in names if name not in known]
    read = _read_entries(store, unknown).items()
    found = {name: entry for name, entry in read if isinstance(entry, _Entry)}
    return {name: entry for name, entry in known.items() if name in names} | found


def _read_entries(
    store: RunStore, names: Iterable[str]
) -> dict[str, _Entry | ManifestError | None]:
    wanted = list(names)
    found = in_parallel(partial(_read_entry, store), wanted, _PARALLEL)
    return dict(zip(wanted, found, strict=True))


def _read_entry(store: RunStore, name: str) -> _Entry | ManifestError | None:
    text = store.read(f"{layout.artifact_path(name)}/{layout.MANIFEST}")
    if text is None:
        return None
    try:
        entry = _entry(text)
        require_name(entry.manifest, name)
    except ManifestError as error:
        return error
    return entry


def _read(store: RunStore) -> dict[str, _Entry]:
    try:
        text = store.read(PATH)
    except TrackingUnavailableError:
        raise
    except TrackingError:
        # A store may break off where another publisher is writing the file at this moment.
        return {}
    if text is None:
        return {}
    try:
        content = json.loads(text)
        usable = content["schema_version"] <= SCHEMA_VERSION
        manifests = list(content["manifests"]) if usable else []
    except (LookupError, RecursionError, TypeError, ValueError):
        return {}
    entries = {}
    for content in manifests:
        try:
            line = json.dumps(content, ensure_ascii=False)
            manifest = Manifest.from_json(line)
        except (ManifestError, RecursionError):
            continue
        entries[manifest.name] = _Entry(manifest, line)
    return entries


def _entry(text: str | bytes) -> _Entry:
    """Read the text of `manifest.json`, and keep keys too that a later version may have added."""
    manifest = Manifest.from_json(text)
    return _Entry(manifest, json.dumps(json.loads(text), ensure_ascii=False))


def _write(store: RunStore, entries: Iterable[_Entry]) -> None:
    lines = ",\n".join(entry.text for entry in entries)
    text = f'{{"schema_version": {SCHEMA_VERSION}, "manifests": [\n{lines}\n]}}\n'
    store.write_text(PATH, text)
