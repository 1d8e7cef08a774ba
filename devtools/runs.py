"""Creates runs with many checkpoints quickly; only their manifests are real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt._format import layout
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.manifest import FileEntry, Manifest
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt._tracking.store import RunStore

DIGEST = Digest.of_bytes(b"")
READERS: dict[str, Callable[[str], Any]] = {
    "list": mlflow_ckpt.list_checkpoints,
    "latest": lambda run_id: mlflow_ckpt.get_checkpoint(run_id, "latest"),
    "best": lambda run_id: mlflow_ckpt.get_checkpoint(run_id, "best"),
}


def manifest_of(run_id: str, epoch: int, loss: float | None = None) -> Manifest:
    """Return a valid manifest; without `loss`, the middle of a thousand epochs is best."""
    paths = [*layout.ALWAYS, layout.FULL_KERAS, layout.MLMODEL]
    return Manifest(
        run_id=run_id,
        name=f"epoch_{epoch:04d}",
        epoch=epoch,
        step=100 * epoch,
        created="2026-01-02T03:04:05+00:00",
        forms=("full",),
        full_format="keras",
        files=tuple(FileEntry(path, 1000, DIGEST) for path in sorted(paths)),
        weights_digest=DIGEST,
        architecture_digest=DIGEST,
        metrics={"val_loss": abs(epoch - 500) / 500 if loss is None else loss},
        monitor=Monitor("val_loss", "min"),
        versions={"keras": "3.15.1"},
        metadata={"class_names": ["猫", "dog"]},
    )


class Run:
    """A run whose checkpoints are written directly to the server's artifact directory."""

    def __init__(self, store: Store) -> None:
        client = MlflowClient(store.uri)
        run = client.create_run(store.experiment_id)
        self.id: str = run.info.run_id
        self.store = RunStore(self.id, store.uri)
        client.log_text(self.id, "", "checkpoints/notes.txt")
        self.checkpoints: Path = store.artifacts_of(self.id) / "checkpoints"
        self.index = self.checkpoints / "manifests.json"

    def put(self, manifest: Manifest) -> Path:
        """Write a checkpoint's directory without adding it to the index."""
        directory = self.checkpoints / manifest.name
        directory.mkdir(exist_ok=True)
        file = directory / "manifest.json"
        file.write_text(manifest.to_json(), encoding="utf-8")
        return file

    def write_index(self, *manifests: Manifest, **changes: Any) -> None:
        """Write the index as docs/format.md describes it."""
        content = {
            "schema_version": 1,
            "manifests": [json.loads(manifest.to_json()) for manifest in manifests],
        }
        self.index.write_text(json.dumps(content | changes), encoding="utf-8")

    def indexed(self) -> list[str]:
        """Return the names in the index, without this package's reader."""
        return [entry["name"] for entry in json.loads(self.index.read_bytes())["manifests"]]

    def listed(self) -> list[str]:
        """Return the names of the run's checkpoints from the public function."""
        return [checkpoint.name for checkpoint in mlflow_ckpt.list_checkpoints(self.id)]


def run_of(store: Store, count: int) -> Run:
    """Create a run with checkpoints of the epochs 1 to `count`, all in its index."""
    run = Run(store)
    manifests = [manifest_of(run.id, epoch) for epoch in range(1, count + 1)]
    for manifest in manifests:
        run.put(manifest)
    run.write_index(*manifests)
    return run
