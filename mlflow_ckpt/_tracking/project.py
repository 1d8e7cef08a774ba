"""The MLflow Project that made a run: what started it, and how to start it again."""

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
# MLflow sets its tag for every other way to get an environment.
_DEFAULT_ENVIRONMENT = "local"


@dataclass(frozen=True)
class ProjectRun:
    """How a run was started.

    Attributes:
        uri: The project: a directory, or a Git repository's address.
        version: The Git commit; None if the project lies in no repository.
        entry_point: Its entry point.
        environment: What `mlflow run --env-manager` was.
        parameters: All parameters of the run by name, as text.
        experiment_id: The run's experiment.
        directory: Where the project lies, if that is on this machine.
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
        """Read it from a run's tags; None if no project made the run."""
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
        """Return the same with the project elsewhere."""
        return replace(self, uri=uri, directory=_directory_of(uri))

    def changed_version(self) -> str | None:
        """Tell that the project's code is another commit now, as a phrase; None if it is not."""
        now = None if self.directory is None else mlflow_private.git_commit(self.directory)
        if self.version is None or now is None or now == self.version:
            return None
        return f"the project was at commit {self.version[:12]}, and is at {now[:12]}"

    def arguments(self, changed: Mapping[str, str], *, run_id: str | None) -> list[str]:
        """Return the arguments of `mlflow run` that start it again.

        Args:
            changed: Parameters with another value than they had.
            run_id: The run to go on in; None for a new one.

        Raises:
            InvalidArgumentError: If the project cannot resume.
            TrackingError: If the project cannot be had.
        """
        declared = mlflow_private.entry_point_parameters(
            self.uri, self.version, self.directory, self.entry_point
        )
        for name in changed:
            if name not in declared:
                raise InvalidArgumentError(
                    f"The entry point {self.entry_point!r} of the project {self.uri} has no "
                    f"parameter {name!r}. Expected it to take {RESUME_FROM} (a run id or a ckpt: "
                    "URI) and epochs, and to pass the first to mlflow_ckpt.resume."
                )
        values = {
            # MLflow logs them quoted for a shell.
            **{k: " ".join(shlex.split(v)) for k, v in self.parameters.items() if k in declared},
            **changed,
        }
        where = self.uri if self.directory is None else str(self.directory)
        arguments = ["run", where, "-e", self.entry_point]
        arguments += ["--env-manager", self.environment]
        # In a directory of one's own, MLflow would check that commit out.
        if self.version is not None and self.directory is None:
            arguments += ["--version", self.version]
        for name, value in values.items():
            # An empty value, on MLflow's command line, is no value.
            arguments += ["-P", f"{name}={value}"] if value else []
        return [*arguments, *(["--run-id", run_id] if run_id else self._experiment())]

    def _experiment(self) -> list[str]:
        return ["--experiment-id", self.experiment_id]


def _directory_of(uri: str) -> Path | None:
    """Return where a project lies on this machine; None if it lies elsewhere."""
    root, _, subdirectory = uri.partition("#")
    parsed = urlsplit(root)
    given = [parsed.path, url2pathname(parsed.path)] if parsed.scheme == "file" else [root]
    for path in given:
        if Path(path).is_dir():
            return Path(path) / subdirectory
    return None
