"""Rebuilds a model from a verified checkpoint's directory."""

from __future__ import annotations

import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import h5py
import keras
import numpy as np

from mlflow_ckpt.errors import (
    FingerprintMismatchError,
    FormNotFoundError,
    ModelLoadError,
    WeightsMismatchError,
)
from mlflow_ckpt.format import layout
from mlflow_ckpt.format.fingerprint import OPTIMIZER_ROLE, WEIGHTS_ROLE, Fingerprint
from mlflow_ckpt.format.manifest import Manifest
from mlflow_ckpt.format.weights_file import open_weights
from mlflow_ckpt.model import architecture, snapshot

T = TypeVar("T")
CustomObjects = Mapping[str, Any] | None


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


def load_full(directory: Path, manifest: Manifest, custom_objects: CustomObjects) -> keras.Model:
    """Rebuild architecture, weights, optimizer and compile settings.

    Raises:
        FormNotFoundError: If the checkpoint was saved without the full form.
        ModelLoadError: If Keras cannot rebuild the model.
        FingerprintMismatchError: If a tensor is not the one that was saved.
    """
    if manifest.full_file is None:
        raise FormNotFoundError(
            f"The checkpoint {manifest.name} holds the split form only. "
            "Load it with form='split', or save with forms=('full', 'split').",
            available=manifest.forms,
        )
    path = directory / manifest.full_file
    if manifest.full_format == "h5":
        model = _load_h5(path, directory, custom_objects)
    else:
        with warnings.catch_warnings():
            # Keras says that it skipped a fresh optimizer; what it should not skip, the
            # fingerprint tells.
            warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
            model = _guarded(
                lambda: keras.saving.load_model(path, custom_objects=dict(custom_objects or {}))
            )
    _restore_seeds(model, directory)
    check_fingerprint(
        model,
        directory,
        roles=(WEIGHTS_ROLE, OPTIMIZER_ROLE),
        fresh_optimizer=manifest.step == 0,
    )
    return model


def load_split(directory: Path, manifest: Manifest, custom_objects: CustomObjects) -> keras.Model:
    """Rebuild the architecture and fill in the weights; the model is not compiled.

    Raises:
        ModelLoadError: If Keras cannot rebuild the model.
        FingerprintMismatchError: If a weight is not the one that was saved.
    """
    model = load_architecture(directory, custom_objects)
    with weights_path(directory, manifest) as path:
        _guarded(lambda: model.load_weights(path))
    check_fingerprint(model, directory, roles=(WEIGHTS_ROLE,))
    return model


def load_architecture(directory: Path, custom_objects: CustomObjects) -> keras.Model:
    """Build the model with fresh weights, uncompiled.

    Raises:
        ModelLoadError: If Keras cannot build it.
    """
    text = (directory / layout.ARCHITECTURE_JSON).read_text("utf-8")
    return architecture.build(architecture.from_json(text), custom_objects)


def weights_path(directory: Path, manifest: Manifest) -> AbstractContextManager[Path]:
    """Give a file that `Model.load_weights` takes, made from the full form if need be."""
    if "split" in manifest.forms:
        return nullcontext(directory / layout.WEIGHTS)
    if manifest.full_format == "h5":
        return nullcontext(directory / layout.FULL_H5)
    return _ExtractedWeights(directory / layout.FULL_KERAS)


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
            _guarded(lambda: model.load_weights(path))
            check_fingerprint(model, directory, roles=(WEIGHTS_ROLE,))
            return LoadReport(tuple(mine), (), (), ())
        return _fill_matching(model, directory, path, mine, unused)


def check_fingerprint(
    model: keras.Model, directory: Path, *, roles: tuple[str, ...], fresh_optimizer: bool = False
) -> None:
    """Prove by hash that the model's tensors are those that were saved.

    Args:
        model: The rebuilt model.
        directory: The checkpoint's files.
        roles: Only tensors of these roles count.
        fresh_optimizer: The compiled optimizer had not made a step: it may have been saved without
            its variables, and Keras builds it with fresh ones.

    Raises:
        FingerprintMismatchError: Otherwise; it names the tensors.
    """
    saved = read_fingerprint(directory)
    rebuilt = snapshot.fingerprint_tensors(model)
    differing = saved.differing(rebuilt, roles)
    if fresh_optimizer:
        differing = [name for name in differing if not name.startswith("optimizer/")]
    lost = {tensor.name for tensor in saved.of_role(OPTIMIZER_ROLE)}
    lost -= {tensor.name for tensor in rebuilt.tensors}
    if differing and lost.issuperset(differing):
        raise ModelLoadError(
            f"The compile settings of {type(model).__name__} cannot be rebuilt: the class has a "
            "compile() of its own. Give it get_compile_config() and compile_from_config() too, or "
            "load with form='split' and compile the model yourself."
        )
    if differing:
        shown = ", ".join(differing[:5]) + (" …" if len(differing) > 5 else "")
        raise FingerprintMismatchError(
            f"The rebuilt model is not the one that was saved: {len(differing)} tensors differ "
            f"({shown}). The files are intact, so a custom layer or optimizer does not load what "
            "it saves: check its save_own_variables and load_own_variables.",
            tensors=differing,
        )


