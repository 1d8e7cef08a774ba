"""What hostile inputs are made of and tried in: runs, a canary, and a secret of this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
from mlflow.tracking import MlflowClient

from devtools.stores import Store
from mlflow_ckpt._format.digest import Digest
from tests.support.checkpoints import save_run, tiny_model

_SECRET = b"SECRET-OF-THIS-MACHINE "
_NAME = "epoch_0001"
_CAST = ("uint8", "float16", "float32", "float64", "int32", "int64")


@dataclass
class Target:
    """One hostile input, ready to be tried.

    Attributes:
        run: A run id or URI, for entry points that take one.
        folder: A folder, for entry points that take files.
        files: Other files by the name of the argument that takes them.
        watched: Directories that must not hold the secret afterwards.
    """

    run: str = ""
    folder: Path | None = None
    files: dict[str, Path] = field(default_factory=dict)
    watched: list[Path] = field(default_factory=list)


class World:
    """A directory of its own in a child process, and the store that is MLflow's current one.

    Args:
        directory: An empty directory.
        store: The store.

    Attributes:
        canary: A file that code in an input would create.
        secret: A file that nobody may read.
    """

    def __init__(self, directory: Path, store: Store) -> None:
        self.directory, self.store = directory, store
        self.canary, self.secret = directory / "canary", directory / "private" / "secret"
        self.secret.parent.mkdir()
        self.secret.write_bytes(_SECRET * 400)
        self._number = 0

    def place(self) -> Path:
        """Return a new, empty directory."""
        self._number += 1
        path = self.directory / f"place_{self._number}"
        path.mkdir()
        return path

    def new_run(self) -> str:
        """Create a run, and return its id."""
        return str(MlflowClient().create_run(self.store.experiment_id).info.run_id)

    def artifacts(self, run_id: str) -> Path:
        """Return the directory of a run's artifacts, on this machine."""
        path = mlflow.get_run(run_id).info.artifact_uri.removeprefix("file://")
        Path(path).mkdir(parents=True, exist_ok=True)
        return Path(path)

    @cached_property
    def honest(self) -> Path:
        """An honest checkpoint in both forms, epoch_0001. Copy it, never change it."""
        return self._saved(_built_model(), forms=("full", "split"))

    @cached_property
    def honest_h5(self) -> Path:
        """An honest checkpoint whose full form is legacy HDF5."""
        return self._saved(_built_model(), full_format="h5")

    @cached_property
    def fresh(self) -> Path:
        """An honest checkpoint at step 0, whose optimizer has no variables yet."""
        return self._saved(tiny_model())

    @cached_property
    def fresh_h5(self) -> Path:
        """An honest checkpoint in legacy HDF5 at step 0, whose optimizer has no variables yet."""
        return self._saved(tiny_model(), full_format="h5")

    def _saved(self, model: keras.Model, **settings: Any) -> Path:
        return self.artifacts(save_run(model, **settings)) / "checkpoints" / _NAME

    def forge(
        self,
        change: Callable[[Path], object],
        *,
        template: Path | None = None,
        seal: Callable[[dict[str, Any]], object] = lambda manifest: None,
        name: str = _NAME,
    ) -> Target:
        """Put a copy of an honest checkpoint into a new run, changed, with a manifest that fits.

        Args:
            change: Changes files in the checkpoint's directory.
            template: The checkpoint to copy.
            seal: Changes the manifest's content before it is sealed.
            name: The checkpoint's directory.
        """
        run_id = self.new_run()
        directory = self.artifacts(run_id) / "checkpoints" / name
        shutil.copytree(template or self.honest, directory)
        manifest = json.loads((directory / "manifest.json").read_text())
        manifest["run_id"] = run_id
        _set_run(directory / "MLmodel", run_id)
        change(directory)
        seal_manifest(directory, manifest, seal)
        return Target(run_id, watched=[self.artifacts(run_id)])

    def leaks(self, text: str, *directories: Path) -> bool:
        """Whether a text, or a file in a directory, holds the secret, as it is or as numbers."""
        numbers = np.frombuffer(_SECRET, np.uint8)
        needles = [numbers.astype(dtype).tobytes() for dtype in _CAST]
        if _SECRET.decode().strip() in text:
            return True
        return any(
            needle in content
            for directory in directories
            for content in _contents(directory)
            for needle in needles
        )


def seal_manifest(
    directory: Path, manifest: dict[str, Any], change: Callable[[dict[str, Any]], object]
) -> None:
    """Write a manifest that lists the files as they are, with a digest that fits."""
    manifest.pop("manifest_digest", None)
    manifest["files"] = {
        file.relative_to(directory).as_posix(): {
            "size": file.stat().st_size,
            "digest": str(Digest.of_file(file)),
        }
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.name != "manifest.json"
    }
    change(manifest)
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    manifest["manifest_digest"] = str(Digest.of_bytes(canonical.encode()))
    (directory / "manifest.json").unlink(missing_ok=True)
    (directory / "manifest.json").write_text(json.dumps(manifest))


def _built_model() -> keras.Model:
    model = tiny_model()
    model.optimizer.build(model.trainable_variables)
    return model


def _set_run(mlmodel: Path, run_id: str) -> None:
    lines = mlmodel.read_text().splitlines() if mlmodel.is_file() else []
    kept = [f"run_id: {run_id}" if line.startswith("run_id:") else line for line in lines]
    if lines:
        mlmodel.write_text("\n".join(kept) + "\n")


def _contents(directory: Path) -> Iterator[bytes]:
    for file in directory.rglob("*"):
        if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 26:
            yield file.read_bytes()
