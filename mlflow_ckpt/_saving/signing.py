"""Signs the checkpoints of a training as they are written."""

from __future__ import annotations

from pathlib import Path

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.signing import signature
from mlflow_ckpt._format.signing.keys import SigningKey
from mlflow_ckpt._saving.outcomes import Outcomes
from mlflow_ckpt.errors import SigningError


class Signing:
    """Signs checkpoints; if that fails, they are kept without a signature.

    Args:
        key: What to sign with.
        outcomes: Receives the first error, and the first after a success.
    """

    def __init__(self, key: SigningKey, outcomes: Outcomes) -> None:
        self._key = key
        self._outcomes = outcomes
        self._failed = False

    def sign(self, directory: Path, manifest: Manifest) -> None:
        """Sign a checkpoint in its directory."""
        try:
            signature.sign(directory, manifest, self._key, directory / layout.SIGNATURE)
        except SigningError as error:
            if not self._failed:
                self._outcomes.add_error(
                    SigningError(
                        f"{manifest.name} is saved without a signature, and so are those after it "
                        f"until signing succeeds: {error} Sign them later with mlflow-ckpt sign "
                        f"{manifest.run_id} --all"
                    )
                )
            self._failed = True
        else:
            self._failed = False
