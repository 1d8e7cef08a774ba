"""Access to one MLflow run: its artifacts, metrics and tags."""

from __future__ import annotations

import posixpath
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import mlflow
import requests
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient
from tenacity import (
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
)

from mlflow_ckpt._format.text import first_line
from mlflow_ckpt._format.untrusted import regular_file
from mlflow_ckpt._shown.escaping import redacted
from mlflow_ckpt._tracking import artifact_servers, local_files, mlflow_private
from mlflow_ckpt._tracking.environment import environment
from mlflow_ckpt.errors import (
    MlflowCkptError,
    RequestRefusedError,
    RunNotFoundError,
    TrackingError,
    TrackingUnavailableError,
    UnsafeFileError,
)

if TYPE_CHECKING:
    from mlflow.entities import FileInfo, LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

T = TypeVar("T")
# Values of `MlflowException.error_code`.
EXISTS = "RESOURCE_ALREADY_EXISTS"
INVALID = "INVALID_PARAMETER_VALUE"
MISSING = "RESOURCE_DOES_NOT_EXIST"
_SCHEME = re.compile("([a-zA-Z][a-zA-Z0-9+.-]*):")
# Attempts to list a directory, or read a file, that another process is changing.
_TRIES = 5
# Error codes of requests that the server would reject again.
_REJECTED = (INVALID, "INVALID_STATE", "BAD_REQUEST", MISSING)
_PROBE_SECONDS = 5
# Limit per request: https://mlflow.org/docs/latest/rest-api.html
_METRICS_PER_REQUEST = 1000
# Characters of another's error in a message.
_LONGEST_REASON = 300
# Entries of a directory, and of all directories below another one.
MOST_LISTED = 50_000
_MOST_DEPTH = 32
_MOST_PAGES = 2_000
# Bytes of a file whose size nothing tells.
_MOST_UNKNOWN = 1 << 40
# Registered versions per request.
_PAGE = 1000
# Keeps MLflow from printing the URL of a run that ends, with the credentials in it.
SILENT = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
# Status codes of a proxy whose server is down.
_UNAVAILABLE = (500, 502, 503, 504)


@dataclass(frozen=True)
class StoredFile:
    """A file or directory among a run's artifacts.

    Attributes:
        path: Run-relative POSIX path.
        is_dir: Whether it is a directory.
        size: Bytes; None for a directory, or if the store does not report it.
    """

    path: str
    is_dir: bool
    size: int | None

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rpartition("/")[2]


