"""The snapshot: host copies of all state, so that nothing after it touches the live model."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import keras
import numpy as np

from mlflow_ckpt.errors import UnsupportedModelError
from mlflow_ckpt.format import layout
from mlflow_ckpt.format.fingerprint import (
    OPTIMIZER_ROLE,
    WEIGHTS_ROLE,
    Fingerprint,
    TensorFingerprint,
    TensorFingerprinter,
    architecture_digest,
    fingerprint_tensor,
)
from mlflow_ckpt.format.schema import ModelSchema
from mlflow_ckpt.format.weights_file import open_weights
from mlflow_ckpt.model import architecture, keras_private
from mlflow_ckpt.model.buffers import Buffers
from mlflow_ckpt.model.hdf5 import LaidOutFile, laid_out, native
from mlflow_ckpt.model.keras_private import CapturedState, Group
from mlflow_ckpt.model.schema import schema_of

# How the arrays of training_state.npz that hold seed generators are called.
SEEDS = "seed_generators/"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a snapshot.

    Attributes:
        name: Path of the tensor in Keras's weights file.
        array: Its values.
        layer: Name of the object that owns it; None if it has none.
        variable: The variable's own name; None if it has none.
        role: `"weights"` or `"optimizer"`.
    """

    name: str
    array: np.ndarray[Any, Any]
    layer: str | None
    variable: str | None
    role: str

    def fingerprinter(self) -> TensorFingerprinter:
        """Return what fingerprints this tensor piece by piece."""
        return TensorFingerprinter(
            self.name,
            self.array.shape,
            self.array.dtype,
            layer=self.layer,
            variable=self.variable,
            role=self.role,
        )

    def fingerprint(self) -> TensorFingerprint:
        """Fingerprint the tensor."""
        return fingerprint_tensor(
            self.name, self.array, layer=self.layer, variable=self.variable, role=self.role
        )


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
        variable_names: What people call the tensors that the model stores without a name.
    """

    architecture: dict[str, Any]
    groups: list[Group]
    step: int
    seeds: Mapping[str, np.ndarray[Any, Any]]
    compile_config: dict[str, Any] | None
    captured: CapturedState | None
    prepared: Mapping[str, Path | LaidOutFile]
    workspace: Workspace
    schema: ModelSchema | None
    created: datetime
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
        return list(_tensors(self.groups, self.variable_names))

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
            self._compile_config = model.get_compile_config() if is_compiled(model) else None
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
    require_built(model)
    keras_private.repair_compile_settings(model)
    workspace = Workspace()
    known = descriptions or Descriptions()
    try:
        if known.is_empty:
            architecture.require_format(architecture.describe(model), full_format)
        prepared: dict[str, Path | LaidOutFile] = {}
        captured: CapturedState | None = None
        try:
            captured = keras_private.capture(
                model, workspace, buffers or Buffers(), optimizer=full_format is not None
            )
            groups = captured.groups
        except keras_private.PrivateApiError as error:
            _warn_of_fallback(error)
            stock = save_stock(model, workspace() / "model.keras")
            prepared[layout.FULL_KERAS] = stock
            groups = _read_groups(stock)
        _mark_optimizers(model, groups)
        described, compile_config = known.of(model, captured)
        architecture.require_format(described, full_format)
        if full_format == "h5":
            prepared[layout.FULL_H5] = _save_h5(model, workspace)
        return Snapshot(
            architecture=described,
            groups=groups,
            step=step_of(model),
            seeds=seed_states(model),
            compile_config=compile_config,
            captured=captured,
            prepared=prepared,
            workspace=workspace,
            schema=schema_of(model),
            created=datetime.now(UTC),
            variable_names=_readable(model),
        )
    except BaseException:
        workspace.remove()
        raise


def fingerprint(model: keras.Model) -> Fingerprint:
    """Fingerprint a live model's tensors, and its architecture if it can describe it.

    Raises:
        UnsupportedModelError: If the model is not built.
    """
    tensors = fingerprint_tensors(model).tensors
    try:
        described = architecture.describe(model)
    except UnsupportedModelError:
        return Fingerprint(tensors)
    return Fingerprint(tensors, architecture_digest(described))


def fingerprint_tensors(model: keras.Model) -> Fingerprint:
    """Fingerprint a live model's tensors, without its architecture.

    Raises:
        UnsupportedModelError: If the model is not built.
    """
    require_built(model)
    try:
        groups = keras_private.capture_groups(model)
    except keras_private.PrivateApiError as error:
        _warn_of_fallback(error)
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as directory:
            path = Path(directory) / layout.WEIGHTS
            model.save_weights(path)
            groups = _read_groups(path)
    _mark_optimizers(model, groups)
    return Fingerprint(tuple(tensor.fingerprint() for tensor in _tensors(groups, _readable(model))))


def require_built(model: keras.Model) -> None:
    """Raise unless the model has its weights.

    Raises:
        UnsupportedModelError: If it has never seen an input's shape.
    """
    if not model.built:
        raise UnsupportedModelError(
            f"The model {model.name!r} has no weights yet. Expected a built model: "
            "call it on data, fit it, or give it an Input."
        )


def is_compiled(model: keras.Model) -> bool:
    """Whether `compile` was called on the model."""
    return bool(getattr(model, "compiled", False))


def step_of(model: keras.Model) -> int:
    """Return `optimizer.iterations`, or 0 for a model without an optimizer."""
    optimizer = getattr(model, "optimizer", None)
    return 0 if optimizer is None else int(keras.ops.convert_to_numpy(optimizer.iterations))


def seed_variables(model: keras.Model) -> dict[str, Any]:
    """Return the variables that are neither weights nor the optimizer's: seed generators.

    They are named by position, which a reloaded twin shares; their own names it does not.
    """
    weights = {id(weight) for weight in model.weights}
    others = [variable for variable in model.variables if id(variable) not in weights]
    return {f"{SEEDS}{index}": variable for index, variable in enumerate(others)}


def seed_states(model: keras.Model) -> dict[str, np.ndarray[Any, Any]]:
    """Return host copies of the seed generators' states."""
    return {
        name: np.array(keras.ops.convert_to_numpy(variable), copy=True)
        for name, variable in seed_variables(model).items()
    }


