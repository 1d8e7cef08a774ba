"""Names of the tags that this package sets or reads, on runs, LoggedModels and model versions."""

from __future__ import annotations

PREFIX = "mlflow_ckpt."

# Of runs.
LATEST = f"{PREFIX}latest"
BEST = f"{PREFIX}best"
INTERRUPTED = f"{PREFIX}interrupted"
RESUMED_FROM = f"{PREFIX}resumed_from"
RESUMED_BY = f"{PREFIX}resumed_by"
DESCRIPTION = f"{PREFIX}description"

# Of LoggedModels and of model versions.
ARTIFACT_PATH = f"{PREFIX}artifact_path"
WEIGHTS_DIGEST = f"{PREFIX}weights_digest"
MANIFEST_DIGEST = f"{PREFIX}manifest_digest"
EPOCH = f"{PREFIX}epoch"
STEP = f"{PREFIX}step"
METRIC = f"{PREFIX}metric."

# MLflow's own.
NOTE = "mlflow.note.content"
PARENT_RUN = "mlflow.parentRunId"
LOGGED_ARTIFACTS = "mlflow.loggedArtifacts"
SOURCE_NAME = "mlflow.source.name"
SOURCE_TYPE = "mlflow.source.type"
GIT_COMMIT = "mlflow.source.git.commit"
PROJECT_ENTRY_POINT = "mlflow.project.entryPoint"
PROJECT_ENVIRONMENT = "mlflow.project.env"
# Of runs that autologging starts.
AUTOLOGGING = "mlflow.autologging"
EXPERIMENT_KIND = "mlflow.experimentKind"
# Lists the logged models of a run; set by MLflow 2.
LOG_MODEL_HISTORY = "mlflow.log-model.history"