def read_fingerprint(directory: Path) -> Fingerprint:
    """Read `fingerprint.json` of a checkpoint's directory."""
    return Fingerprint.from_json((directory / layout.FINGERPRINT).read_text("utf-8"))


class _ExtractedWeights(AbstractContextManager[Path]):
    """The weights file inside a `.keras` archive, in a temporary directory."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Path:
        self._temporary = tempfile.TemporaryDirectory(prefix="mlflow_ckpt_")
        target = Path(self._temporary.name) / layout.WEIGHTS
        with open_weights(self._archive) as source, h5py.File(target, "w") as file:
            for name, value in source.attrs.items():
                file.attrs[name] = value
            for name in source:
                if name != OPTIMIZER_ROLE:
                    source.copy(name, file)
        return target

    def __exit__(self, *_: object) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()


def _load_h5(path: Path, directory: Path, custom_objects: CustomObjects) -> keras.Model:
    """Load a legacy `.h5` model whole, which Keras 3.15 itself does not manage.

    Keras brings the optimizer back without variables and does not find metrics given by name, so
    the model is loaded uncompiled, compiled from the settings that the checkpoint keeps in a file
    of its own, and the optimizer's variables are put back in the order in which they were saved.
    """
    model = _guarded(
        lambda: keras.saving.load_model(
            path, custom_objects=dict(custom_objects or {}), compile=False
        )
    )
    state = json.loads((directory / layout.TRAINING_STATE).read_text("utf-8"))
    config = state["compile_config"]
    if config is None:
        return model

    def compile_model() -> None:
        with keras.saving.custom_object_scope(dict(custom_objects or {})):
            model.compile_from_config(config)

    _guarded(compile_model)
    if state["step"] > 0:
        with h5py.File(path, "r") as file:
            _fill_optimizer(model, file)
    return model


def _fill_optimizer(model: keras.Model, file: h5py.File) -> None:
    group = file.get("optimizer_weights")
    variables = model.optimizer.variables
    names = [] if group is None else _attribute_list(group, "weight_names")
    if len(names) != len(variables):
        raise ModelLoadError(
            f"The optimizer's state does not fit: the file holds {len(names)} variables, "
            f"{type(model.optimizer).__name__} has {len(variables)}."
        )
    for variable, name in zip(variables, names, strict=True):
        variable.assign(np.asarray(group[name]))


def _attribute_list(group: h5py.Group, name: str) -> list[str]:
    """Read a list of names that Keras splits over several attributes where it is long."""
    if name in group.attrs:
        parts = [group.attrs[name]]
    else:
        numbered = [f"{name}{index}" for index in range(len(group.attrs))]
        parts = [group.attrs[key] for key in numbered if key in group.attrs]
    return [
        value.decode() if isinstance(value, bytes) else str(value)
        for part in parts
        for value in part
    ]


def _restore_seeds(model: keras.Model, directory: Path) -> None:
    path = directory / layout.TRAINING_ARRAYS
    if not path.is_file():
        return
    with np.load(path, allow_pickle=False) as arrays:
        for name, variable in snapshot.seed_variables(model).items():
            if name in arrays and arrays[name].shape == tuple(variable.shape):
                variable.assign(arrays[name])


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
        _guarded(lambda: model.load_weights(path, skip_mismatch=True))
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


def _guarded(action: Callable[[], T]) -> T:
    """Run what calls constructors (Keras's, users'), which may raise anything."""
    try:
        return action()
    except (MemoryError, ModelLoadError):
        raise
    except zipfile.BadZipFile as error:
        raise ModelLoadError(f"The archive cannot be read: {error}.") from error
    except Exception as error:
        raise architecture.load_error(error) from error
