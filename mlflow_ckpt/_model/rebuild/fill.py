"""Copies a checkpoint's weights into a model that the user built."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.fingerprint import (
    OPTIMIZER_ROLE,
    WEIGHTS_ROLE,
    TensorFingerprint,
    read_fingerprint,
)
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.text import listed
from mlflow_ckpt._format.untrusted import regular_file
from mlflow_ckpt._model.capture import describing, introspection
from mlflow_ckpt._model.files import model_config, training_state
from mlflow_ckpt._model.keras_private import messages_of_keras
from mlflow_ckpt._model.rebuild import casting, compiling, differing_layers, model_loader
from mlflow_ckpt._model.rebuild.guarded import load_weights
from mlflow_ckpt._model.rebuild.model_loader import weights_path
from mlflow_ckpt._model.rebuild.proof import check_fingerprint
from mlflow_ckpt._model.rebuild.put_back import PutBack
from mlflow_ckpt.errors import ModelLoadError, WeightsMismatchError

Tensors = Mapping[str, TensorFingerprint]


@dataclass(frozen=True)
class LoadReport:
    """The result of `load_weights`, tensor by tensor.

    Attributes:
        loaded: Names of the model's tensors that now hold the checkpoint's values, converted if the
            dtypes differ.
        skipped: Names of tensors of both that were not loaded, because their shape, or that of
            another tensor of the same layer, differs.
        missing: Names of the model's tensors that are not in the checkpoint.
        unused: Names of the checkpoint's tensors that are not in the model.
        converted: Phrases that describe which of the loaded tensors were converted to other dtypes.
    """

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    converted: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether all tensors of the checkpoint were loaded, and all of the model were filled."""
        return not (self.skipped or self.missing or self.unused)

    def __str__(self) -> str:
        """Return a one-line summary."""
        loaded = f"{len(self.loaded)} tensors loaded"
        parts = [f"{loaded} ({', '.join(self.converted)})" if self.converted else loaded]
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

    Tensors are matched by name, which is their position in the model, and converted to the model's
    dtypes, as in `Model.load_weights`.

    Args:
        model: A built model.
        directory: The checkpoint's files.
        manifest: The checkpoint's manifest.
        skip_mismatch: Whether to load the tensors that fit. If False, the model is not changed
            unless all tensors fit.
        custom_objects: Classes and functions by name; needed if the checkpoint has legacy HDF5
            only.

    Raises:
        WeightsMismatchError: If a tensor does not fit and `skip_mismatch` is False.
    """
    fingerprint = read_fingerprint(directory)
    saved = {t.name: t for t in fingerprint.of_role(WEIGHTS_ROLE)}
    own = {t.name: t for t in introspection.fingerprint_tensors(model).of_role(WEIGHTS_ROLE)}
    problems = list(_problems(own, saved))
    if problems and not skip_mismatch:
        raise _mismatch(manifest, problems, " Pass skip_mismatch=True to load what fits.")
    with (
        weights_path(directory, manifest, custom_objects) as path,
        # The optimizer is deliberately not loaded; the report covers everything else.
        messages_of_keras.ignoring_skipped_weights(),
    ):
        if not problems:
            load_weights(model, path)
            PutBack().weights(model, training_state.read(directory))
            expected = casting.expected(fingerprint, own, path)
            check_fingerprint(
                model, directory, roles=(WEIGHTS_ROLE,), source=path, expected=expected
            )
            converted = casting.described(casting.cast_names(own, saved), own, saved)
            return LoadReport(tuple(own), (), (), (), tuple(converted))
        load_weights(model, path, skip_mismatch=True)
        return _load_report(model, path, own, saved)


def fill_all(
    model: keras.Model,
    directory: Path,
    manifest: Manifest,
    custom_objects: Mapping[str, Any] | None = None,
) -> list[str]:
    """Copy the state in the full form into a model that the user built and compiled.

    Returns:
        Phrases that describe what could not be put back, or differs.

    Raises:
        FormNotFoundError: If the checkpoint has no full form.
        WeightsMismatchError: If a tensor does not fit; the model is unchanged.
        ModelLoadError: If its seed generators differ from the saved ones; it is unchanged.
    """
    roles = (WEIGHTS_ROLE, OPTIMIZER_ROLE)
    unbuilt = _build_optimizers(model, training_state.read(directory).optimizers)
    saved = read_fingerprint(directory)
    rebuilt = introspection.fingerprint_tensors(model)
    fresh = manifest.step == 0 and not saved.of_role(OPTIMIZER_ROLE)
    compared = (WEIGHTS_ROLE,) if fresh else roles
    own = {t.name: t for t in rebuilt.tensors if t.role in compared}
    expected = {t.name: t for t in saved.tensors if t.role in compared}
    source = model_loader.tensors_file(directory, manifest)
    if problems := list(_problems(own, expected, castable=source is not None)):
        raise _mismatch(manifest, problems, "")
    if unbuilt is not None:
        raise unbuilt
    seeds = model_loader.saved_seeds(model, directory)
    if manifest.full_format == "keras":
        load_weights(model, directory / layout.FULL_KERAS)
    else:
        loaded = model_loader.load_full(directory, manifest, custom_objects)
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary:
            path = Path(temporary) / layout.WEIGHTS
            loaded.save_weights(path)
            load_weights(model, path)
    for variable, value in seeds:
        variable.assign(value)
    put_back = PutBack()
    put_back.into_own(model, training_state.read(directory))
    check_fingerprint(
        model,
        directory,
        roles=compared,
        fresh_optimizer=manifest.step == 0,
        source=source,
        expected=saved if source is None else casting.expected(saved, own, source),
    )
    cast = casting.cast_names(own, expected)
    converted = [f"of the tensors, {c}" for c in casting.described(cast, own, expected)]
    return [*put_back.lost, *converted, *_differing_layers(model, directory, put_back.lost)]


def _differing_layers(model: keras.Model, directory: Path, known: Iterable[str]) -> Iterator[str]:
    """Describe how the layers' configurations differ, unless that is known."""
    saved = model_config.from_json(regular_file.read(directory / layout.ARCHITECTURE_JSON))
    named = tuple(phrase.partition("` ")[0] for phrase in known)
    for what, how in differing_layers.differences(saved, describing.describe(model)):
        if what.rstrip("`") not in named:
            yield f"{what} {how}"


