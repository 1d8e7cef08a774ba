"""One MLflow run seen as a place that holds files, metrics and tags."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
import requests
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient
from tenacity import (
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
)

from mlflow_ckpt._tracking import mlflow_private
from mlflow_ckpt._tracking.environment import environment
from mlflow_ckpt.errors import (
    MlflowCkptError,
    RequestRefusedError,
    RunNotFoundError,
    TrackingError,
    TrackingUnavailableError,
)

if TYPE_CHECKING:
    from mlflow.entities import FileInfo, LoggedModel, Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

T = TypeVar("T")
_MISSING = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
# Looks at a directory that changes meanwhile, before its listing counts as failed.
_LOOKS = 5
# What the server says no to, and will again.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST", _MISSING)
_PROBE_SECONDS = 5
# Of one request: https://mlflow.org/docs/latest/rest-api.html
_MOST_METRICS = 1000
# Of a run's page, which MLflow prints where a run ends.
_SILENT = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
# What a proxy says whose server is away.
_NOT_NOW = (500, 502, 503, 504)


@dataclass(frozen=True)
class StoredFile:
    """A file or directory among a run's artifacts.

    Attributes:
        path: Run-relative POSIX path.
        is_dir: Whether it is a directory.
        size: Bytes; None for a directory, or where the store does not tell.
    """

    path: str
    is_dir: bool
    size: int | None


class RunStore:
    """One run of a tracking server, and its artifacts.

    Every method raises `RunNotFoundError`, `TrackingUnavailableError` or `TrackingError` where the
    server does.

    Attributes:
        run_id: The run.
        tracking_uri: Where the server is.
        others_log: Whether MLflow's own callback logs the metrics, which come when they come.
    """

    def __init__(self, run_id: str, tracking_uri: str | None = None) -> None:
        self.run_id = run_id
        self.others_log = False
        _refuse_missing_database(tracking_uri or mlflow.get_tracking_uri())
        with self._translated("open the tracking store"):
            self._client = MlflowClient(tracking_uri=tracking_uri)
        # What is kept for later must not depend on the directory that this process works in.
        self.tracking_uri = _absolute(self._client.tracking_uri)

    @cached_property
    def run(self) -> Run:
        """The run as the server describes it, fetched once."""
        with self._translated("find the run"):
            try:
                return self._client.get_run(self.run_id)
            except MlflowException as error:
                if error.error_code != _MISSING and not mlflow_private.is_malformed_run_id(error):
                    raise
                raise RunNotFoundError(
                    f"There is no run {self.run_id!r} at {self.tracking_uri}. Expected a run id as "
                    "the MLflow UI shows it. Is it the right server (--tracking-uri, "
                    "MLFLOW_TRACKING_URI)?",
                    run_id=self.run_id,
                ) from error

    def current_run(self) -> Run:
        """Return the run as it is now, fetched anew."""
        with self._translated("find the run"):
            return self._client.get_run(self.run_id)

    @property
    def artifact_uri(self) -> str:
        """Where the files are."""
        return self.run.info.artifact_uri or ""

    @cached_property
    def _artifacts(self) -> ArtifactRepository:
        uri = self.artifact_uri
        with self._translated("open the artifact store"):
            return get_artifact_repository(uri, tracking_uri=self.tracking_uri)

    def list(self, path: str = "") -> list[StoredFile]:
        """List the artifacts directly below `path` (empty if there is no such directory)."""
        with self._translated("list the run's artifacts"):
            found = self._looked_up(path)
        return [StoredFile(item.path, bool(item.is_dir), item.file_size) for item in found]

    def _looked_up(self, path: str) -> Sequence[FileInfo]:
        # What is deleted while MLflow lists a local directory fails the listing: look again.
        looking = Retrying(
            retry=retry_if_exception(_is_passing), stop=stop_after_attempt(_LOOKS), reraise=True
        )
        return looking(self._artifacts.list_artifacts, path or None)

    def walk(self, path: str) -> Iterator[StoredFile]:
        """List the files below `path`, at any depth."""
        for item in self.list(path):
            if item.is_dir:
                yield from self.walk(item.path)
            else:
                yield item

    def download(self, path: str, target: Path) -> None:
        """Download one file to the local path `target`."""
        with self._translated(f"download {path}"):
            mlflow_private.download_file(self._artifacts, path, target)

    def read(self, path: str) -> bytes | None:
        """Return the bytes of a small file, or None if the run has no such artifact."""
        local = self.local_path(path)
        if local is not None:
            # MLflow would copy the file first, which takes ten times as long as to read it.
            with self._translated(f"read {path}"), suppress(FileNotFoundError, NotADirectoryError):
                return local.read_bytes()
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as directory:
            target = Path(directory) / "file"
            # Another process may be about to put the file there: look again.
            looking = Retrying(
                retry=retry_if_exception_type(TrackingError)
                & retry_if_not_exception_type(TrackingUnavailableError),
                stop=stop_after_attempt(_LOOKS),
                reraise=True,
            )
            return target.read_bytes() if looking(self._download_if_there, path, target) else None

    def _download_if_there(self, path: str, target: Path) -> bool:
        """Download a file; return False if the run has no such artifact."""
        try:
            self.download(path, target)
        except TrackingUnavailableError:
            raise
        except TrackingError:
            # Stores tell of a missing file in many ways; the listing is reliable.
            if any(item.path == path for item in self.list(path.rpartition("/")[0])):
                raise
            return False
        return True

    def local_path(self, path: str) -> Path | None:
        """Return where an artifact lies on this machine's disk, or None if it lies elsewhere."""
        given = self.artifact_uri
        uri = urlsplit(given)
        if uri.scheme == "file" and uri.netloc in ("", "localhost"):
            return Path(url2pathname(uri.path)) / path
        return Path(given) / path if given and not uri.scheme else None

    def known_local_path(self, path: str) -> Path | None:
        """Return the same without asking the server: None too if it has not told of the run yet."""
        return self.local_path(path) if "run" in self.__dict__ else None

    def answers(self) -> bool:
        """Whether the tracking server can be reached, told quickly; True where there is none.

        MLflow's own calls try for four minutes before they say that a server does not answer.
        """
        if urlsplit(self.tracking_uri).scheme not in ("http", "https"):
            return True
        try:
            answer = requests.get(f"{self.tracking_uri.rstrip('/')}/health", timeout=_PROBE_SECONDS)
        except requests.exceptions.SSLError:
            return True  # it is there; whether its certificate is trusted is MLflow's affair
        except (requests.ConnectionError, requests.Timeout):
            return False
        except requests.RequestException:
            return True  # something is there, and MLflow will say what
        return answer.status_code not in _NOT_NOW

    def require_answer(self) -> None:
        """Raise TrackingUnavailableError at once if the server cannot be reached."""
        if not self.answers():
            raise TrackingUnavailableError(
                f"The tracking server at {self.tracking_uri} does not answer."
            )

    def upload(self, file: Path, directory: str) -> None:
        """Upload one file into the artifact directory `directory`."""
        with self._translated(f"upload {file.name}"):
            self._artifacts.log_artifact(str(file), directory)  # type: ignore[no-untyped-call]

    def write_text(self, path: str, text: str) -> None:
        """Write a small text file among the run's artifacts, at the run-relative `path`."""
        directory, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary:
            file = Path(temporary) / name
            file.write_text(text, encoding="utf-8")
            self.upload(file, directory)

    def logged_models(self, condition: str = "") -> Iterator[LoggedModel]:
        """Search the run's LoggedModels.

        Args:
            condition: Further condition, in MLflow's filter syntax.
        """
        conditions = [f"source_run_id = '{self.run_id}'", *([condition] if condition else [])]

        def page(token: str | None) -> PagedList[LoggedModel]:
            with self._translated("search the Models table"):
                return self._client.search_logged_models(
                    [self.run.info.experiment_id],
                    filter_string=" AND ".join(conditions),
                    page_token=token,
                )

        return paged(page)

    def delete(self, path: str) -> None:
        """Delete one file; a store that cannot may do nothing, so list again."""
        with self._translated(f"delete {path}"):
            self._artifacts.delete_artifacts(path)  # type: ignore[no-untyped-call]

    def log_metrics(self, metrics: Mapping[str, float], step: int, timestamp: int) -> None:
        """Log metrics at one step, in as few requests as MLflow takes.

        Args:
            metrics: Values by name.
            step: The x axis of MLflow's charts.
            timestamp: Milliseconds since the epoch of Unix.
        """
        entities = [Metric(key, value, timestamp, step) for key, value in metrics.items()]
        with self._translated("log metrics"):
            for start in range(0, len(entities), _MOST_METRICS):
                some = entities[start : start + _MOST_METRICS]
                self._client.log_batch(self.run_id, metrics=some)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run, in one request."""
        with self._translated("set tags"):
            self._client.log_batch(
                self.run_id, tags=[RunTag(key, value) for key, value in tags.items()]
            )

    def end(self, status: str, timestamp: int) -> None:
        """End the run.

        Args:
            status: `"FINISHED"`, `"FAILED"` or `"KILLED"`.
            timestamp: When it ended, in milliseconds since the epoch of Unix.
        """
        with self._translated("end the run"), environment(_SILENT):
            self._client.set_terminated(self.run_id, status, end_time=timestamp)

    @contextmanager
    def asking(self, doing: str) -> Iterator[MlflowClient]:
        """Give MLflow's client for what this class has no method for, its errors translated.

        Args:
            doing: What it is for, to finish the sentence "MLflow could not …".
        """
        with self._translated(doing):
            yield self._client

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        where = getattr(self, "tracking_uri", None) or "the tracking URI"
        try:
            yield
        except MlflowException as error:
            text = _first_line(error)
            if status := mlflow_private.error_response(error):
                text = f"the server answers with error {status}."
            elif mlflow_private.is_unanswered(error):
                raise _unavailable(where, doing) from error
            kind = RequestRefusedError if error.error_code in _REFUSALS else TrackingError
            raise kind(f"MLflow could not {doing} at {where}: {text}") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _unavailable(where, doing) from error
        except MlflowCkptError:
            raise
        except Exception as error:
            # An artifact store is a plugin with a client library of its own: anything may come.
            raise TrackingError(
                f"MLflow could not {doing} at {where}: {type(error).__name__}: {_first_line(error)}"
            ) from error


@contextmanager
def asking(doing: str, tracking_uri: str | None = None) -> Iterator[MlflowClient]:
    """Give MLflow's client for what concerns no run, its errors translated.

    Args:
        doing: What it is for, to finish the sentence "MLflow could not …".
        tracking_uri: The tracking server; MLflow's current one if None.
    """
    with RunStore("", tracking_uri).asking(doing) as client:
        yield client


def paged(page: Callable[[str | None], PagedList[T]]) -> Iterator[T]:
    """Yield the items of all pages of a search.

    Args:
        page: Searches, given the token of the page; None for the first.
    """
    token: str | None = None
    while True:
        items = page(token)
        yield from items
        token = items.token
        if not token:
            return


def _refuse_missing_database(uri: str) -> None:
    """Raise rather than let MLflow create an empty database where the user meant another."""
    prefix = "sqlite:///"
    path = Path(uri.removeprefix(prefix).partition("?")[0])
    if uri.startswith(prefix) and path.name not in ("", ":memory:") and not path.exists():
        raise TrackingError(
            f"There is no tracking database {path}. Name the tracking server or store of the run: "
            "--tracking-uri, MLFLOW_TRACKING_URI, or mlflow.set_tracking_uri()."
        )


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, FileNotFoundError) or (
        isinstance(error, Exception) and mlflow_private.is_vanished_directory(error)
    )


def _absolute(uri: str) -> str:
    prefix = "sqlite:///"
    file, mark, query = uri.removeprefix(prefix).partition("?")
    if not uri.startswith(prefix) or file in ("", ":memory:"):
        return uri
    return f"{prefix}{Path(file).absolute()}{mark}{query}"


def _unavailable(where: str, doing: str) -> TrackingUnavailableError:
    return TrackingUnavailableError(
        f"The tracking server at {where} does not answer (tried to {doing}). "
        "Check that it runs, and the URI (--tracking-uri, MLFLOW_TRACKING_URI)."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
