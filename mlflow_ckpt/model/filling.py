"""Copies a checkpoint's weights into a model that the user built."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras

from mlflow_ckpt.errors import WeightsMismatchError
from mlflow_ckpt.format.fingerprint import WEIGHTS_ROLE
from mlflow_ckpt.format.manifest import Manifest
from mlflow_ckpt.model import snapshot
from mlflow_ckpt.model.architecture import guarded
from mlflow_ckpt.model.loading import weights_path
from mlflow_ckpt.model.proof import check_fingerprint, read_fingerprint


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did, tensor by tensor.

    Attributes:
        loaded: Names of the model's tensors that now hold the checkpoint's values.
        mismatched: Names of tensors that both have, with different shapes; left as they were.
        missing: Names of the model's tensors that the checkpoint lacks; left as they were.
        unused: Names of the checkpoint's tensors that the model has no place for.
    """

    loaded: tuple[str, ...]
    mismatched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every tensor of model and checkpoint found its twin."""
        return not (self.mismatched or self.missing or self.unused)

    def __str__(self) -> str:
        """Return one line for people."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        for what, names in (
            ("left alone for their shape", self.mismatched),
            ("not in the checkpoint", self.missing),
            ("unused", self.unused),
        ):
            if names:
                parts.append(f"{len(names)} {what} ({', '.join(names)})")
        return "; ".join(parts)


def fill(
    model: keras.Model, directory: Path, manifest: Manifest, *, skip_mismatch: bool
) -> LoadReport:
    """Copy a checkpoint's weights into a model that the user built.

    Tensors meet by name, that is by position in the model's structure, as in `Model.load_weights`.

    Args:
        model: A built model.
        directory: The checkpoint's files.
        manifest: Its manifest.
        skip_mismatch: Load what fits and leave the rest; otherwise nothing is touched unless
            everything fits.

    Raises:
        WeightsMismatchError: If a tensor does not fit and `skip_mismatch` is False.
    """
    saved = read_fingerprint(directory)
    theirs = {tensor.name: tensor.shape for tensor in saved.of_role(WEIGHTS_ROLE)}
    now = snapshot.fingerprint_tensors(model)
    mine = {tensor.name: tensor.shape for tensor in now.of_role(WEIGHTS_ROLE)}
    mismatched = [name for name in mine if name in theirs and mine[name] != theirs[name]]
    missing = [name for name in mine if name not in theirs]
    unused = [name for name in theirs if name not in mine]
    if (mismatched or missing or unused) and not skip_mismatch:
        raise WeightsMismatchError(
            _mismatch_message(manifest.name, mine, theirs, mismatched, missing, unused),
            tensors=[*mismatched, *missing, *unused],
        )
    with weights_path(directory, manifest) as path:
        if not skip_mismatch:
            guarded(lambda: model.load_weights(path))
            check_fingerprint(model, directory, roles=(WEIGHTS_ROLE,))
            return LoadReport(tuple(mine), (), (), ())
        return _fill_matching(model, directory, path, mine, unused)


def _fill_matching(
    model: keras.Model,
    directory: Path,
    path: Path,
    mine: Mapping[str, tuple[int, ...]],
    unused: list[str],
) -> LoadReport:
    """Load what fits, and report by hash what was loaded rather than what should have been."""
    with warnings.catch_warnings():
        # Keras lists what it skipped; the report says it in full.
        warnings.filterwarnings("ignore", message=".*objects could not be loaded")
        warnings.filterwarnings("ignore", message="Skipping loading weights")
        guarded(lambda: model.load_weights(path, skip_mismatch=True))
    saved = {tensor.name: tensor for tensor in read_fingerprint(directory).of_role(WEIGHTS_ROLE)}
    now = snapshot.fingerprint_tensors(model)
    loaded = [name for name in mine if name in saved and now[name].digest == saved[name].digest]
    return LoadReport(
        loaded=tuple(loaded),
        mismatched=tuple(name for name in mine if name in saved and name not in set(loaded)),
        missing=tuple(name for name in mine if name not in saved),
        unused=tuple(unused),
    )


def _mismatch_message(
    name: str,
    mine: Mapping[str, tuple[int, ...]],
    theirs: Mapping[str, tuple[int, ...]],
    mismatched: list[str],
    missing: list[str],
    unused: list[str],
) -> str:
    problems = [
        f"{t} is {list(mine[t])} in the model and {list(theirs[t])} in it" for t in mismatched
    ]
    problems += [f"it lacks {t}" for t in missing]
    problems += [f"the model has no {t}" for t in unused]
    shown = "; ".join(problems[:5]) + (
        f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    )
    return (
        f"The weights of {name} do not fit the given model: {shown}. "
        "Nothing was loaded. Pass skip_mismatch=True to load what fits."
    )
