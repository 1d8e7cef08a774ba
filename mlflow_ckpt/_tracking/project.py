"""The MLflow Project that started a run, and the command that starts it again."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow.entities import Run

from mlflow_ckpt._tracking import artifact_servers, mlflow_private, tags
from mlflow_ckpt.errors import InvalidArgumentError

RESUME_FROM = "resume_from"
# The values of `mlflow run --env-manager`.
ENVIRONMENTS = ("local", "virtualenv", "uv", "conda")
# MLflow sets the environment tag for all values but this one.
_DEFAULT_ENVIRONMENT = "local"

_COMMIT = re.compile(r"[0-9a-fA-F]{4,64}")
# Not `ext::` and the like, by which Git runs a command.
_ADDRESS = re.compile(r"(?:https?|ssh|git|git\+ssh|file)://[^-]|[\w.][\w.-]*@[\w.-]+:(?!:)")


@dataclass(frozen=True)
class ProjectRun:
    """How a run was started.

    Attributes:
        uri: The project: a directory, or a Git repository's address.
        version: The Git commit; None if the project is not in a repository.
        entry_point: Its entry point.
        environment: The value of `mlflow run --env-manager`.
        parameters: All parameters of the run by name.
        experiment_id: The run's experiment.
        directory: The project's directory on this machine; None if it is elsewhere.
    """

    uri: str
    version: str | None
    entry_point: str
    environment: str
    parameters: Mapping[str, str]
    experiment_id: str
    directory: Path | None

    @classmethod
    def of(cls, run: Run) -> ProjectRun | None:
        """Read it from a run's tags; return None if the run was not started by a project."""
        recorded = run.data.tags
        uri = recorded.get(tags.SOURCE_NAME)
        if recorded.get(tags.SOURCE_TYPE) != "PROJECT" or not uri:
            return None
        return cls(
            uri=uri,
            version=recorded.get(tags.GIT_COMMIT),
            entry_point=recorded.get(tags.PROJECT_ENTRY_POINT, "main"),
            environment=recorded.get(tags.PROJECT_ENVIRONMENT, _DEFAULT_ENVIRONMENT),
            parameters={name: _unquoted(value) for name, value in run.data.params.items()},
            experiment_id=run.info.experiment_id,
            directory=_directory_of(uri),
        )

    def moved(self, uri: str) -> ProjectRun:
        """Return a copy with the project at another URI."""
        return replace(self, uri=uri, directory=_directory_of(uri))

    def require_plausible(self) -> None:
        """Check what the run's tags say before anything is done with it.

        Raises:
            InvalidArgumentError: If it is not what MLflow records.
            TrackingError: If it names a directory that is not there.
        """
        if self.environment not in ENVIRONMENTS:
            raise InvalidArgumentError(
                f"The run names the environment manager {self.environment!r}. Expected one of "
                f"{', '.join(ENVIRONMENTS)}. Pass the one to use: --env-manager."
            )
        if self.version is not None and not _COMMIT.fullmatch(self.version):
            raise InvalidArgumentError(
                f"The run names the commit {self.version!r}. Expected the hash of a Git commit."
            )
        if self.directory is None and not _ADDRESS.match(self.uri):
            raise InvalidArgumentError(
                f"The run names the project {self.uri!r}. Expected a directory on this machine, or "
                "an address with https, http, ssh, git or file. Pass its location: --project."
            )
        is_local = self.uri.lower().startswith("file:")
        if self.directory is None and is_local and not any(map(_exists, _local_paths(self.uri))):
            raise mlflow_private.no_project(self.uri, "there is no such directory")

    def is_here(self) -> bool:
        """Whether the project is in the repository, or is the directory, that one stands in."""
        if self.directory is None:
            return False
        here, place = Path.cwd().resolve(), self.directory.resolve()
        root = _repository_of(here)
        if root is None:
            return place == here and _is_own(place)
        return place.is_relative_to(root) and _repository_of(place) == root

    def command(self) -> str | None:
        """Return the command of the entry point, if the project is on this machine.

        Raises:
            TrackingError: If the project cannot be read.
        """
        return None if self.directory is None else self._entry_point()[0]

    def changed_version(self) -> str | None:
        """Describe a change of the project's commit as a phrase; None if it did not change."""
        current = None if self.directory is None else mlflow_private.git_commit(self.directory)
        if self.version is None or current is None or current == self.version:
            return None
        return f"the project was at commit {self.version[:12]} and is now at {current[:12]}"

    def arguments(
        self, changed: Mapping[str, str], tracking_uri: str, *, run_id: str | None
    ) -> list[str]:
        """Return the arguments of `mlflow run` that start the project again.

        Args:
            changed: Parameters with new values.
            tracking_uri: The tracking server.
            run_id: The run to continue; None for a new one.

        Raises:
            InvalidArgumentError: If the entry point does not declare a changed parameter.
            TrackingError: If the project cannot be fetched or read, or MLflow would send
                credentials to another server for a parameter.
        """
        _, declared = self._entry_point()
        for name in changed:
            if name not in declared:
                raise InvalidArgumentError(
                    f"The entry point {self.entry_point!r} of the project {self.uri} has no "
                    f"parameter {name!r}. Expected it to accept {RESUME_FROM} (a run id or a ckpt: "
                    "URI) and epochs, and to pass the first to mlflow_ckpt.resume."
                )
        recorded = {k: v for k, v in self.parameters.items() if k in declared}
        for name, value in recorded.items():
            if declared[name] == "path":  # MLflow downloads it
                artifact_servers.require_own(value, tracking_uri)
        where = self.uri if self.directory is None else str(self.directory)
        arguments = ["run", where, "-e", self.entry_point]
        arguments += ["--env-manager", self.environment]
        # In a local directory, MLflow would check out that commit.
        if self.version is not None and self.directory is None:
            arguments += ["--version", self.version]
        for name, value in {**recorded, **changed}.items():
            # MLflow's command line treats an empty value as missing.
            arguments += ["-P", f"{name}={value}"] if value else []
        experiment = ["--experiment-id", self.experiment_id]
        return [*arguments, *(["--run-id", run_id] if run_id else experiment)]

    def _entry_point(self) -> tuple[str, dict[str, str]]:
        """Return the command and the parameters of the entry point."""
        return mlflow_private.entry_point(self.uri, self.version, self.directory, self.entry_point)