def _tensors(groups: Iterable[Group], variable_names: Mapping[str, str]) -> Iterator[Tensor]:
    for group in groups:
        prefix = f"{group.path}/vars" if group.path else "vars"
        for key, array in group.arrays.items():
            name = f"{prefix}/{key}"
            variable = group.variables.get(key) or variable_names.get(name)
            yield Tensor(name, array, group.owner, variable, group.role)


def _mark_optimizers(model: keras.Model, groups: Iterable[Group]) -> None:
    """Tell the state of optimizers from weights: the compiled one, and others a model may own."""
    owned = ["optimizer"]
    for attribute, value in vars(model).items():
        members = list(value.values()) if isinstance(value, dict) else value
        for member in members if isinstance(members, (list, tuple)) else [members]:
            if isinstance(member, keras.optimizers.Optimizer):
                owned.append(attribute)
    for group in groups:
        parts = group.path.split("/")
        # Deeper down, a part called so is the optimizer of a compiled submodel.
        if parts[0] in owned or "optimizer" in parts[1:]:
            group.role = OPTIMIZER_ROLE


def _warn_of_fallback(error: Exception) -> None:
    warnings.warn(
        f"Keras {keras.__version__} saves models in another way than Keras "
        f"{keras_private.TESTED_WITH}, which this mlflow_ckpt was tested with ({error}); "
        "going through Keras's public API, which is slower.",
        stacklevel=3,
    )


def _save_h5(model: keras.Model, workspace: Workspace) -> Path | LaidOutFile:
    try:
        with laid_out() as (file, laid):
            keras_private.save_legacy_h5(model, file)
    except keras_private.PrivateApiError as error:
        _warn_of_fallback(error)
        return save_stock(model, workspace() / "model.h5")
    except (NotImplementedError, TypeError, ValueError) as error:
        raise _unsupported(model, ".h5", error) from error
    finally:
        keras_private.repair_compile_settings(model)
    return laid


def save_stock(model: keras.Model, path: Path) -> Path:
    """Save a live model by Keras's own `save`, in the format that the suffix of `path` names.

    Raises:
        UnsupportedModelError: If Keras cannot save this model in that format.
    """
    try:
        with _quiet_about_hdf5():
            model.save(path)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise _unsupported(model, path.suffix, error) from error
    finally:
        keras_private.repair_compile_settings(model)
    return path


def _unsupported(model: keras.Model, suffix: str, error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"Keras cannot save the model {model.name!r} as {suffix}: {architecture.first_line(error)}"
    )


@contextmanager
def _quiet_about_hdf5() -> Iterator[None]:
    # The user asked for this format; a reminder at every epoch helps nobody.
    logger = logging.getLogger("absl")
    logger.addFilter(_is_not_about_hdf5)
    try:
        yield
    finally:
        logger.removeFilter(_is_not_about_hdf5)


def _is_not_about_hdf5(record: logging.LogRecord) -> bool:
    return "HDF5 file" not in record.getMessage()


def _read_groups(archive: Path) -> list[Group]:
    """Read back what Keras wrote, where the live model could not be walked."""
    groups: list[Group] = []

    def visit(path: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and path.rpartition("/")[2] == "vars":
            group = Group(path.rpartition("/vars")[0], item.attrs.get("name"))
            for key in sorted(item, key=lambda key: (len(key), key)):
                group.arrays[key] = native(item[key])
            groups.append(group)

    with open_weights(archive) as file:
        file.visititems(visit)
    return groups


def _readable(model: keras.Model) -> dict[str, str]:
    # The optimizer puts the model's own name before each variable's, but only until a reload.
    return {
        path: name.removeprefix(f"{model.name}_")
        for path, name in keras_private.variable_names(model).items()
    }
