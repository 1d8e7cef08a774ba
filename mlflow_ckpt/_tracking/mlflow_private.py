"""All uses of MLflow's private names and error texts, and the fallbacks if they change.

- `ArtifactRepository._download_file` downloads one file without a progress bar. Fallback: the
  public `download_artifacts`.
- `HttpArtifactRepository._host_creds` and `_download_file`, `MlflowArtifactsRepository.
  _download_file` and `_is_multipart_download_enabled`, `http_request` and
  `augmented_raise_for_status` download a file from a server that may send more than it should.
  Fallback: `_download_file`, and the size is looked at while the file grows.
- `mlflow.projects.utils`, `_fetch_project` and `load_project` give the parameters of a run's
  project to `mlflow-ckpt resume`. Fallback: that command fails with a clear error.
- `mlflow.utils.git_utils.get_git_commit` detects changes of a project's code. Fallback: changes are
  not reported.
- `mlflow.tracking.fluent._active_run_stack` has the active runs of other threads. Fallback: that a
  training in another thread starts a run of its own is not told.
- `RunData._metric_objs` has the latest step of a metric. Fallback: a request for its history.
- `RunsArtifactRepository.get_underlying_uri` gives the location of a run's artifacts. Fallback:
  model versions have the `runs:/` URI as their source.
- `mlflow.utils.credentials.get_default_host_creds` tells whether there are credentials for the
  tracking server. Fallback: there are.
- Texts of `MlflowException` identify a server that is down or older, and a directory that vanished.
  Fallback: the error is raised unchanged, and retried like any other.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow

from mlflow_ckpt._shown.warn import mention_untested
from mlflow_ckpt.errors import TrackingError

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

TESTED_WITH = ("3.17", "3.18")

_CHUNK = 1 << 20
# Bytes of a file that takes less time in parts.
_LARGE = 64 << 20
# Texts by which MLflow's HTTP client reports that a server does not answer,
_UNANSWERED = ("failed with exception", "Max retries exceeded", "Connection refused", "timed out")
# and that it keeps answering with an error.
_ERROR_RESPONSES = re.compile("too many (500|429) error responses")


def mention_untested_version() -> None:
    """Log, once, that the running MLflow version was not tested with this package."""
    mention_untested("MLflow", mlflow.__version__, TESTED_WITH)


def download_file(repository: ArtifactRepository, path: str, target: Path, most: int) -> None:
    """Download one file of an artifact repository to a local path.

    Of an HTTP server, at most one byte more than `most` is taken; others cannot be stopped, nor a
    download in parts, which some servers offer, and which is used for large files.
    """
    response = _http_response(repository, path, in_parts=most > _LARGE)
    if response is not None:
        with response, target.open("wb") as file:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk[: most + 1 - file.tell()])
                if file.tell() > most:
                    return
        return
    if hasattr(repository, "_download_file"):
        # The public call first checks for a directory, and draws a progress bar.
        repository._download_file(path, str(target))  # type: ignore[no-untyped-call]
        return
    with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as directory:
        downloaded = repository.download_artifacts(path, directory)  # type: ignore[no-untyped-call]
        shutil.move(downloaded, target)


def _http_response(repository: ArtifactRepository, path: str, *, in_parts: bool) -> Any:
    """Begin the download of a file from an HTTP server; None if it is another kind of store.

    Args:
        repository: The artifact repository.
        path: The file.
        in_parts: Whether to leave it to MLflow if the server offers downloads in parts.
    """
    try:
        from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
        from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
        from mlflow.utils import rest_utils
    except ImportError:
        return None
    requests: Any = rest_utils
    own = getattr(type(repository), "_download_file", None)
    known = (HttpArtifactRepository, MlflowArtifactsRepository)
    if own not in [getattr(kind, "_download_file", repository) for kind in known]:
        return None  # not HTTP, or MLflow downloads in another way now
    offers_parts = getattr(repository, "_is_multipart_download_enabled", None)
    if in_parts and offers_parts is not None and offers_parts():
        return None
    host = repository._host_creds  # type: ignore[attr-defined]
    response = requests.http_request(host, posixpath.join("/", path), "GET", stream=True)
    requests.augmented_raise_for_status(response)
    return response


def entry_point(
    uri: str, version: str | None, directory: Path | None, name: str
) -> tuple[str, dict[str, str]]:
    """Return the command of an entry point of an MLflow Project, and the types of its parameters.

    Args:
        uri: The project.
        version: Its Git commit, if any.
        directory: Its directory on this machine; None to fetch it.
        name: The entry point.

    Raises:
        TrackingError: If the project cannot be fetched or read.
    """
    try:
        from mlflow.projects import utils

        fetch: Any = utils._fetch_project
        load: Any = utils.load_project
        project = load(str(directory or fetch(uri, version)))
        found = project.get_entry_point(name)
    except Exception as error:
        # MLflow calls Git, unpacks archives and reads YAML: anything may be raised.
        raise no_project(uri, type(error).__name__) from error
    parameters = getattr(found, "parameters", {})
    types = {name: str(getattr(value, "type", "")) for name, value in parameters.items()}
    return str(getattr(found, "command", "")), types


def no_project(uri: str, reason: str) -> TrackingError:
    """Return the error for a project that cannot be started again."""
    return TrackingError(
        f"The project {uri} cannot be fetched or read ({reason}). "
        "Pass its current location: --project."
    )


def git_commit(directory: Path) -> str | None:
    """Return the Git commit of a directory; None if unknown."""
    try:
        from mlflow.utils.git_utils import get_git_commit
    except ImportError:
        return None
    commit: str | None = get_git_commit(str(directory))
    return commit


def active_in_other_threads() -> list[str]:
    """Return the ids of the runs that are active in other threads of this process."""
    try:
        from mlflow.tracking.fluent import _active_run_stack

        stacks = _active_run_stack.get_all_thread_values()
    except (AttributeError, ImportError):
        return []
    others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
    active = [stacks[ident][-1] for ident in stacks if ident in others and stacks[ident]]
    return [str(run.info.run_id) for run in active]


def latest_metrics(run: Run) -> dict[str, Metric]:
    """Return the latest points of a run's metrics by name; empty if MLflow does not keep them."""
    return {metric.key: metric for metric in getattr(run.data, "_metric_objs", ())}


