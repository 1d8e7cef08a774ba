"""Loads the first checkpoint of a training in the background, to report at once if it cannot be."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import keras

from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._model.keras_private.keras_version import PrivateApiError
from mlflow_ckpt._model.rebuild.trial import Conditions, try_loading
from mlflow_ckpt._saving.outcomes import Outcomes
from mlflow_ckpt._saving.worker import Worker
from mlflow_ckpt._shown.escaping import Logger
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt.errors import UnsupportedModelError

# Memory that loading takes, in sizes of the checkpoint: its files, the model, the optimizer.
_COPIES = 3
_logger = Logger("mlflow_ckpt")


class FirstLoad:
    """Loads one checkpoint on a thread of its own, from links to its files.

    Args:
        spool: Returns what holds the links while the checkpoint itself is uploaded.
        run_id: The run.
        outcomes: Receives the error if the checkpoint does not load.
    """

    def __init__(self, spool: Callable[[], Spool], run_id: str, outcomes: Outcomes) -> None:
        self._spool = spool
        self._run_id = run_id
        self._outcomes = outcomes
        self._conditions: Conditions | None = None
        self._started = False
        self._worker = Worker("mlflow_ckpt first load", outcomes.add_error)

    def prepare(self, model: keras.Model) -> None:
        """Note what loading depends on. Called on the training thread before each save."""
        if self._conditions is None:
            self._conditions = Conditions.of(model)

    def load(self, directory: Path, manifest: Manifest) -> None:
        """Load the first checkpoint that is passed. Returns once its files are linked.

        Args:
            directory: The checkpoint's files.
            manifest: Its manifest.
        """
        if self._started or self._conditions is None:
            return
        self._started = True
        conditions, linked = self._conditions, threading.Event()
        self._worker.submit(lambda: self._load(directory, manifest, conditions, linked))
        linked.wait()

    def join(self) -> None:
        """Wait until the checkpoint is loaded, if one is being loaded."""
        self._worker.join()
        self._worker.close()

    def _load(
        self, directory: Path, manifest: Manifest, conditions: Conditions, linked: threading.Event
    ) -> None:
        try:
            with self._spool().draft(self._run_id) as draft:
                shutil.copytree(directory, draft.files, copy_function=_link, dirs_exist_ok=True)
                linked.set()
                self._try(draft.files, manifest, conditions)
        except (OSError, MemoryError, PrivateApiError) as error:
            _logger.warning("Whether %s loads was not tried: %s", manifest.name, error)
        finally:
            linked.set()

    def _try(self, directory: Path, manifest: Manifest, conditions: Conditions) -> None:
        free = _free_memory()
        if free is not None and free < _COPIES * manifest.size:
            raise MemoryError(f"it takes {_COPIES * manifest.size} bytes of memory of {free}")
        problem = try_loading(directory, manifest, conditions)
        if problem is not None:
            self._outcomes.add_error(UnsupportedModelError(problem))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def _free_memory() -> int | None:
    """Return the bytes of memory that are available; None if unknown."""
    with suppress(OSError, LookupError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
