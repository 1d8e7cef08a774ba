"""What a training keeps besides its model, and Keras's files do not hold: `training_state.json`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.values import pack, unpack
from mlflow_ckpt.errors import IntegrityError, NewerSchemaError

VERSION = 1


@dataclass
class TrainingState:
    """What a training needs to go on, besides the model.

    Attributes:
        epoch: Number of completed epochs.
        step: `optimizer.iterations`.
        batch: Batches done of the epoch under way; 0 between two epochs.
        steps: Batches of a whole epoch; None if unknown.
        epochs: Epochs in all that `fit` was told; None if unknown.
        dtype_policy: Name of the model's own policy; None if unknown.
        compile_config: What `model.compile_from_config` takes; None for an uncompiled model.
        arrays: By name: the states of seed generators, and what the rest refers to.
        random: States of the global random generators, by whose they are; None if unknown.
        metrics: Values of the metrics' variables inside an epoch, in their order.
        callbacks: States of the callbacks by key, packed; None if unknown.
        unsaved: What of the training is in no file, one phrase each.
        stopped: Whether a callback had asked to stop the training.
        data: What tells the data set from another; None if unknown.
        code: Digests of the source of classes and functions that are the user's own, by name.
        settings: Arguments of the `MlflowCheckpoint` that saved it.
    """

    epoch: int = 0
    step: int = 0
    batch: int = 0
    steps: int | None = None
    epochs: int | None = None
    dtype_policy: str | None = None
    compile_config: dict[str, Any] | None = None
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    random: dict[str, Any] | None = None
    metrics: list[np.ndarray[Any, Any]] = field(default_factory=list)
    callbacks: dict[str, Any] | None = None
    unsaved: list[str] = field(default_factory=list)
    stopped: bool = False
    data: dict[str, Any] | None = None
    code: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] | None = None


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
        "compile_config": state.compile_config,
        "random": pack(state.random, "random", arrays),
        "metrics": pack(state.metrics, "metrics", arrays),
        "callbacks": state.callbacks,
        "unsaved": state.unsaved,
        "stopped": state.stopped,
        "data": state.data,
        "code": state.code,
        "settings": state.settings,
        "arrays": sorted(arrays),
    }
    text = json.dumps(content, indent=2) + "\n"
    (directory / layout.TRAINING_STATE).write_text(text, encoding="utf-8", newline="\n")
    if arrays:
        np.savez(directory / layout.TRAINING_ARRAYS, allow_pickle=False, **arrays)


def read(directory: Path) -> TrainingState:
    """Read the training state of a checkpoint's directory; older ones hold less.

    Raises:
        NewerSchemaError: If a newer mlflow_ckpt wrote it.
        IntegrityError: If it cannot be read.
    """
    try:
        content = json.loads((directory / layout.TRAINING_STATE).read_text("utf-8"))
        if content["schema_version"] > VERSION:
            raise NewerSchemaError(
                f"The training state has schema version {content['schema_version']}; this "
                f"mlflow_ckpt reads up to {VERSION}. Install a newer mlflow-ckpt.",
                found=content["schema_version"],
                supported=VERSION,
            )
        arrays = _read_arrays(directory)
        return _from_content(content, arrays)
    except (
        AttributeError,
        EOFError,
        LookupError,
        OSError,
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
    return TrainingState(
        epoch=content["epoch"],
        step=content["step"],
        batch=content.get("batch", 0),
        steps=content.get("steps"),
        epochs=content.get("epochs"),
        dtype_policy=content.get("dtype_policy"),
        compile_config=content["compile_config"],
        arrays=arrays,
        random=unpack(content.get("random"), arrays),
        metrics=unpack(content.get("metrics", []), arrays),
        callbacks=content.get("callbacks"),
        unsaved=list(content.get("unsaved", [])),
        stopped=bool(content.get("stopped", False)),
        data=content.get("data"),
        code=dict(content.get("code", {})),
        settings=content.get("settings"),
    )


def _read_arrays(directory: Path) -> dict[str, np.ndarray[Any, Any]]:
    path = directory / layout.TRAINING_ARRAYS
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file}
