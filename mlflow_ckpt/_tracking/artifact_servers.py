"""Artifacts behind another server than the tracking server, which must not get its credentials."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from mlflow_ckpt._tracking import mlflow_private
from mlflow_ckpt.errors import TrackingError

ENVIRONMENT_VARIABLE = "MLFLOW_CKPT_ARTIFACT_HOSTS"
# The schemes for which MLflow sends the credentials of the tracking server.
_SCHEMES = ("http", "https", "mlflow-artifacts")
_PORTS = {"http": 80, "https": 443}


def require_own(artifact_uri: str, tracking_uri: str) -> None:
    """Check that MLflow would send credentials to no other server than the tracking server.

    Whoever may create an experiment chooses where its artifacts are.

    Raises:
        TrackingError: If artifacts are at another server, credentials are set, and
            `MLFLOW_CKPT_ARTIFACT_HOSTS` does not name that server.
    """
    scheme = urlsplit(artifact_uri).scheme.lower()
    if scheme not in _SCHEMES or not mlflow_private.sends_credentials():
        return
    of_server = urlsplit(tracking_uri).scheme.lower()
    host = _host(artifact_uri, of_server if scheme == "mlflow-artifacts" else scheme)
    trusted = os.environ.get(ENVIRONMENT_VARIABLE, "").lower().split(",")
    # Not from https to http.
    own = {_host(tracking_uri, of_server), _host(tracking_uri, "https")}
    if host is None or host in own or host in map(str.strip, trusted):
        return
    raise TrackingError(
        f"Artifacts of this run are at {host}, which is not the tracking server "
        f"{tracking_uri}, and MLflow would send it the credentials of that. If you trust it, set "
        f"{ENVIRONMENT_VARIABLE}={host}."
    )


def _host(uri: str, scheme: str) -> str | None:
    """Return the host and port of a URI; None without a host."""
    parsed = urlsplit(uri)
    try:
        port = parsed.port or _PORTS.get(scheme.lower())
    except ValueError:
        return parsed.netloc.lower()  # no server has such a port
    return None if parsed.hostname is None else f"{parsed.hostname}:{port}"
