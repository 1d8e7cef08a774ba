"""The public function that registers a checkpoint. How stands in `tracking/registering.py`."""

from __future__ import annotations

from mlflow_ckpt.tracking import registering
from mlflow_ckpt.tracking.catalog import Catalog
from mlflow_ckpt.tracking.references import resolve
from mlflow_ckpt.tracking.registering import Registered
from mlflow_ckpt.tracking.store import RunStore


def register(
    run_id: str,
    checkpoint: str | int = "latest",
    *,
    name: str,
    alias: str | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    tracking_uri: str | None = None,
) -> Registered:
    """Make a checkpoint a version of a registered model.

    The version points at the run's artifact, and has tags for epoch, step, metrics and the digest
    of the weights. A checkpoint that is a version of that model already is not registered again.

    Args:
        run_id: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…`.
        checkpoint: `"latest"` (the default), `"best"`, `3` or `"epoch:3"`, `"step:1500"`.
        name: The registered model, which is made if there is none.
        alias: An alias that is to point at the version, wherever it pointed before.
        monitor: For `"best"`, the metric to judge by; the recorded one if None.
        mode: For `"best"`, `"min"` or `"max"`.
        tracking_uri: The tracking server and its registry; MLflow's current one if None.

    Raises:
        InvalidArgumentError: If MLflow would refuse the name or the alias.
        FormNotFoundError: If the checkpoint is no MLflow model (split form alone).
        VerificationError: If files of it are missing, or of another size.
        RunNotFoundError, CheckpointNotFoundError, TrackingError: As in `get_checkpoint`.
    """
    registering.check_names(name, alias)
    reference = resolve(run_id, checkpoint, tracking_uri)
    store = RunStore(reference.run_id, tracking_uri)
    found = Catalog(store).find(reference.selector, monitor=monitor, mode=mode)
    return registering.register(store, found, name, alias)
