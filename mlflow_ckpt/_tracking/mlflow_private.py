"""The one file that depends on what MLflow does not promise: private names, and texts of errors.

What each is used for, and what happens when it is gone:

- `ArtifactRepository._download_file`: one file, without a progress bar. Then the public
  `download_artifacts` is used.
- `mlflow.projects.utils`, `_fetch_project` and `load_project`: the parameters that the project of a
  run takes, for `mlflow-ckpt resume`. Then that command ends with one clear error.
- `mlflow.utils.git_utils.get_git_commit`: tells that a project's code changed. Then it is not told.
- `RunData._metric_objs`: a metric's latest step without a request. Then its history is requested.
- `RunsArtifactRepository.get_underlying_uri`: where a run's artifacts lie. Then model versions have
  the `runs:/` URI as their source.
- Texts of `MlflowException`: a server that is away, or older; a directory that vanished. Then the
  error is raised as it is, and retried like any other.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow

from mlflow_ckpt._warn import mention_untested
from mlflow_ckpt.errors import TrackingError

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

TESTED_WITH = ("3.17", "3.18")

# How MLflow's HTTP client words that a server does not answer,
_UNANSWERED = ("failed with exception", "Max retries exceeded", "Connection refused", "timed out")
# and that it answers with an error again and again.
_ERROR_RESPONSES = re.compile("too many (500|429) error responses")


def mention_untested_version() -> None:
    """Log, once, that the running MLflow is not one that this file was tested with."""
    mention_untested("MLflow", mlflow.__version__, TESTED_WITH)


def download_file(repository: ArtifactRepository, path: str, target: Path) -> None:
    """Download one file of an artifact repository to a local path."""
    if hasattr(repository, "_download_file"):
        # The public call asks whether the path is a directory first, and draws a progress bar.
        repository._download_file(path, str(target))  # type: ignore[no-untyped-call]
        return
    with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as directory:
        downloaded = repository.download_artifacts(path, directory)  # type: ignore[no-untyped-call]
        shutil.move(downloaded, target)


def entry_point_parameters(
    uri: str, version: str | None, directory: Path | None, name: str
) -> set[str]:
    """Return the parameters that an entry point of an MLflow Project declares.

    Args:
        uri: The project.
        version: Its Git commit; None for none.
        directory: Where it lies on this machine; None if it has to be fetched.
        name: The entry point.

    Raises:
        TrackingError: If the project cannot be fetched or read.
    """
    try:
        from mlflow.projects import utils

        fetch: Any = utils._fetch_project
        load: Any = utils.load_project
        project = load(str(directory or fetch(uri, version)))
        entry_point = project.get_entry_point(name)
    except Exception as error:
        # MLflow calls Git, unpacks archives and reads YAML: anything may be raised.
        raise TrackingError(
            f"The project {uri} cannot be had ({type(error).__name__}). Name where it is "
            "now: --project."
        ) from error
    return set(getattr(entry_point, "parameters", {}))


def git_commit(directory: Path) -> str | None:
    """Return the commit that a directory is at; None if that is unknown."""
    try:
        from mlflow.utils.git_utils import get_git_commit
    except ImportError:
        return None
    commit: str | None = get_git_commit(str(directory))
    return commit


def latest_metrics(run: Run) -> dict[str, Metric]:
    """Return the latest point of each of a run's metrics; empty where MLflow does not give them."""
    return {metric.key: metric for metric in getattr(run.data, "_metric_objs", ())}


def artifact_location(uri: str, tracking_uri: str) -> str:
    """Return where the files of a `runs:/` URI lie, as `mlflow.register_model` records it."""
    try:
        from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

        return str(RunsArtifactRepository.get_underlying_uri(uri, tracking_uri))
    except (AttributeError, ImportError, TypeError):
        return uri


def is_unanswered(error: Exception) -> bool:
    """Whether MLflow's error says that the server did not answer."""
    lines = str(error).strip().splitlines()
    return bool(lines) and any(sign in lines[0] for sign in _UNANSWERED)


def error_response(error: Exception) -> str | None:
    """Return the HTTP status that the server kept answering with; None if it was none."""
    match = _ERROR_RESPONSES.search(str(error))
    return match and match[1]


def is_malformed_run_id(error: Exception) -> bool:
    """Whether MLflow refused a run id for characters that no run id has."""
    return "'run_id'" in str(error)


def is_vanished_directory(error: Exception) -> bool:
    """Whether a local directory vanished while MLflow listed it."""
    return str(error).startswith("Invalid parent directory")


def is_unknown_to_server(error: BaseException | None) -> bool:
    """Whether a server or store is older than the request, such as one for LoggedModels."""
    return (
        isinstance(error, NotImplementedError)
        or getattr(error, "error_code", None) == "ENDPOINT_NOT_FOUND"
        or "error code 404" in str(error)
    )