class RunStore:
    """One run of a tracking server, and its artifacts.

    Every method raises `RunNotFoundError` if the run does not exist, `TrackingUnavailableError` if
    the server does not answer, and `TrackingError` if it fails.

    Attributes:
        run_id: The run.
        tracking_uri: URI of the tracking server.
        others_log: Whether MLflow's own callback logs the metrics, which may arrive late.
        is_listed: Whether MLflow was seen to list what this package wrote (`visibility`).
    """

    def __init__(self, run_id: str, tracking_uri: str | None = None) -> None:
        mlflow_private.mention_untested_version()
        self.run_id = run_id
        self.others_log = self.is_listed = False
        _refuse_missing_database(tracking_uri or mlflow.get_tracking_uri())
        with self._translated("open the tracking store"):
            self._client = MlflowClient(tracking_uri=tracking_uri)
        # Absolute, because the spool keeps it for processes in other working directories.
        self.tracking_uri = absolute(self._client.tracking_uri)

    @cached_property
    def run(self) -> Run:
        """The run, fetched once and cached."""
        with self._translated("find the run"):
            try:
                return self._client.get_run(self.run_id)
            except MlflowException as error:
                if error.error_code != MISSING and not mlflow_private.is_malformed_run_id(error):
                    raise
                raise RunNotFoundError(
                    f"There is no run {self.run_id!r} at {self.tracking_uri}. Expected a run id as "
                    "the MLflow UI shows it. Is it the right server (--tracking-uri, "
                    "MLFLOW_TRACKING_URI)?",
                    run_id=self.run_id,
                ) from error

    def current_run(self) -> Run:
        """Fetch the current state of the run."""
        with self._translated("find the run"):
            return self._client.get_run(self.run_id)

    @property
    def artifact_uri(self) -> str:
        """URI of the run's artifacts."""
        return self.run.info.artifact_uri or ""

    @cached_property
    def _artifacts(self) -> ArtifactRepository:
        uri = self.artifact_uri
        with self._translated("open the artifact store"):
            artifact_servers.require_own(uri, self.tracking_uri)
            return get_artifact_repository(uri, tracking_uri=self.tracking_uri)

    def list(self, path: str = "") -> list[StoredFile]:
        """List the artifacts directly below `path` (empty if there is no such directory)."""
        with self._translated("list the run's artifacts"):
            files = self._list_with_retries(path)
        if len(files) > MOST_LISTED:
            raise UnsafeFileError(
                f"The artifact store lists {len(files)} entries in {path or 'the run'!r}, more "
                f"than {MOST_LISTED}, so they were not read."
            )
        for file in files:
            if posixpath.dirname(file.path) != path.strip("/"):
                raise UnsafeFileError(
                    f"The artifact store lists {file.path!r} in {path!r}, where it is not."
                )
        return [StoredFile(file.path, bool(file.is_dir), _size(file)) for file in files]

    def _list_with_retries(self, path: str) -> Sequence[FileInfo]:
        # MLflow's listing of a local directory fails if a file is deleted meanwhile.
        retrying = Retrying(
            retry=retry_if_exception(_is_transient), stop=stop_after_attempt(_TRIES), reraise=True
        )
        return retrying(self._artifacts.list_artifacts, path or None)

    def walk(self, path: str) -> Iterator[StoredFile]:
        """List the files below `path`, in directories of at most `_MOST_DEPTH` levels.

        Raises:
            UnsafeFileError: If the listing does not end.
        """
        waiting, count = [(path, 0)], 0
        while waiting:
            directory, depth = waiting.pop()
            for item in self.list(directory):
                count += 1
                if depth >= _MOST_DEPTH or count > MOST_LISTED:
                    raise UnsafeFileError(
                        f"The artifact store lists more than {_MOST_DEPTH} levels of directories, "
                        f"or {MOST_LISTED} files, in {path!r}, so they were not read."
                    )
                if item.is_dir:
                    waiting.append((item.path, depth + 1))
                else:
                    yield item

    def download(self, path: str, target: Path, most: int | None = None) -> None:
        """Download one file.

        Args:
            path: Its run-relative path.
            target: The local path. If there is more than `most`, it holds the beginning.
            most: Its size in bytes, as a manifest or a listing says; None if unknown.

        Raises:
            UnsafeFileError: If it is larger, or not a file.
        """
        limit = _MOST_UNKNOWN if most is None else most
        local = self.local_path(path)
        with self._translated(f"download {path}"):
            if local is None:
                mlflow_private.download_file(self._artifacts, path, target, limit)
            else:
                regular_file.copy(local, target, most=limit)
        if target.stat().st_size > limit:
            raise UnsafeFileError(
                f"The artifact store sends more than the {limit} bytes that {path} should have. "
                "What came was not read."
            )

    def read(self, path: str) -> bytes | None:
        """Return the bytes of a small file, or None if the run has no such artifact."""
        local = self.local_path(path)
        if local is not None:
            # MLflow would copy the file first, which takes ten times as long as reading it.
            with self._translated(f"read {path}"), suppress(FileNotFoundError, NotADirectoryError):
                return regular_file.read(local)
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as directory:
            target = Path(directory) / "file"
            # Retry, because another process may be writing the file.
            retrying = Retrying(
                retry=retry_if_exception_type(TrackingError)
                & retry_if_not_exception_type(TrackingUnavailableError),
                stop=stop_after_attempt(_TRIES),
                reraise=True,
            )
            exists = retrying(self._download_if_present, path, target)
            return regular_file.read(target) if exists else None

    def _download_if_present(self, path: str, target: Path) -> bool:
        """Download a file; return False if the run has no such artifact."""
        try:
            self.download(path, target, regular_file.MOST_TEXT)
        except TrackingUnavailableError:
            raise
        except TrackingError:
            # Stores report a missing file in many ways; the listing is reliable.
            if self.exists(path):
                raise
            return False
        return True

    def exists(self, path: str) -> bool:
        """Whether the run has an artifact, by listing its directory."""
        return any(item.path == path for item in self.list(path.rpartition("/")[0]))

    def local_path(self, path: str) -> Path | None:
        """Return the path of an artifact on this machine's disk, or None if it is elsewhere."""
        scheme = _SCHEME.match(self.artifact_uri)
        if not self.artifact_uri or (scheme and scheme[1].lower() != "file"):
            return None
        repository = self._artifacts
        # A plugin may handle these locations in another way.
        if type(repository) is not LocalArtifactRepository:
            return None
        # Where MLflow reads: it decodes percent escapes, also in a path without a scheme.
        return Path(repository.artifact_dir).absolute() / path

    def known_local_path(self, path: str) -> Path | None:
        """Return `local_path` if the run has already been fetched, else None."""
        return self.local_path(path) if "run" in self.__dict__ else None

    def answers(self, seconds: float | None = None) -> bool:
        """Whether the tracking server is reachable, tested quickly; True for a local store.

        MLflow's own calls retry for four minutes before they fail.

        Args:
            seconds: How long to wait for it; None for the usual time.
        """
        return _answers(self.tracking_uri, _PROBE_SECONDS if seconds is None else seconds)

    def require_answer(self) -> None:
        """Raise TrackingUnavailableError immediately if the server is not reachable."""
        require_answer(self.tracking_uri)

    def upload(self, file: Path, directory: str) -> None:
        """Upload one file into the artifact directory `directory`.

        Raises:
            OutputError: If the file cannot be read, so that it is of no use to try again.
        """
        # MLflow takes a file that it cannot read for a lost connection, and retries for minutes.
        local_files.require_readable(file)
        try:
            with self._translated(f"upload {file.name}"):
                self._artifacts.log_artifact(str(file), directory)  # type: ignore[no-untyped-call]
                if local := self.local_path(f"{directory}/{file.name}"):
                    # MLflow copies the mode too, and the spool's files are this user's alone.
                    local_files.set_usual_mode(local)
        except TrackingUnavailableError:
            raise
        except TrackingError:
            local_files.require_readable(file, to_its_end=True)
            raise

    def write_text(self, path: str, text: str) -> None:
        """Write a small text file among the run's artifacts, at the run-relative `path`."""
        directory, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="mlflow_ckpt_") as temporary:
            file = Path(temporary) / name
            file.write_text(text, encoding="utf-8")
            self.upload(file, directory)

    def logged_models(self, condition: str = "") -> Iterator[LoggedModel]:
        """Search the run's LoggedModels."""
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
        """Delete a file or directory.

        A store without deletion may ignore this, so list again to check.
        """
        local = self.local_path(path)
        with self._translated(f"delete {path}"):
            if local is None:
                self._artifacts.delete_artifacts(path)  # type: ignore[no-untyped-call]
            else:
                # MLflow decodes percent escapes in the path twice, and would delete another file.
                local_files.remove(local)

    def log_metrics(self, metrics: Mapping[str, float], step: int, timestamp: int) -> None:
        """Log metrics at one step, in as few requests as MLflow allows.

        Args:
            metrics: Values by name.
            step: The x axis of MLflow's charts.
            timestamp: Milliseconds since the Unix epoch.
        """
        entities = [Metric(key, value, timestamp, step) for key, value in metrics.items()]
        with self._translated("log metrics"):
            for start in range(0, len(entities), _METRICS_PER_REQUEST):
                batch = entities[start : start + _METRICS_PER_REQUEST]
                self._client.log_batch(self.run_id, metrics=batch)

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
            timestamp: When it ended, in milliseconds since the Unix epoch.
        """
        with self._translated("end the run"), environment(SILENT):
            self._client.set_terminated(self.run_id, status, end_time=timestamp)

    @contextmanager
    def client_to(self, action: str) -> Iterator[MlflowClient]:
        """Yield MLflow's client for other requests, and translate its errors.

        Args:
            action: The purpose, which completes the message "MLflow could not …".
        """
        with self._translated(action):
            yield self._client

    @contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        """Translate errors of MLflow and of artifact stores into those of this package."""
        where = getattr(self, "tracking_uri", None) or "the tracking URI"
        try:
            yield
        except MlflowException as error:
            _redact(error)
            text = _abridged(error)
            if status := mlflow_private.error_response(error):
                text = f"the server answers with error {status}."
            elif mlflow_private.is_unanswered(error):
                raise _unavailable(where, action) from error
            kind = RequestRefusedError if error.error_code in _REJECTED else TrackingError
            raise kind(f"MLflow could not {action} at {where}: {text}") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            _redact(error)
            raise _unavailable(where, action) from error
        except MlflowCkptError:
            raise
        except Exception as error:
            # An artifact store is a plugin with its own client library, which may raise anything.
            _redact(error)
            reason = f"{type(error).__name__}: {_abridged(error)}"
            raise TrackingError(f"MLflow could not {action} at {where}: {reason}") from error


def require_answer(tracking_uri: str) -> None:
    """Raise TrackingUnavailableError immediately if a tracking server is not reachable."""
    if not _answers(tracking_uri, _PROBE_SECONDS):
        raise TrackingUnavailableError(f"The tracking server at {tracking_uri} does not answer.")


def _answers(tracking_uri: str, seconds: float) -> bool:
    if urlsplit(tracking_uri).scheme not in ("http", "https"):
        return True
    try:
        # A redirection is an answer: to follow it might take credentials to another server.
        response = requests.get(
            f"{tracking_uri.rstrip('/')}/health", timeout=seconds, allow_redirects=False
        )
    except requests.exceptions.SSLError:
        return True  # reachable; MLflow checks whether its certificate is trusted
    except (requests.ConnectionError, requests.Timeout):
        return False
    except requests.RequestException:
        return True  # reachable; MLflow will report the error
    return response.status_code not in _UNAVAILABLE


@contextmanager
def client_to(action: str, tracking_uri: str | None = None) -> Iterator[MlflowClient]:
    """Yield MLflow's client for requests that concern no run, and translate its errors.

    Args:
        action: The purpose, which completes the message "MLflow could not …".
        tracking_uri: The tracking server; MLflow's current one if None.
    """
    with RunStore("", tracking_uri).client_to(action) as client:
        yield client


def paged(page: Callable[[str | None], PagedList[T]]) -> Iterator[T]:
    """Yield the items of all pages of a search.

    Args:
        page: Fetches one page by its token; None for the first page.
    """
    token: str | None = None
    for _ in range(_MOST_PAGES):
        items = page(token)
        yield from items
        token = items.token
        if not token:
            return
    raise UnsafeFileError(
        f"The tracking server lists more than {_MOST_PAGES} pages, so the rest was not read."
    )


def model_versions(client: MlflowClient, condition: str) -> Iterator[ModelVersion]:
    """Yield the versions of registered models that match a filter."""
    return paged(
        lambda token: client.search_model_versions(condition, max_results=_PAGE, page_token=token)
    )


def _size(file: FileInfo) -> int | None:
    size = file.file_size
    return size if isinstance(size, int) and size >= 0 and not file.is_dir else None


def _refuse_missing_database(uri: str) -> None:
    """Raise if an SQLite database does not exist, which MLflow would create empty."""
    prefix = "sqlite:///"
    path = Path(uri.removeprefix(prefix).partition("?")[0])
    if uri.startswith(prefix) and path.name not in ("", ":memory:") and not path.exists():
        raise TrackingError(
            f"There is no tracking database {path}. Name the tracking server or store of the run: "
            "--tracking-uri, MLFLOW_TRACKING_URI, or mlflow.set_tracking_uri()."
        )


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, FileNotFoundError) or (
        isinstance(error, Exception) and mlflow_private.is_vanished_directory(error)
    )


def absolute(uri: str) -> str:
    """Return a tracking URI that means the same in any working directory."""
    prefix = "sqlite:///"
    file, mark, query = uri.removeprefix(prefix).partition("?")
    if not uri.startswith(prefix) or file in ("", ":memory:"):
        return uri
    return f"{prefix}{Path(file).absolute()}{mark}{query}"


def _unavailable(where: str, action: str) -> TrackingUnavailableError:
    return TrackingUnavailableError(
        f"The tracking server at {where} does not answer (tried to {action}). "
        "Check that it runs, and the URI (--tracking-uri, MLFLOW_TRACKING_URI)."
    )


def _redact(error: BaseException) -> None:
    """Remove credentials from an error of MLflow and from its causes, which Python shows."""
    seen: BaseException | None = error
    while seen is not None:
        seen.args = tuple(
            arg if isinstance(arg, (int, type(None))) else redacted(str(arg)) for arg in seen.args
        )
        if isinstance(seen, MlflowException):
            seen.message = redacted(str(seen.message))
        seen = seen.__cause__ or seen.__context__


def _abridged(error: Exception) -> str:
    """Return at most 300 characters of an error's first line, as a sentence."""
    line = first_line(redacted(str(error)) or type(error).__name__)
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"
