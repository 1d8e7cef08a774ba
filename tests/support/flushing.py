"""Flushes what a process left, and checks that the run has all of it, and nothing else is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt._format.verification import read_manifest, verify_directory
from mlflow_ckpt._tracking.spool.entries import CHECKPOINT, METRICS, Entry
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.tags import BEST, LATEST
from tests.support import cli
from tests.support.training import names


def checkpoints_directory(run_id: str, store: Store) -> Path:
    return store.artifacts / store.experiment_id / run_id / "artifacts" / "checkpoints"


def verify_all(run_id: str, store: Store, but: Collection[str] = ()) -> int:
    """Verify every listed checkpoint but some, and return how many there are.

    The newest one is downloaded; the others are read where the server keeps them, which is cheaper.
    """
    listed = [name for name in names(run_id) if name not in but]
    for name in listed:
        directory = store.checkpoint_directory(run_id, name)
        result = verify_directory(directory, read_manifest(directory))
        assert result.ok, str(result)
    if listed:
        assert mlflow_ckpt.verify(run_id).ok
    return len(listed)


def flush_and_check(
    run_id: str,
    root: Path,
    store: Store,
    *,
    verified: Collection[str] = (),
    process: bool = False,
) -> list[Entry]:
    """Flush, and check that nothing of what was in the spool is missing, and nothing is left."""
    entries = Spool(root).entries(run_id)
    manifests = [entry.manifest() for entry in entries if entry.kind == CHECKPOINT]
    if process:
        done = cli.run_process("flush", run_id)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        result = cli.run("flush", run_id)
        assert result.exit_code == 0, result.output
    listed = {
        checkpoint.name: checkpoint.manifest for checkpoint in mlflow_ckpt.list_checkpoints(run_id)
    }
    for manifest in manifests:
        assert listed[manifest.name] == manifest
    verify_all(run_id, store, but=verified)
    assert not (root / run_id).exists(), sorted((root / run_id).rglob("*"))
    _check_metrics(run_id, entries, store)
    _check_files(run_id, set(listed), store)
    _check_tags(run_id, listed, store)
    return entries


def _check_metrics(run_id: str, entries: list[Entry], store: Store) -> None:
    history = MlflowClient(store.uri).get_metric_history(run_id, "loss")
    # An epoch that was trained again, because its checkpoint was not, has a later timestamp.
    logged = Counter((metric.step, metric.timestamp) for metric in history)
    assert all(count == 1 for count in logged.values()), logged
    for entry in entries:
        if entry.kind == METRICS:
            assert logged[entry.step, entry.timestamp] == 1


def _check_files(run_id: str, listed: set[str], store: Store) -> None:
    directory = checkpoints_directory(run_id, store)
    if not directory.exists():
        return
    strays = {path.name for path in directory.iterdir()} - listed - {"index.json", "manifests.json"}
    # What a prune that was killed left of a checkpoint is none any more.
    assert all((directory / name).is_dir() for name in strays)
    assert not [name for name in strays if (directory / name / "manifest.json").exists()]
    assert not [name for name in strays if name.startswith(".")]
    assert not list(directory.rglob("upload-*.json"))


def _check_tags(run_id: str, listed: dict[str, Any], store: Store) -> None:
    tags = MlflowClient(store.uri).get_run(run_id).data.tags
    if listed:
        assert tags[LATEST] == max(listed)
        assert tags[BEST] in listed
