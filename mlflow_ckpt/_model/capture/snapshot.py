"""Takes snapshots: host copies of all state, after which the live model is not needed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.changes import leaves
from mlflow_ckpt._format.fingerprint import (
    WEIGHTS_ROLE,
    Fingerprint,
    TensorFingerprint,
    architecture_digest,
)
from mlflow_ckpt._format.schema import ModelSchema
from mlflow_ckpt._model.capture import (
    describing,
    introspection,
    keras_config,
    plain,
    stock_save,
)
from mlflow_ckpt._model.capture.buffers import Buffers
from mlflow_ckpt._model.capture.census import Census, Taken
from mlflow_ckpt._model.capture.compile_settings import Record, Recorder
from mlflow_ckpt._model.capture.optimizers import optimizers_of
from mlflow_ckpt._model.capture.signature import schema_of
from mlflow_ckpt._model.files import model_config
from mlflow_ckpt._model.files.captured import (
    CapturedState,
    Group,
    Tensor,
    mark_optimizers,
    tensors_of,
)
from mlflow_ckpt._model.files.hdf5 import LaidOutFile
from mlflow_ckpt._model.keras_private import capturing, compiled_model, keras_version

# Files that had to be made from the live model, by their path in the checkpoint.
Prepared = dict[str, Path | LaidOutFile]


@dataclass
class Snapshot:
    """A model's state at one moment. As a context manager, it removes its temporary files.

    Attributes:
        architecture: The architecture, without compile settings.
        groups: The content of Keras's weights file, object by object; without the compiled
            optimizer if there is no full form.
        step: `optimizer.iterations`; 0 for an uncompiled model.
        seeds: States of the seed generators by name, which Keras's files do not contain.
        compile_config: Argument of `model.compile_from_config`; None for an uncompiled model.
        compile_before: Values in it that changed since the first snapshot, as they were then, by
            path.
        compiled: How the model was compiled, as far as that argument does not say it.
        captured: The content of the `.keras` archive; None if `prepared` has that file.
        prepared: Files that had to be made from the live model, by their path in the checkpoint:
            on disk, or laid out in memory.
        workspace: Directory of the temporary files, created on first use.
        schema: Inputs and outputs of the model; None if unknown.
        created: Time of the snapshot.
        dtype_policy: Name of the model's dtype policy.
        keras_config: Keras's settings of the process.
        variable_names: Readable names of tensors that are stored without a name.
        beside: The state that Keras's files do not give back.
    """

    architecture: dict[str, Any]
    groups: list[Group]
    step: int
    seeds: Mapping[str, np.ndarray[Any, Any]]
    compile_config: dict[str, Any] | None
    compile_before: dict[str, Any]
    compiled: Record
    captured: CapturedState | None
    prepared: Prepared
    workspace: Workspace
    schema: ModelSchema | None
    created: datetime
    dtype_policy: str
    keras_config: dict[str, Any]
    variable_names: Mapping[str, str] = field(default_factory=dict)
    beside: Taken = field(default_factory=Taken)

    def close(self) -> None:
        """Remove the temporary files. May be called more than once."""
        self.workspace.remove()

    @cached_property
    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of Keras's weights file."""
        return list(tensors_of(self.groups, self.variable_names))

    def fingerprint(self, computed: Mapping[str, TensorFingerprint] | None = None) -> Fingerprint:
        """Fingerprint all tensors and the architecture.

        Args:
            computed: Fingerprints that were computed already, by the tensor's name.
        """
        computed = computed or {}
        return Fingerprint(
            tuple(computed.get(tensor.name) or tensor.fingerprint() for tensor in self.tensors),
            architecture_digest(self.architecture),
        )

    def weights_only(self) -> list[Group]:
        """Return the groups without the optimizer's."""
        return [group for group in self.groups if group.role == WEIGHTS_ROLE]


class Workspace:
    """A temporary directory that is created on first use."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def __call__(self) -> Path:
        """Return the directory; create it on the first call."""
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix="mlflow_ckpt_"))
        return self._path

    def remove(self) -> None:
        """Remove the directory, if it was created."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)


