"""Signs a run's checkpoint that is already on the server."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.signing import signature
from mlflow_ckpt._format.signing.keys import KEY_VARIABLE, Location, SigningKey, signing_key
from mlflow_ckpt._format.signing.trust import Trust
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.checkpoint import Checkpoint
from mlflow_ckpt._tracking.download import Progress
from mlflow_ckpt._tracking.references import resolve
from mlflow_ckpt._tracking.removed import again_if_removed
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import InvalidArgumentError


@again_if_removed
def sign(
    run_id: str,
    checkpoint: str | int = "latest",
    *,
    key: SigningKey | Location | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Sign a checkpoint: verify its files, and add their signature to it.

    The signature, `model.sig`, is over the files of the manifest and the manifest, in the format
    of `model-signing`, whose own command verifies it too (docs/signing.md). It replaces an earlier
    one.

    Args:
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…` (docs/cli.md).
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        key: The path of a private key, `"sigstore"`, or a `SigningKey`; if None, the key that
            `MLFLOW_CKPT_SIGNING_KEY` names.
        monitor: For `"best"`, the metric to rank by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        tracking_uri: The tracking server; MLflow's current one if None.
        progress: Called with bytes done and total bytes if files are downloaded.

    Returns:
        The checkpoint.

    Raises:
        InvalidArgumentError: If there is no key.
        SigningError: If the key cannot be used, or Sigstore does not answer.
        VerificationError: If a file is missing, extra or altered.
        NotFoundError, SelectorError, TrackingError: As in `get_checkpoint`.
    """
    chosen = require_key(key)
    reference = resolve(run_id, checkpoint, tracking_uri)
    catalog = Catalog(RunStore(reference.run_id, tracking_uri), UNSIGNED)
    found = catalog.find(reference.selector, monitor=monitor, mode=mode)
    sign_found(catalog, found, chosen, progress)
    return found


# What is to be signed need not be signed yet, whatever this machine's policies say.
UNSIGNED = Trust()


def require_key(key: SigningKey | Location | None) -> SigningKey:
    """Return what to sign with.

    Raises:
        InvalidArgumentError: If there is none, or it is nothing that can sign.
    """
    chosen = signing_key(key)
    if chosen is None:
        raise InvalidArgumentError(
            "There is no key to sign with. Expected the path of a private key, or 'sigstore'. Pass "
            f"one, or set {KEY_VARIABLE}."
        )
    return chosen


def sign_found(
    catalog: Catalog, checkpoint: Checkpoint, key: SigningKey, progress: Progress | None = None
) -> None:
    """Sign a checkpoint. Errors as in `sign`."""
    with (
        catalog.fetch(checkpoint, progress) as directory,
        tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary,
    ):
        target = Path(temporary, layout.SIGNATURE)
        signature.sign(directory, checkpoint.manifest, key, target)
        catalog.store.upload(target, checkpoint.artifact_path)
