"""Proves by hash that a rebuilt model is the one that was saved."""

from __future__ import annotations

from pathlib import Path

import keras

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.fingerprint import OPTIMIZER_ROLE, Fingerprint
from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt.errors import FingerprintMismatchError, ModelLoadError


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
    rebuilt = introspection.fingerprint_tensors(model)
    differing = saved.differing(rebuilt, roles)
    lost = {tensor.name for tensor in saved.of_role(OPTIMIZER_ROLE)}
    if fresh_optimizer:
        new = {tensor.name for tensor in rebuilt.of_role(OPTIMIZER_ROLE)} - lost
        differing = [name for name in differing if name not in new]
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
    return Fingerprint.from_json((directory / layout.FINGERPRINT).read_bytes())