class Descriptions:
    """Caches a model's architecture and compile settings until its configuration changes.

    Attributes:
        compile_before: Compile settings that changed since they were first described, as they were
            then, by path.
        recorder: Records the settings that the configuration does not hold.
    """

    def __init__(self) -> None:
        self._config_json: str | None = None
        self._architecture: dict[str, Any] = {}
        self._compile_config: dict[str, Any] | None = None
        self._first: tuple[Any, dict[str, Any]] | None = None
        self.compile_before: dict[str, Any] = {}
        self.recorder = Recorder()
        self.census = Census()

    def of(
        self, model: keras.Model, captured: CapturedState | None
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return a model's architecture and compile settings.

        Args:
            model: The model.
            captured: The state that was captured from it; None if it could not be captured.
        """
        if captured is None or captured.config_json != self._config_json:
            self._architecture = describing.describe(model)
            self._compile_config = (
                model.get_compile_config() if introspection.is_compiled(model) else None
            )
            self._compare_with_first(model)
            self._config_json = None if captured is None else captured.config_json
        return self._architecture, self._compile_config

    def _compare_with_first(self, model: keras.Model) -> None:
        compiled, now = compiled_model.compiled_settings(model), {}
        if self._compile_config is not None:
            now = dict(leaves(self._compile_config, "compile"))
        if self._first is None or self._first[0] is not compiled:
            self._first = compiled, now
        first = self._first[1]
        self.compile_before = {path: first[path] for path in first if now.get(path) != first[path]}

    def kept_by_graph(self, model: keras.Model) -> list[str]:
        """Describe the compile settings that changed, but not in the compiled training step."""
        if not compiled_model.runs_compiled(model):
            return []
        return [
            f"{path} was {plain.text(value)} when the training began and was changed, but a "
            "compiled step keeps the value with which it was compiled"
            for path, value in self.compile_before.items()
            if not path.endswith(".learning_rate")  # a variable
        ]

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
        full_format: `"keras"` or `"h5"`; None to leave out the full form.
        buffers: Memory that the snapshot uses during its lifetime; fresh memory if None.
        descriptions: Cache from earlier snapshots of the model.

    Raises:
        UnsupportedModelError: If the model is not built, or Keras cannot save it in this format.
    """
    introspection.require_built(model)
    compiled_model.repair_compile_settings(model)
    workspace, descriptions = Workspace(), descriptions or Descriptions()
    try:
        if descriptions.is_empty:
            model_config.require_format(describing.describe(model), full_format)
        prepared: Prepared = {}
        optimizer, buffers = full_format is not None, buffers or Buffers()
        captured = _capture(model, workspace, buffers, optimizer=optimizer)
        groups = _groups(model, captured, prepared, workspace)
        described, compile_config = descriptions.of(model, captured)
        model_config.require_format(described, full_format)
        if full_format == "h5":
            prepared[layout.FULL_H5] = stock_save.save_h5(model, workspace)
        beside = descriptions.census.take(
            model,
            introspection.saved_variables(model, captured),
            buffers.copy,
            optimizer=optimizer,
        )
        beside.unsaved.extend(descriptions.kept_by_graph(model))
        return Snapshot(
            architecture=described,
            groups=groups,
            step=introspection.step_of(model),
            seeds=introspection.seed_states(model),
            compile_config=compile_config,
            compile_before=descriptions.compile_before,
            compiled=descriptions.recorder.record(model),
            captured=captured,
            prepared=prepared,
            workspace=workspace,
            schema=schema_of(model),
            created=datetime.now(UTC),
            dtype_policy=str(model.dtype_policy.name),
            keras_config=keras_config.current(),
            variable_names=introspection.readable_names(model),
            beside=beside,
        )
    except BaseException:
        workspace.remove()
        raise


def _groups(
    model: keras.Model, captured: CapturedState | None, prepared: Prepared, workspace: Workspace
) -> list[Group]:
    """Return the content of the weights file, if need be from a file that Keras saves."""
    if captured is not None:
        groups = captured.groups
    else:
        stock_file = stock_save.save_stock(model, workspace() / "model.keras")
        prepared[layout.FULL_KERAS] = stock_file
        groups = stock_save.read_groups(stock_file)
    mark_optimizers(model, groups)
    return groups


def _capture(
    model: keras.Model, workspace: Workspace, buffers: Buffers, *, optimizer: bool
) -> CapturedState | None:
    """Capture a model's state; None, with a warning, if only Keras's `save` can."""
    try:
        return capturing.capture(
            *(model, workspace, buffers.copy),
            optimizer=optimizer,
            optimizers=optimizers_of(model).values(),
        )
    except keras_version.PrivateApiError as error:
        stock_save.warn_of_fallback(error)
        return None
