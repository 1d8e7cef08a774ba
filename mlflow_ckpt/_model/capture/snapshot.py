"""The snapshot: host copies of all state, so that nothing after it touches the live model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.fingerprint import (
    WEIGHTS_ROLE,
    Fingerprint,
    TensorFingerprint,
    architecture_digest,
)
from mlflow_ckpt._format.schema import ModelSchema
from mlflow_ckpt._model import keras_private
from mlflow_ckpt._model.capture import introspection, stock_save
from mlflow_ckpt._model.capture.buffers import Buffers
from mlflow_ckpt._model.capture.signature import schema_of
from mlflow_ckpt._model.files import architecture
from mlflow_ckpt._model.files.captured import (
    CapturedState,
    Group,
    Tensor,
    mark_optimizers,
    tensors_of,
)
from mlflow_ckpt._model.files.hdf5 import LaidOutFile

# Files of a checkpoint that only the live model could give, by their path in it.
Prepared = dict[str, Path | LaidOutFile]


@dataclass
class Snapshot:
    """A model's state at one moment. A context manager: leaving it removes its temporary files.

    Attributes:
        architecture: The architecture, without compile settings.
        groups: Everything in Keras's weights file, object by object; without the compiled
            optimizer if the full form is not wanted.
        step: `optimizer.iterations`; 0 for an uncompiled model.
        seeds: States of the seed generators by name, which Keras's files do not hold.
        compile_config: What `model.compile_from_config` takes; None for an uncompiled model.
        captured: The content of the `.keras` archive; None if `prepared` holds that file itself.
        prepared: Files that only the live model could give, by their path in the checkpoint: on
            disk, or laid out in memory.
        workspace: Gives the directory of the temporary files, and makes it the first time.
        schema: What the model takes and gives; None if it cannot tell.
        created: When the snapshot was taken.
        dtype_policy: Name of the model's own policy.
        variable_names: What people call the tensors that the model stores without a name.
    """

    architecture: dict[str, Any]
    groups: list[Group]
    step: int
    seeds: Mapping[str, np.ndarray[Any, Any]]
    compile_config: dict[str, Any] | None
    captured: CapturedState | None
    prepared: Prepared
    workspace: Workspace
    schema: ModelSchema | None
    created: datetime
    dtype_policy: str
    variable_names: Mapping[str, str] = field(default_factory=dict)

    def __enter__(self) -> Snapshot:
        """Return the snapshot itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the temporary files."""
        self.close()

    def close(self) -> None:
        """Remove the temporary files. May be called twice."""
        self.workspace.remove()

    @cached_property
    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of Keras's weights file."""
        return list(tensors_of(self.groups, self.variable_names))

    def fingerprint(self, known: Mapping[str, TensorFingerprint] | None = None) -> Fingerprint:
        """Fingerprint every tensor and the architecture.

        Args:
            known: Fingerprints by the tensor's name that need not be computed again.
        """
        given = known or {}
        return Fingerprint(
            tuple(given.get(tensor.name) or tensor.fingerprint() for tensor in self.tensors),
            architecture_digest(self.architecture),
        )

    def weights_only(self) -> list[Group]:
        """Return the groups without the optimizer's."""
        return [group for group in self.groups if group.role == WEIGHTS_ROLE]


class Workspace:
    """A temporary directory that exists only if something needs it."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def __call__(self) -> Path:
        """Return the directory, made the first time."""
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix="mlflow_ckpt_"))
        return self._path

    def remove(self) -> None:
        """Remove the directory, if there is one."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)


class Descriptions:
    """What a model last said of itself: worked out anew only if it says something else."""

    def __init__(self) -> None:
        self._config_json: str | None = None
        self._architecture: dict[str, Any] = {}
        self._compile_config: dict[str, Any] | None = None

    def of(
        self, model: keras.Model, captured: CapturedState | None
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return a model's architecture and compile settings.

        Args:
            model: The model.
            captured: What was just captured of it; None if nothing could be.
        """
        if captured is None or captured.config_json != self._config_json:
            self._architecture = architecture.describe(model)
            self._compile_config = (
                model.get_compile_config() if introspection.is_compiled(model) else None
            )
            self._config_json = None if captured is None else captured.config_json
        return self._architecture, self._compile_config

    @property
    def is_empty(self) -> bool:
        """Whether no model has been described yet."""
        return self._config_json is None


def take(
    model: keras.Model,
    *,
    full_format: str | None = "keras",
    buffers: Buffers | None = None,
    descriptions: Descriptions | None = None,
) -> Snapshot:
    """Take a snapshot of a live model.

    Args:
        model: A built model.
        full_format: `"keras"` or `"h5"`; None if the full form is not wanted.
        buffers: Memory that the snapshot may use as long as it lives; fresh memory if None.
        descriptions: What an earlier snapshot of the model found out; nothing if None.

    Raises:
        UnsupportedModelError: If Keras cannot save this model, or not in this format.
    """
    introspection.require_built(model)
    keras_private.repair_compile_settings(model)
    workspace = Workspace()
    known = descriptions or Descriptions()
    try:
        if known.is_empty:
            architecture.require_format(architecture.describe(model), full_format)
        prepared: Prepared = {}
        optimizer = full_format is not None
        captured = _capture(model, workspace, buffers or Buffers(), optimizer=optimizer)
        if captured is not None:
            groups = captured.groups
        else:
            stock_file = stock_save.save_stock(model, workspace() / "model.keras")
            prepared[layout.FULL_KERAS] = stock_file
            groups = stock_save.read_groups(stock_file)
        mark_optimizers(model, groups)
        described, compile_config = known.of(model, captured)
        architecture.require_format(described, full_format)
        if full_format == "h5":
            prepared[layout.FULL_H5] = stock_save.save_h5(model, workspace)
        return Snapshot(
            architecture=described,
            groups=groups,
            step=introspection.step_of(model),
            seeds=introspection.seed_states(model),
            compile_config=compile_config,
            captured=captured,
            prepared=prepared,
            workspace=workspace,
            schema=schema_of(model),
            created=datetime.now(UTC),
            dtype_policy=str(model.dtype_policy.name),
            variable_names=introspection.readable_names(model),
        )
    except BaseException:
        workspace.remove()
        raise


def _capture(
    model: keras.Model, workspace: Workspace, buffers: Buffers, *, optimizer: bool
) -> CapturedState | None:
    """Capture a model's state; None, with a warning, where only Keras's own `save` can."""
    try:
        return keras_private.capture(model, workspace, buffers.copy, optimizer=optimizer)
    except keras_private.PrivateApiError as error:
        stock_save.warn_of_fallback(error)
        return None
