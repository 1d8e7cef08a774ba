"""Whether MLflow lists what was written into a run.

A location that is read in another way than it is written, or a store that answers a write and
keeps nothing, would lose every checkpoint without an error.
"""

from __future__ import annotations

from mlflow_ckpt._format import layout
from mlflow_ckpt._tracking import mlflow_private
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
    if f"{directory}/{layout.MANIFEST}" not in _listed(store, directory):
        raise unlisted_error(store, directory)
    store.is_listed = True


def _listed(store: RunStore, directory: str) -> list[str]:
    """List a directory through MLflow's public client, which every other reader uses."""
    try:
        with store.client_to("list the run's artifacts") as client:
            return [str(file.path) for file in client.list_artifacts(store.run_id, directory)]
    except TrackingError as error:
        # The client looks for LoggedModels too, which an older server does not have.
        if not mlflow_private.is_unknown_to_server(error.__cause__):
            raise
    return [file.path for file in store.list(directory)]


def unlisted_error(store: RunStore, path: str) -> TrackingError:
    """Return the error for an artifact that was written, and that MLflow does not list."""
    return TrackingError(
        f"{path} was written to the run's artifacts at {store.artifact_uri}, but MLflow does not "
        f"list it among the artifacts of run {store.run_id}. Check the artifact location of its "
        "experiment, and the server's --artifacts-destination."
    )
