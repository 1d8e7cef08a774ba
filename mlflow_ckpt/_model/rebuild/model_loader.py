"""Rebuilds a model from a verified checkpoint's directory."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import keras

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.fingerprint import OPTIMIZER_ROLE, WEIGHTS_ROLE, read_fingerprint
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.untrusted import regular_file
from mlflow_ckpt._format.untrusted.numpy_file import load_arrays
from mlflow_ckpt._format.weights_file import has_assets, open_weights, require_safe
from mlflow_ckpt._model.capture import introspection, keras_config, layers
from mlflow_ckpt._model.files import model_config, training_state
from mlflow_ckpt._model.files.training_state import TrainingState
from mlflow_ckpt._model.keras_private import compiled_model, messages_of_keras, saving_code
from mlflow_ckpt._model.rebuild import adapted, compiling, legacy_h5
from mlflow_ckpt._model.rebuild.by_name import put_back as put_back_by_name
from mlflow_ckpt._model.rebuild.compiling import Compile
from mlflow_ckpt._model.rebuild.guarded import (
    build,
    guarded,
    known_objects,
    load_weights,
    require_model,
)
from mlflow_ckpt._model.rebuild.proof import check_fingerprint
from mlflow_ckpt._model.rebuild.put_back import PutBack
from mlflow_ckpt.errors import FormNotFoundError, ModelLoadError, UnsafeFileError

CustomObjects = Mapping[str, Any] | None


def load_full(
    directory: Path,
    manifest: Manifest,
    custom_objects: CustomObjects,
    compile: bool | Compile = True,  # noqa: A002 - Keras's word
    put_back: PutBack | None = None,
) -> keras.Model:
    """Rebuild architecture, weights, optimizer and compile settings.

    Args:
        directory: The checkpoint's files.
        manifest: The checkpoint's manifest.
        custom_objects: Classes and functions by name.
        compile: Whether to compile the model as it was compiled, and to load its optimizers; or a
            function that compiles the model instead.
        put_back: Puts back what Keras's files lack; if None, a warning names what is lost.

    Raises:
        FormNotFoundError: If the checkpoint has no full form.
        ModelLoadError: If Keras cannot rebuild the model.
        FingerprintMismatchError: If a tensor differs from the saved one.
    """
    if manifest.full_file is None:
        raise FormNotFoundError(
            f"The checkpoint {manifest.name} holds the split form only. "
            "Load it with form='split', or save with forms=('full', 'split').",
            available=manifest.forms,
        )
    if compile is False:
        model = load_split(directory, manifest, custom_objects, put_back)
        with suppress(ModelLoadError):  # compile() of a class's own may create some of them
            restore_seeds(model, directory)
        return model
    with _as_saved(directory):
        model = _load_compiled(directory, manifest, custom_objects, compile)
    _complete(model, training_state.read(directory), put_back, own=callable(compile))
    restore_seeds(model, directory)
    check_fingerprint(
        model,
        directory,
        roles=(WEIGHTS_ROLE, OPTIMIZER_ROLE),
        fresh_optimizer=manifest.step == 0,
        source=tensors_file(directory, manifest),
    )
    compiling.require_rates(model)
    return model


def tensors_file(directory: Path, manifest: Manifest) -> Path | None:
    """Return the file that holds the tensors by their names; None if there is only legacy HDF5."""
    if manifest.full_format == "keras":
        return directory / layout.FULL_KERAS
    return directory / layout.WEIGHTS if "split" in manifest.forms else None


def _as_saved(directory: Path) -> AbstractContextManager[None]:
    """Set Keras's dtype policy and float type to those of the saved training, within the context.

    Keras does not save them, but `compile` and optimizers use them: otherwise a mixed-precision
    model would lose the state of its optimizer, including the loss scale.
    """
    state = training_state.read(directory)
    policy = state.dtype_policy
    if policy is None:
        scaled = any(t.variable == "dynamic_scale" for t in read_fingerprint(directory).tensors)
        policy = "mixed_float16" if scaled else keras.config.dtype_policy().name
    guarded(lambda: keras.dtype_policies.get(policy))  # raises for one that Keras does not know
    config = state.keras_config or keras_config.current()
    return keras_config.building_with(policy, config["floatx"])


def _load_compiled(
    directory: Path,
    manifest: Manifest,
    custom_objects: CustomObjects,
    compile: bool | Compile,  # noqa: A002
) -> keras.Model:
    path = directory / str(manifest.full_file)
    state = training_state.read(directory)
    known = known_objects(_read_architecture(directory), custom_objects)
    if manifest.full_format == "h5":
        model = load_architecture(directory, custom_objects)
        load_weights(model, path)
    elif compile is True and (state.optimizers is None or not saving_code.is_known()):
        # An older version saved it, or another tool; or Keras has changed.
        return _load_archive(path, directory, custom_objects, compiled=True)
    else:
        model = _load_archive(path, directory, custom_objects, compiled=False)
    with keras.saving.custom_object_scope(known), compiled_model.unlocked(model):
        if callable(compile):
            model = compiling.compile_with(model, compile)
        else:
            compiling.compile_as_saved(model, state, custom_objects)
        layers.set_trainable(model, state.layers)
        record = state.optimizers or {}
        compiling.build_optimizers(model, record)
        if manifest.full_format == "h5":
            legacy_h5.fill(model, path, fresh=state.step == 0)
            return model
    optimizer = getattr(model, "optimizer", None)
    if not record and optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
    compiling.require_optimizers(model, record)
    saved = read_fingerprint(directory).of_role(OPTIMIZER_ROLE)
    put_back_by_name(model, path, [tensor.name for tensor in saved])
    return model


def load_split(
    directory: Path,
    manifest: Manifest,
    custom_objects: CustomObjects,
    put_back: PutBack | None = None,
) -> keras.Model:
    """Rebuild an uncompiled model from architecture and weights. Arguments as in `load_full`.

    Raises:
        ModelLoadError: If Keras cannot rebuild the model.
        FingerprintMismatchError: If a weight differs from the saved one.
    """
    state = training_state.read(directory)
    if "split" not in manifest.forms and manifest.full_format == "keras":
        # The archive also contains files of layers, such as an adapted vocabulary.
        path = directory / layout.FULL_KERAS
        model = _load_archive(path, directory, custom_objects, compiled=False)
    else:
        model = load_architecture(directory, custom_objects)
        adapted.adapt(model, state)
        with (
            weights_path(directory, manifest, custom_objects) as path,
            # A model may compile itself in its constructor, as KerasHub's tasks do.
            messages_of_keras.ignoring_skipped_optimizer(),
        ):
            load_weights(model, path)
    _complete(model, state, put_back, compiled=False)
    has_file = "split" in manifest.forms
    source = directory / layout.WEIGHTS if has_file else tensors_file(directory, manifest)
    # A class's own compile() creates metrics, which an uncompiled model lacks.
    metrics = (state.compile or {}).get("metrics", ())
    check_fingerprint(model, directory, roles=(WEIGHTS_ROLE,), source=source, optional=metrics)
    return model


def _complete(
    model: keras.Model, state: TrainingState, put_back: PutBack | None, **how: bool
) -> None:
    """Put back the state that Keras's files do not give back."""
    used = put_back or PutBack()
    used.into_rebuilt(model, state, **how)
    if put_back is None:
        used.warn()


