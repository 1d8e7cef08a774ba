"""Verifies by hash that a rebuilt model is the saved one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import keras

from mlflow_ckpt._format.fingerprint import OPTIMIZER_ROLE, Fingerprint, read_fingerprint
from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt._model.keras_private import capturing
from mlflow_ckpt._model.rebuild.by_name import put_back
from mlflow_ckpt.errors import FingerprintMismatchError, ModelLoadError


def check_fingerprint(
    model: keras.Model,
    directory: Path,
    *,
    roles: tuple[str, ...],
    fresh_optimizer: bool = False,
    source: Path | None = None,
    optional: Collection[str] = (),
    expected: Fingerprint | None = None,
) -> None:
    """Verify by hash that the model's tensors equal the saved ones.

    Tensors that Keras's loader left as they were are put back by their names first.

    Args:
        model: The rebuilt model.
        directory: The checkpoint's files.
        roles: Roles of the tensors to verify.
        fresh_optimizer: Whether the optimizer was saved before its first step. It may have had no
            variables then, and Keras creates them when it loads the model.
        source: A file that holds the tensors by their names.
        optional: Names of tensors that the model may lack.
        expected: What the model's tensors are to be, if not the saved ones as they are.

    Raises:
        FingerprintMismatchError: If a tensor differs, is missing or is new.
        ModelLoadError: If only optimizer variables are missing, because the model overrides
            `compile`.
    """
    saved = expected or read_fingerprint(directory)
    rebuilt = introspection.fingerprint_tensors(model)
    differing = saved.differing(rebuilt, roles)
    if differing and source is not None and put_back(model, source, differing):
        rebuilt = introspection.fingerprint_tensors(model)
        differing = saved.differing(rebuilt, roles)
    ours, theirs = ({tensor.name for tensor in side.tensors} for side in (saved, rebuilt))
    if fresh_optimizer:
        new = {tensor.name for tensor in rebuilt.of_role(OPTIMIZER_ROLE)} - ours
        differing = [name for name in differing if name not in new]
    differing = [name for name in differing if name in theirs or name not in optional]
    if not differing:
        return
    lost = {tensor.name for tensor in saved.of_role(OPTIMIZER_ROLE)} - theirs
    if lost.issuperset(differing):
        raise ModelLoadError(
            f"The optimizer of {type(model).__name__} cannot be rebuilt: compiled from the saved "
            f"settings, the model lacks {_listed(differing)}. If the class overrides compile(), "
            "implement get_compile_config() and compile_from_config() too, pass compile= to "
            "resume, or load with compile=False and compile the model yourself."
        )
    raise FingerprintMismatchError(
        f"The rebuilt model is not the one that was saved: {len(differing)} tensors differ "
        f"({_listed(differing)}). The files are intact. {_cause(model, differing, ours, theirs)}",
        tensors=differing,
    )


def _cause(model: keras.Model, differing: list[str], ours: set[str], theirs: set[str]) -> str:
    """Return the reason why tensors differ, as far as their names tell it."""
    missing = [name for name in differing if name not in theirs]
    new = [name for name in differing if name not in ours]
    if missing or new:
        change = f"lacks {_listed(missing)}" if missing else f"also has {_listed(new)}"
        return (
            f"The model that {type(model).__name__}'s get_config() describes {change}: part of "
            "the trained model was created or shared outside of the constructors. Restore into a "
            "model that your code builds: restore(model, …) or load_weights(model, …)."
        )
    owners = capturing.owners_of(model)
    classes = {
        type(owners[name.rpartition("/")[0]])
        for name in differing
        if name in ours and name.rpartition("/")[0] in owners
    }
    custom = sorted(c.__name__ for c in classes if c.__module__.split(".")[0] != "keras")
    if custom:
        return (
            f"{', '.join(custom)} does not load what it saves: check its save_own_variables and "
            "load_own_variables."
        )
    kinds = ", ".join(sorted(c.__name__ for c in classes)) or "these objects"
    return (
        f"Keras does not load what it saved of {kinds}. Restore into a model that your code "
        "builds: restore(model, …)."
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