def artifact_location(uri: str, tracking_uri: str) -> str:
    """Return the location of a `runs:/` URI's files, as `mlflow.register_model` records it."""
    try:
        from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

        return str(RunsArtifactRepository.get_underlying_uri(uri, tracking_uri))
    except (AttributeError, ImportError, TypeError):
        return uri


def sends_credentials() -> bool:
    """Whether MLflow has credentials for the tracking server apart from its URI."""
    try:
        from mlflow.utils.credentials import get_default_host_creds

        found = get_default_host_creds("http://localhost")  # type: ignore[no-untyped-call]
    except (AttributeError, ImportError, TypeError):
        return True
    names = ("username", "password", "token", "aws_sigv4", "auth")
    return any(getattr(found, name, None) for name in names)


def is_unanswered(error: Exception) -> bool:
    """Whether an error of MLflow reports that the server did not answer."""
    lines = str(error).strip().splitlines()
    return bool(lines) and any(text in lines[0] for text in _UNANSWERED)


def error_response(error: Exception) -> str | None:
    """Return the HTTP status that the server kept answering with, if any."""
    match = _ERROR_RESPONSES.search(str(error))
    return match and match[1]


def is_malformed_run_id(error: Exception) -> bool:
    """Whether MLflow rejected a run id for its characters."""
    return "'run_id'" in str(error)


def is_vanished_directory(error: Exception) -> bool:
    """Whether a local directory vanished while MLflow listed it."""
    return str(error).startswith("Invalid parent directory")


def is_unknown_to_server(error: BaseException | None) -> bool:
    """Whether a server or store does not support the request, such as one for LoggedModels."""
    return (
        isinstance(error, NotImplementedError)
        or getattr(error, "error_code", None) == "ENDPOINT_NOT_FOUND"
        or "error code 404" in str(error)
    )
