"""The MLflow Project that started a run, and the command that starts it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow.entities import Run

from mlflow_ckpt._tracking import mlflow_private, tags
from mlflow_ckpt.errors import InvalidArgumentError

RESUME_FROM = "resume_from"
# MLflow sets the environment tag for all values but this one.
_DEFAULT_ENVIRONMENT = "local"


@dataclass(frozen=True)
class ProjectRun:
    """How a run was started.

    Attributes:
        uri: The project: a directory, or a Git repository's address.
        version: The Git commit; None if the project is not in a repository.
        entry_point: Its entry point.
        environment: The value of `mlflow run --env-manager`.
        parameters: All parameters of the run by name, as text.
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
            parameters=dict(run.data.params),
            experiment_id=run.info.experiment_id,
            directory=_directory_of(uri),
        )

    def moved(self, uri: str) -> ProjectRun:
        """Return a copy with the project at another URI."""
        return replace(self, uri=uri, directory=_directory_of(uri))

    def changed_version(self) -> str | None:
        """Describe a change of the project's commit as a phrase; None if it did not change."""
        current = None if self.directory is None else mlflow_private.git_commit(self.directory)
        if self.version is None or current is None or current == self.version:
            return None
        return f"the project was at commit {self.version[:12]} and is now at {current[:12]}"

    def arguments(self, changed: Mapping[str, str], *, run_id: str | None) -> list[str]:
        """Return the arguments of `mlflow run` that start the project again.

        Args:
            changed: Parameters with new values.
            run_id: The run to continue; None for a new one.

        Raises:
            InvalidArgumentError: If the entry point does not declare a changed parameter.
            TrackingError: If the project cannot be fetched or read.
        """
        declared = mlflow_private.entry_point_parameters(
            self.uri, self.version, self.directory, self.entry_point
        )
        for name in changed:
            if name not in declared:
                raise InvalidArgumentError(
                    f"The entry point {self.entry_point!r} of the project {self.uri} has no "
                    f"parameter {name!r}. Expected it to accept {RESUME_FROM} (a run id or a ckpt: "
                    "URI) and epochs, and to pass the first to mlflow_ckpt.resume."
                )
        values = {
            # MLflow logs parameters quoted for a shell.
            **{k: " ".join(shlex.split(v)) for k, v in self.parameters.items() if k in declared},
            **changed,
        }
        where = self.uri if self.directory is None else str(self.directory)
        arguments = ["run", where, "-e", self.entry_point]
        arguments += ["--env-manager", self.environment]
        # In a local directory, MLflow would check out that commit.
        if self.version is not None and self.directory is None:
            arguments += ["--version", self.version]
        for name, value in values.items():
            # MLflow's command line treats an empty value as missing.
            arguments += ["-P", f"{name}={value}"] if value else []
        experiment = ["--experiment-id", self.experiment_id]
        return [*arguments, *(["--run-id", run_id] if run_id else experiment)]


def _directory_of(uri: str) -> Path | None:
    """Return the directory of a project on this machine; None if it is elsewhere."""
    root, _, subdirectory = uri.partition("#")
    parsed = urlsplit(root)
    paths = [parsed.path, url2pathname(parsed.path)] if parsed.scheme == "file" else [root]
    for path in paths:
        if Path(path).is_dir():
            return Path(path) / subdirectory
    return None
