"""Writes a snapshot to a checkpoint's directory, in Keras's file formats."""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.fingerprint import (
    OPTIMIZER_ROLE,
    WEIGHTS_ROLE,
    Fingerprint,
    TensorFingerprint,
)
from mlflow_ckpt._model.capture.snapshot import Snapshot
from mlflow_ckpt._model.capture.updates import Update
from mlflow_ckpt._model.files import model_config, training_state
from mlflow_ckpt._model.files.captured import CapturedState, Group, Tensor
from mlflow_ckpt._model.files.hdf5 import LaidOutFile, laid_out, write_out
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt.errors import UnsupportedModelError


def write(
    snapshot: Snapshot,
    directory: Path,
    *,
    epoch: int,
    forms: Collection[str],
    full_format: str,
    training: TrainingState | None = None,
    update: Update | None = None,
) -> Fingerprint:
    """Write the files of a checkpoint that come from the model; return its fingerprint.

    Args:
        snapshot: The state to write.
        directory: An existing, empty directory.
        epoch: Number of completed epochs.
        forms: `"full"`, `"split"` or both.
        full_format: `"keras"` or `"h5"`.
        training: State of the training, if known.
        update: Change of the weights since the previous checkpoint, if known.

    Raises:
        OSError: If the disk is full or the directory cannot be written.
    """
    described = model_config.to_json(snapshot.architecture)
    _write_text(directory / layout.ARCHITECTURE_JSON, described)
    _write_text(directory / layout.ARCHITECTURE_YAML, _yaml(described))
    computed: dict[str, TensorFingerprint] = {}
    if "full" in forms:
        computed |= _write_full(snapshot, directory, full_format)
    if "split" in forms:
        computed |= _write_weights(snapshot, directory / layout.WEIGHTS, fingerprint=not computed)
    _write_training_state(snapshot, directory, epoch, training or TrainingState())
    fingerprint = snapshot.fingerprint(computed)
    if update is not None:
        fingerprint = fingerprint.with_updates(update.since, update.norms)
    _write_text(directory / layout.FINGERPRINT, fingerprint.to_json())
    return fingerprint


def require_complete(snapshot: Snapshot, forms: Collection[str], full_format: str) -> None:
    """Check that the requested forms can hold the whole model.

    Raises:
        UnsupportedModelError: If a form would lose part of the model.
    """
    lossy = "split form" if "split" in forms else "HDF5 format" if full_format == "h5" else None
    if lossy and snapshot.captured is not None and snapshot.captured.assets is not None:
        raise UnsupportedModelError(
            "The model has layers that store files besides their weights, such as an adapted "
            f"vocabulary, which Keras's {lossy} does not hold. Give these layers their vocabulary "
            "as an argument, or save forms=('full',) with full_format='keras'."
        )
    if "full" in forms and full_format == "h5":
        _require_legacy_format_to_hold(snapshot)


def _require_legacy_format_to_hold(snapshot: Snapshot) -> None:
    nested = [
        group.path
        for group in snapshot.groups
        if group.role == OPTIMIZER_ROLE and group.path.split("/")[0] != "optimizer"
    ]
    if nested:
        raise UnsupportedModelError(
            f"The model has optimizers besides its own, such as a submodel's ({nested[0]}), "
            "which Keras's HDF5 format does not hold. Save with full_format='keras'."
        )
    types = {array.dtype.name for group in snapshot.groups for array in group.arrays.values()}
    if "bfloat16" in types:
        raise UnsupportedModelError(
            "The model has bfloat16 weights, which Keras cannot read back from HDF5. "
            "Save with full_format='keras'."
        )


def write_groups(file: h5py.File, groups: Iterable[Group]) -> None:
    """Write tensors in the layout of Keras 3's weights files."""
    for group in groups:
        parent = file.create_group(group.path) if group.path else file
        variables = parent.create_group("vars")
        if group.owner is not None:
            variables.attrs["name"] = group.owner
        for key, array in group.arrays.items():
            dataset = variables.create_dataset(key, data=array)
            if array.dtype.name == "bfloat16":
                # HDF5 has no such dtype: Keras stores the bytes and the name of the dtype.
                dataset.attrs["dtype"] = "bfloat16"


