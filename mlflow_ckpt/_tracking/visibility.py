"""Whether MLflow lists what was written into a run.

A location that is read in another way than it is written, or a store that answers a write and
keeps nothing, would lose every checkpoint without an error.
"""

from __future__ import annotations

from mlflow_ckpt._format import layout
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import TrackingError


def require_listed(store: RunStore, name: str) -> None:
    """Check that MLflow lists an uploaded checkpoint, once for each store.

    Raises:
        TrackingError: If it does not.
    """
    if store.is_listed:
        return
    directory = layout.artifact_path(name)
    # Through MLflow's public client, which every other reader uses.
    with store.client_to("list the run's artifacts") as client:
        files = client.list_artifacts(store.run_id, directory)
    if all(file.path != f"{directory}/{layout.MANIFEST}" for file in files):
        raise unlisted_error(store, directory)
    store.is_listed = True


def unlisted_error(store: RunStore, path: str) -> TrackingError:
    """Return the error for an artifact that was written, and that MLflow does not list."""
    return TrackingError(
        f"{path} was written to the run's artifacts at {store.artifact_uri}, but MLflow does not "
        f"list it among the artifacts of run {store.run_id}. Check the artifact location of its "
        "experiment, and the server's --artifacts-destination."
    )