def _build_optimizers(
    model: keras.Model, record: Mapping[str, Any] | None
) -> ModelLoadError | None:
    """Build a model's optimizers as the saved ones were; return why that is impossible."""
    if record is None:
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)
        return None
    try:
        compiling.build_optimizers(model, record, replace=False)
        compiling.require_optimizers(model, record)
    except ModelLoadError as error:
        return error
    return None


def _mismatch(
    manifest: Manifest, problems: list[tuple[str, str]], advice: str
) -> WeightsMismatchError:
    shown = listed([text for _, text in problems], separator="; ")
    return WeightsMismatchError(
        f"The weights of {manifest.name} do not fit the given model: {shown}. "
        f"Nothing was loaded.{advice}",
        tensors=[name for name, _ in problems],
    )


def _problems(own: Tensors, saved: Tensors, *, castable: bool = True) -> Iterator[tuple[str, str]]:
    """Yield the names of the tensors that do not fit, and descriptions of the problem.

    Args:
        own: The model's tensors.
        saved: The checkpoint's tensors.
        castable: Whether tensors of another dtype can be converted.
    """
    for name, tensor in own.items():
        if name not in saved:
            yield name, f"the checkpoint lacks {name}"
        elif (tensor.shape, tensor.dtype) != (saved[name].shape, saved[name].dtype) and not (
            castable and casting.is_castable(tensor, saved[name])
        ):
            model_type, saved_type = _type_text(tensor), _type_text(saved[name])
            yield name, f"{name} is {model_type} in the model and {saved_type} in it"
    for name in saved:
        if name not in own:
            yield name, f"the model has no {name}"


def _load_report(model: keras.Model, path: Path, own: Tensors, saved: Tensors) -> LoadReport:
    """Determine by digest which tensors were loaded."""
    filled = introspection.fingerprint_tensors(model)
    cast = casting.cast_names(own, saved)
    expected = {name: tensor.digest for name, tensor in saved.items()}
    expected |= casting.converted_digests(path, [own[name] for name in cast])
    loaded = tuple(name for name in own if expected.get(name) == filled[name].digest)
    return LoadReport(
        loaded=loaded,
        skipped=tuple(name for name in own if name in saved and name not in loaded),
        missing=tuple(name for name in own if name not in saved),
        unused=tuple(name for name in saved if name not in own),
        converted=tuple(casting.described([n for n in cast if n in loaded], own, saved)),
    )


def _type_text(tensor: TensorFingerprint) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