@lru_cache(maxsize=4)
def _yaml(described: str) -> str:
    """Convert an architecture from JSON to YAML; cached, as it is slow and rarely changes."""
    return model_config.to_yaml(json.loads(described))


def _write_full(
    snapshot: Snapshot, directory: Path, full_format: str
) -> dict[str, TensorFingerprint]:
    target = directory / layout.FULL_FILES[full_format]
    target.parent.mkdir()
    _write_text(target.parent / "keras_module.txt", "keras")
    prepared = snapshot.prepared.get(layout.FULL_FILES[full_format])
    if isinstance(prepared, LaidOutFile):
        with target.open("wb") as file:
            write_out(prepared, file.write)
    elif prepared is not None:
        shutil.move(prepared, target)
    elif snapshot.captured is not None:
        return _write_archive(snapshot, snapshot.captured, target)
    return {}


def _write_archive(
    snapshot: Snapshot, captured: CapturedState, target: Path
) -> dict[str, TensorFingerprint]:
    arrays = [tensor.array for tensor in snapshot.tensors]
    with laid_out(arrays) as (file, laid):
        write_groups(file, captured.groups)
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("metadata.json", captured.metadata_json)
        archive.writestr("config.json", captured.config_json)
        member = zipfile.ZipInfo(layout.WEIGHTS_IN_ARCHIVE, time.localtime()[:6])
        member.external_attr = 0o600 << 16
        # The size, set in advance, decides whether the archive uses 64-bit records.
        member.file_size = laid.size
        with archive.open(member, "w") as stream:
            fingerprints = _fingerprinted(snapshot.tensors, laid, stream.write)
        if captured.assets is not None:
            for file_path in sorted(captured.assets.rglob("*")):
                if file_path.is_file():
                    inside = file_path.relative_to(captured.assets.parent).as_posix()
                    archive.write(file_path, inside)
    return fingerprints


def _write_weights(
    snapshot: Snapshot, target: Path, *, fingerprint: bool
) -> dict[str, TensorFingerprint]:
    tensors = [tensor for tensor in snapshot.tensors if tensor.role == WEIGHTS_ROLE]
    with laid_out([tensor.array for tensor in tensors]) as (file, laid):
        write_groups(file, snapshot.weights_only())
    with target.open("wb") as stream:
        if fingerprint:
            return _fingerprinted(tensors, laid, stream.write)
        write_out(laid, stream.write)
        return {}


def _fingerprinted(
    tensors: Sequence[Tensor], laid: LaidOutFile, write: Callable[[memoryview], Any]
) -> dict[str, TensorFingerprint]:
    """Write a file; return the fingerprints of the tensors that are contiguous in it."""
    fingerprinters = {i: tensor.fingerprinter() for i, tensor in enumerate(tensors)}
    by_index = write_out(laid, write, [tensor.array for tensor in tensors], fingerprinters)
    return {tensors[index].name: fingerprint for index, fingerprint in by_index.items()}


def _write_training_state(
    snapshot: Snapshot, directory: Path, epoch: int, training: TrainingState
) -> None:
    state = replace(
        training,
        epoch=epoch,
        step=snapshot.step,
        dtype_policy=snapshot.dtype_policy,
        keras_config=snapshot.keras_config,
        compile_config=snapshot.compile_config,
        compile_before=snapshot.compile_before,
        compile=snapshot.compiled.compile,
        optimizers=snapshot.compiled.optimizers,
        layers=snapshot.compiled.layers,
        arrays={**snapshot.seeds, **training.arrays},
        state=[vars(held) for held in snapshot.beside.state],
        attributes=snapshot.beside.attributes,
        attributes_before=snapshot.beside.before,
        unsaved=[*training.unsaved, *snapshot.beside.unsaved],
    )
    training_state.write(state, directory)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
