"""The state of a training that Keras's files do not contain: `training_state.json`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.untrusted import fields, json_text, regular_file
from mlflow_ckpt._format.untrusted.numpy_file import load_arrays
from mlflow_ckpt._format.values import pack, unpack
from mlflow_ckpt._model.files import training_fields
from mlflow_ckpt.errors import IntegrityError, NewerSchemaError

VERSION = 1
# Fields that refer to arrays, and what a missing one stands for.
_UNPACKED: tuple[tuple[str, Any], ...] = (
    ("random", None),
    ("metrics", []),
    ("dropped", []),
    ("state", []),
    ("attributes", None),
    ("attributes_before", {}),
)


@dataclass
class TrainingState:
    """The state that a training needs to resume, apart from the model.

    Attributes:
        epoch: Number of completed epochs.
        step: `optimizer.iterations`.
        batch: Number of completed batches of the current epoch; 0 between epochs.
        steps: Number of batches per epoch; None if unknown.
        epochs: The argument `epochs` of `fit`; None if unknown.
        dtype_policy: Name of the model's dtype policy; None if unknown.
        keras_config: Keras's settings of the process; None if unknown.
        compile_config: Argument of `model.compile_from_config`; None for an uncompiled model.
        compile_before: Values in it that changed since the training began, as they were then, by
            path.
        compile: Compile settings that no configuration holds; None if unknown or uncompiled.
        optimizers: What each optimizer was built with, by its path; None if unknown.
        layers: Number of layers and positions of the frozen ones; None if unknown.
        arrays: States of the seed generators, and arrays that other fields refer to, by name.
        random: States of the global random generators, by library; None if unknown.
        metrics: Values of the metrics' variables, in order; empty between epochs.
        validation_pending: Whether all batches of the epoch are completed, and its validation and
            end are still to come.
        dropped: Weights that `SwapEMAWeights` dropped after the last epoch; empty without it.
        callbacks: Packed states of the callbacks by key; None if unknown.
        unsaved: Phrases that describe state which could not be saved.
        stopped: Whether a callback had requested to stop the training.
        data: Description that identifies the data set; None if unknown.
        data_state: Where the training was in the data, and their state, packed; None if unknown.
        fit: Arguments of `fit`, described; None if unknown.
        code: Digests of the source of the user's classes and functions, by name.
        settings: Arguments of the `MlflowCheckpoint` that saved the state.
        state: State that Keras's files do not give back: `path`, `kind` and `value` of each.
        attributes: Plain attributes of the model's objects by path; None if unknown.
        attributes_before: Those that changed since the training began, with their values then.
    """

    epoch: int = 0
    step: int = 0
    batch: int = 0
    steps: int | None = None
    epochs: int | None = None
    dtype_policy: str | None = None
    keras_config: dict[str, Any] | None = None
    compile_config: dict[str, Any] | None = None
    compile_before: dict[str, Any] = field(default_factory=dict)
    compile: dict[str, Any] | None = None
    optimizers: dict[str, Any] | None = None
    layers: dict[str, Any] | None = None
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    random: dict[str, Any] | None = None
    metrics: list[np.ndarray[Any, Any]] = field(default_factory=list)
    validation_pending: bool = False
    dropped: list[np.ndarray[Any, Any]] = field(default_factory=list)
    callbacks: dict[str, Any] | None = None
    unsaved: list[str] = field(default_factory=list)
    stopped: bool = False
    data: dict[str, Any] | None = None
    data_state: dict[str, Any] | None = None
    fit: dict[str, Any] | None = None
    code: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] | None = None
    state: list[dict[str, Any]] = field(default_factory=list)
    attributes: dict[str, Any] | None = None
    attributes_before: dict[str, Any] = field(default_factory=dict)


def write(state: TrainingState, directory: Path) -> None:
    """Write `training_state.json`, and `training_state.npz` if there are arrays."""
    arrays = dict(state.arrays)
    content: dict[str, Any] = {
        "schema_version": VERSION,
        "epoch": state.epoch,
        "step": state.step,
        "batch": state.batch,
        "steps": state.steps,
        "epochs": state.epochs,
        "dtype_policy": state.dtype_policy,
        "keras_config": state.keras_config,
        "compile_config": state.compile_config,
        "compile_before": state.compile_before,
        "compile": state.compile,
        "optimizers": state.optimizers,
        "layers": state.layers,
        "random": pack(state.random, "random", arrays),
        "metrics": pack(state.metrics, "metrics", arrays),
        "validation_pending": state.validation_pending,
        "dropped": pack(state.dropped, "dropped", arrays),
        "callbacks": state.callbacks,
        "unsaved": state.unsaved,
        "stopped": state.stopped,
        "data": state.data,
        "data_state": state.data_state,
        "fit": state.fit,
        "code": state.code,
        "settings": state.settings,
        "state": pack(state.state, "state", arrays, copy=False),
        "attributes": pack(state.attributes, "attributes", arrays, copy=False),
        "attributes_before": pack(state.attributes_before, "before", arrays, copy=False),
        "arrays": sorted(arrays),
    }
    text = json.dumps(content, indent=2) + "\n"
    (directory / layout.TRAINING_STATE).write_text(text, encoding="utf-8", newline="\n")
    if arrays:
        np.savez(directory / layout.TRAINING_ARRAYS, allow_pickle=False, **arrays)


def read(directory: Path) -> TrainingState:
    """Read the training state in a checkpoint's directory; fields that are absent get defaults.

    Raises:
        NewerSchemaError: If a newer mlflow_ckpt wrote it.
        IntegrityError: If a file is missing or malformed.
    """
    try:
        text = regular_file.read(directory / layout.TRAINING_STATE)
        content = fields.table(json_text.parse(text))
        version = fields.count(content["schema_version"])
        if version > VERSION:
            raise NewerSchemaError.of("The training state", version, VERSION)
        training_fields.check(content)
        return _from_content(content, _read_arrays(directory))
    except NewerSchemaError:
        raise
    except (
        AttributeError,
        LookupError,
        OSError,
        OverflowError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        raise IntegrityError(
            f"{layout.TRAINING_STATE} is not as docs/format.md describes it ({error!r})."
        ) from error


def _from_content(
    content: Mapping[str, Any], arrays: dict[str, np.ndarray[Any, Any]]
) -> TrainingState:
    for state in (content.get("callbacks") or {}).values():
        unpack(state, arrays)  # what cannot be unpacked is found now, not in `fit`
    unpacked = {name: unpack(content.get(name, default), arrays) for name, default in _UNPACKED}
    training_fields.check_unpacked(unpacked)
    return TrainingState(
        epoch=content["epoch"],
        step=content["step"],
        batch=content.get("batch", 0),
        steps=content.get("steps"),
        epochs=content.get("epochs"),
        dtype_policy=content.get("dtype_policy"),
        keras_config=content.get("keras_config"),
        compile_config=content["compile_config"],
        compile_before=content.get("compile_before", {}),
        compile=content.get("compile"),
        optimizers=content.get("optimizers"),
        layers=content.get("layers"),
        arrays=arrays,
        random=unpacked["random"],
        metrics=unpacked["metrics"],
        validation_pending=bool(content.get("validation_pending", False)),
        dropped=unpacked["dropped"],
        callbacks=content.get("callbacks"),
        unsaved=list(content.get("unsaved", [])),
        stopped=bool(content.get("stopped", False)),
        data=content.get("data"),
        data_state=content.get("data_state"),
        fit=content.get("fit"),
        code=dict(content.get("code", {})),
        settings=content.get("settings"),
        state=unpacked["state"],
        attributes=unpacked["attributes"],
        attributes_before=unpacked["attributes_before"],
    )


def _read_arrays(directory: Path) -> dict[str, np.ndarray[Any, Any]]:
    path = directory / layout.TRAINING_ARRAYS
    if not path.is_file():
        return {}
    return load_arrays(path)