def load_architecture(directory: Path, custom_objects: CustomObjects) -> keras.Model:
    """Build an uncompiled model with fresh weights.

    Raises:
        ModelLoadError: If Keras cannot build it.
    """
    return build(_read_architecture(directory), custom_objects)


@contextmanager
def weights_path(
    directory: Path, manifest: Manifest, custom_objects: CustomObjects
) -> Iterator[Path]:
    """Yield the path of a `.weights.h5` file, converted from the full form if necessary.

    Raises:
        ModelLoadError: If the full form is legacy HDF5 and Keras cannot build the model.
    """
    if "split" in manifest.forms:
        yield directory / layout.WEIGHTS
        return
    with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary:
        target = Path(temporary) / layout.WEIGHTS
        if manifest.full_format == "keras":
            _extract_weights(directory / layout.FULL_KERAS, target)
        else:
            # Legacy HDF5 identifies tensors by position only; the model has their names.
            model = load_architecture(directory, custom_objects)
            load_weights(model, directory / layout.FULL_H5)
            model.save_weights(target)
        yield target


def _load_archive(
    path: Path, directory: Path, custom_objects: CustomObjects, *, compiled: bool
) -> keras.Model:
    architecture = _read_architecture(directory)
    known = known_objects(architecture, custom_objects)
    guarded(lambda: require_safe(path))
    with messages_of_keras.ignoring_skipped_optimizer():
        model = adapted.load(
            training_state.read(directory),
            lambda: load_architecture(directory, custom_objects),
            path,
            known if compiled else None,
        )
        if model is not None:
            return model
        if not compiled and model_config.shared_layers(architecture) and not has_assets(path):
            # Keras's description in the archive does not tell all places of a shared layer.
            model = load_architecture(directory, custom_objects)
            load_weights(model, path)
            return model
        return require_model(
            guarded(lambda: keras.saving.load_model(path, custom_objects=known, compile=compiled))
        )


def _read_architecture(directory: Path) -> dict[str, Any]:
    return model_config.from_json(regular_file.read(directory / layout.ARCHITECTURE_JSON))


def _extract_weights(archive: Path, target: Path) -> None:
    with open_weights(archive) as source, h5py.File(target, "w") as file:
        for name in source:
            if name != OPTIMIZER_ROLE:
                source.copy(name, file)


def restore_seeds(model: keras.Model, directory: Path) -> None:
    """Set the states of a model's seed generators. Errors as in `saved_seeds`."""
    for variable, value in saved_seeds(model, directory):
        variable.assign(value)


def saved_seeds(model: keras.Model, directory: Path) -> list[tuple[keras.Variable, Any]]:
    """Return a model's seed generators and their saved states, which Keras's files lack.

    Raises:
        ModelLoadError: If the model's seed generators differ from the saved ones, or the file
            cannot be read.
    """
    path = directory / layout.TRAINING_ARRAYS
    if not path.is_file():
        return []
    variables = introspection.seed_variables(model)
    try:
        saved = load_arrays(path, prefix=introspection.SEEDS)
    except UnsafeFileError:
        raise
    except (ValueError, zipfile.BadZipFile) as error:
        raise ModelLoadError(f"{path.name} cannot be read: {error}.") from error
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    if shapes != {name: array.shape for name, array in saved.items()}:
        raise ModelLoadError(
            f"The model's seed generators differ from the saved ones: expected {len(saved)}. "
            f"Received: {len(variables)}. A custom layer creates them outside of __init__ and "
            "build; load with form='split' if only inference matters."
        )
    return [(variable, saved[name]) for name, variable in variables.items()]