def _unquoted(value: str) -> str:
    """Return a parameter's value; MLflow logs it quoted for a shell."""
    try:
        (plain,) = shlex.split(value)
    except ValueError:
        return value  # several words, or a quotation mark that is a part of the value
    return plain if shlex.quote(plain) == value else value


def _repository_of(directory: Path) -> Path | None:
    """Return the root of the Git repository of this user's that holds a directory, if any.

    Git is not asked: in somebody else's repository, it may run commands.
    """
    for root in (directory, *directory.parents):
        if (root / ".git").exists():
            return root if _is_own(root) and _is_own(root / ".git") else None
    return None


def _is_own(path: Path) -> bool:
    """Whether only this user can change what is at a path."""
    if os.name == "nt":
        return True
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & stat.S_IWOTH


def _directory_of(uri: str) -> Path | None:
    """Return the directory of a project on this machine; None if it is elsewhere."""
    subdirectory = uri.partition("#")[2]
    for path in _local_paths(uri):
        if _exists(path) and path.is_dir():
            # Absolute: a name may look like an option.
            return path.absolute() / subdirectory
    return None


def _local_paths(uri: str) -> list[Path]:
    """Return the paths that a project's URI may mean, without the part after `#`."""
    root = uri.partition("#")[0]
    try:
        parsed = urlsplit(root)
    except ValueError:
        return []
    if parsed.scheme == "file":
        return [Path(parsed.path), Path(url2pathname(parsed.path))]
    return [Path(root)]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no name of a file
        return False
