"""Exit codes."""

from __future__ import annotations

from mlflow_ckpt import errors

# An error of any other kind is a bug, and shows its traceback.
EXIT_CODES: dict[type[errors.MlflowCkptError], int] = {
    errors.InvalidArgumentError: 2,
    errors.NotFoundError: 3,
    errors.IntegrityError: 4,
    errors.ModelError: 5,
    errors.OutputError: 6,
    errors.SigningError: 6,
    errors.TrackingError: 7,
}
# The exit code of diff(1).
DIFFERENT = 1
