"""Copies a checkpoint's weights into a model that the user built."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.fingerprint import OPTIMIZER_ROLE, WEIGHTS_ROLE, TensorFingerprint
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._model import keras_private
from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt._model.files.hdf5 import native
from mlflow_ckpt._model.rebuild import model_loader
from mlflow_ckpt._model.rebuild.guarded import guarded
from mlflow_ckpt._model.rebuild.model_loader import weights_path
from mlflow_ckpt._model.rebuild.proof import check_fingerprint, read_fingerprint
from mlflow_ckpt.errors import WeightsMismatchError

Tensors = Mapping[str, TensorFingerprint]


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did, tensor by tensor.

    Attributes:
        loaded: Names of the model's tensors that now hold the checkpoint's values (converted, where
            the types differ).
        skipped: Names of tensors that both have and that were not loaded, because their shape, or
            that of another tensor of the same layer, differs.
        missing: Names of the model's tensors that the checkpoint lacks.
        unused: Names of the checkpoint's tensors that the model has no place for.
    """

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every tensor of model and checkpoint found its twin."""
        return not (self.skipped or self.missing or self.unused)

    def __str__(self) -> str:
        """Return one line for people."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        for what, names in (
            ("skipped for their layer's shapes", self.skipped),
            ("not in the checkpoint", self.missing),
            ("unused", self.unused),
        ):
            if names:
                parts.append(f"{len(names)} {what} ({', '.join(names)})")
        return "; ".join(parts)


def fill(
    model: keras.Model,
    directory: Path,
    manifest: Manifest,
    *,
    skip_mismatch: bool,
    custom_objects: Mapping[str, Any] | None = None,
) -> LoadReport:
    """Copy a checkpoint's weights into a model that the user built.

    Tensors meet by name, that is by position in the model's structure, as in `Model.load_weights`.

    Args:
        model: A built model.
        directory: The checkpoint's files.
        manifest: Its manifest.
        skip_mismatch: Load what fits and leave the rest; otherwise nothing is touched unless
            everything fits.
        custom_objects: Needed where the checkpoint has nothing but legacy HDF5.

    Raises:
        WeightsMismatchError: If a tensor does not fit and `skip_mismatch` is False.
    """
    theirs = {t.name: t for t in read_fingerprint(directory).of_role(WEIGHTS_ROLE)}
    mine = {t.name: t for t in introspection.fingerprint_tensors(model).of_role(WEIGHTS_ROLE)}
    problems = list(_problems(mine, theirs))
    if problems and not skip_mismatch:
        raise _mismatch(manifest, problems, " Pass skip_mismatch=True to load what fits.")
    with (
        weights_path(directory, manifest, custom_objects) as path,
        # The optimizer of the given model is left alone on purpose; the report says the rest.
        keras_private.ignoring_skipped_weights(),
    ):
        if not problems:
            guarded(lambda: model.load_weights(path))
            check_fingerprint(model, directory, roles=(WEIGHTS_ROLE,))
            return LoadReport(loaded=tuple(mine), skipped=(), missing=(), unused=())
        guarded(lambda: model.load_weights(path, skip_mismatch=True))
        return _report(model, path, mine, theirs)


def fill_all(
    model: keras.Model,
    directory: Path,
    manifest: Manifest,
    custom_objects: Mapping[str, Any] | None = None,
) -> None:
    """Copy everything that the full form holds into a model that the user built and compiled.

    Raises:
        FormNotFoundError: If the checkpoint was saved without the full form.
        WeightsMismatchError: If a tensor does not fit. Nothing was touched then.
        ModelLoadError: If the model has other seed generators than were saved.
    """
    roles = (WEIGHTS_ROLE, OPTIMIZER_ROLE)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
    saved = read_fingerprint(directory)
    rebuilt = introspection.fingerprint_tensors(model)
    fresh = manifest.step == 0 and not saved.of_role(OPTIMIZER_ROLE)
    compared = (WEIGHTS_ROLE,) if fresh else roles
    theirs = {t.name: t for t in saved.tensors if t.role in compared}
    mine = {t.name: t for t in rebuilt.tensors if t.role in compared}
    problems = list(_problems(mine, theirs))
    if problems:
        raise _mismatch(manifest, problems, "")
    if manifest.full_format == "keras":
        guarded(lambda: model.load_weights(directory / layout.FULL_KERAS))
    else:
        twin = model_loader.load_full(directory, manifest, custom_objects)
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary:
            path = Path(temporary) / layout.WEIGHTS
            twin.save_weights(path)
            guarded(lambda: model.load_weights(path))
    model_loader.restore_seeds(model, directory)
    check_fingerprint(model, directory, roles=compared, fresh_optimizer=manifest.step == 0)


def _mismatch(
    manifest: Manifest, problems: list[tuple[str, str]], advice: str
) -> WeightsMismatchError:
    shown = "; ".join(text for _, text in problems[:5])
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return WeightsMismatchError(
        f"The weights of {manifest.name} do not fit the given model: {shown}{more}. "
        f"Nothing was loaded.{advice}",
        tensors=[name for name, _ in problems],
    )


def _problems(mine: Tensors, theirs: Tensors) -> Iterator[tuple[str, str]]:
    """Yield each tensor that does not fit, and why."""
    for name, tensor in mine.items():
        if name not in theirs:
            yield name, f"the checkpoint lacks {name}"
        elif (tensor.shape, tensor.dtype) != (theirs[name].shape, theirs[name].dtype):
            yield name, f"{name} is {_kind(tensor)} in the model and {_kind(theirs[name])} in it"
    for name in theirs:
        if name not in mine:
            yield name, f"the model has no {name}"


def _report(model: keras.Model, path: Path, mine: Tensors, theirs: Tensors) -> LoadReport:
    """Tell by hash what was loaded, rather than what should have been."""
    now = introspection.fingerprint_tensors(model)
    expected = _expected_digests(path, mine, theirs)
    loaded = {name for name in mine if expected.get(name) == now[name].digest}
    return LoadReport(
        loaded=tuple(name for name in mine if name in loaded),
        skipped=tuple(name for name in mine if name in theirs and name not in loaded),
        missing=tuple(name for name in mine if name not in theirs),
        unused=tuple(name for name in theirs if name not in mine),
    )


def _expected_digests(path: Path, mine: Tensors, theirs: Tensors) -> dict[str, Digest]:
    """Return what the model's tensors should hold now; Keras converts where types differ."""
    expected = {}
    with h5py.File(path, "r") as file:
        for name, tensor in mine.items():
            if name not in theirs or tensor.shape != theirs[name].shape:
                continue
            expected[name] = theirs[name].digest
            if tensor.dtype != theirs[name].dtype:
                array = keras.ops.convert_to_tensor(native(file[name]))
                converted = keras.ops.convert_to_numpy(keras.ops.cast(array, tensor.dtype))
                expected[name] = Digest.of_array(converted)
    return expected


def _kind(tensor: TensorFingerprint) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
