"""Verifies by hash that a rebuilt model is the saved one."""

from __future__ import annotations

from pathlib import Path

import keras

from mlflow_ckpt._format.fingerprint import OPTIMIZER_ROLE, read_fingerprint
from mlflow_ckpt._model.capture import introspection
from mlflow_ckpt.errors import FingerprintMismatchError, ModelLoadError


def check_fingerprint(
    model: keras.Model, directory: Path, *, roles: tuple[str, ...], fresh_optimizer: bool = False
) -> None:
    """Verify by hash that the model's tensors equal the saved ones.

    Args:
        model: The rebuilt model.
        directory: The checkpoint's files.
        roles: Roles of the tensors to verify.
        fresh_optimizer: Whether the optimizer was saved before its first step. It may have had no
            variables then, and Keras creates them when it loads the model.

    Raises:
        FingerprintMismatchError: If a tensor differs, is missing or is new.
        ModelLoadError: If only optimizer variables are missing, because the model overrides
            `compile`.
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
            f"The compile settings of {type(model).__name__} cannot be rebuilt: the class "
            "overrides compile(). Implement get_compile_config() and compile_from_config() too, or "
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
