"""The exceptions of mlflow_ckpt.

Every message is one sentence or two: the problem, what was expected, what was received, what to do.

    MlflowCkptError
    ├── InvalidArgumentError (ValueError)       an argument that no run could satisfy
    │   └── SelectorError                       a selector or reference that does not parse
    ├── NotFoundError (LookupError)
    │   ├── RunNotFoundError                    the tracking server knows no such run
    │   ├── CheckpointNotFoundError             the run has no such checkpoint
    │   ├── FormNotFoundError                   the checkpoint was saved without the form asked for
    │   └── MetricNotFoundError                 `best` by a metric that no checkpoint recorded
    ├── CheckpointExistsError (FileExistsError) a save that would overwrite a checkpoint
    ├── IntegrityError                          what was read is not what was saved
    │   ├── ManifestError                       manifest.json cannot be read
    │   │   └── NewerSchemaError                ... because a newer mlflow_ckpt wrote it
    │   ├── VerificationError                   files missing, extra or altered; carries the result
    │   └── FingerprintMismatchError            the rebuilt model is not the saved one
    ├── ModelError
    │   ├── UnsupportedModelError               Keras cannot save this model in this form
    │   ├── ModelLoadError                      Keras cannot rebuild the model
    │   │   └── UnknownObjectError              ... because a class or function is unknown
    │   ├── WeightsMismatchError                weights do not fit the given model
    │   └── InputMismatchError                  data to predict on does not fit the model
    ├── OutputError (OSError)                   an output file or directory cannot be written
    └── TrackingError                           the tracking server or artifact store failed
        ├── RequestRefusedError                 ... says no, and will say it again
        ├── CheckpointBusyError                 ... because another process saves that checkpoint
        └── TrackingUnavailableError (ConnectionError)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "CheckpointBusyError",
    "CheckpointExistsError",
    "CheckpointNotFoundError",
    "FingerprintMismatchError",
    "FormNotFoundError",
    "InputMismatchError",
    "IntegrityError",
    "InvalidArgumentError",
    "ManifestError",
    "MetricNotFoundError",
    "MlflowCkptError",
    "ModelError",
    "ModelLoadError",
    "NewerSchemaError",
    "NotFoundError",
    "OutputError",
    "RequestRefusedError",
    "RunNotFoundError",
    "SelectorError",
    "TrackingError",
    "TrackingUnavailableError",
    "UnknownObjectError",
    "UnsupportedModelError",
    "VerificationError",
    "WeightsMismatchError",
]


class MlflowCkptError(Exception):
    """Base of every error that mlflow_ckpt raises on purpose."""


class InvalidArgumentError(MlflowCkptError, ValueError):
    """An argument that no run could satisfy."""


class SelectorError(InvalidArgumentError):
    """A selector or reference that does not parse.

    Attributes:
        received: The text that was given.
    """

    def __init__(self, message: str, *, received: str) -> None:
        super().__init__(message)
        self.received = received


class NotFoundError(MlflowCkptError, LookupError):
    """Something asked for by name does not exist."""


class RunNotFoundError(NotFoundError):
    """The tracking server knows no such run.

    Attributes:
        run_id: The run asked for.
    """

    def __init__(self, message: str, *, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class CheckpointNotFoundError(NotFoundError):
    """The run has no such checkpoint.

    Attributes:
        run_id: The run that was searched.
        available: Names of the checkpoints that it has, oldest first.
    """

    def __init__(self, message: str, *, run_id: str, available: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.available = tuple(available)


class FormNotFoundError(NotFoundError):
    """The checkpoint was saved without the form asked for.

    Attributes:
        available: The forms that it has.
    """

    def __init__(self, message: str, *, available: Sequence[str]) -> None:
        super().__init__(message)
        self.available = tuple(available)


class MetricNotFoundError(NotFoundError):
    """`best` was asked for by a metric that no checkpoint recorded.

    Attributes:
        metric: The metric asked for.
        available: The metrics that were recorded.
    """

    def __init__(self, message: str, *, metric: str, available: Sequence[str]) -> None:
        super().__init__(message)
        self.metric = metric
        self.available = tuple(available)


class CheckpointExistsError(MlflowCkptError, FileExistsError):
    """A save would overwrite a checkpoint.

    Attributes:
        run_id: The run that holds it.
        name: The checkpoint's name, such as `epoch_0003`.
    """

    def __init__(self, message: str, *, run_id: str, name: str) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.name = name


class IntegrityError(MlflowCkptError):
    """What was read is not what was saved."""


class ManifestError(IntegrityError):
    """`manifest.json` cannot be read: not JSON, or not shaped as docs/format.md says."""


class NewerSchemaError(ManifestError):
    """The file was written by a newer mlflow_ckpt than this one.

    Attributes:
        found: Schema version in the file.
        supported: Newest schema version that this package reads.
    """

    def __init__(self, message: str, *, found: int, supported: int) -> None:
        super().__init__(message)
        self.found = found
        self.supported = supported


class VerificationError(IntegrityError):
    """Files of a checkpoint are missing, extra or altered.

    Attributes:
        result: A `VerificationResult`: what differs, file by file and tensor by tensor.
    """

    def __init__(self, message: str, *, result: Any) -> None:
        super().__init__(message)
        self.result = result


class FingerprintMismatchError(IntegrityError):
    """The rebuilt model's tensors are not those that were saved.

    Attributes:
        tensors: Names of the tensors that differ, are missing or are new.
    """

    def __init__(self, message: str, *, tensors: Sequence[str]) -> None:
        super().__init__(message)
        self.tensors = tuple(tensors)


class ModelError(MlflowCkptError):
    """A model cannot be saved, rebuilt, filled or fed."""


class UnsupportedModelError(ModelError):
    """Keras cannot save this model in the form asked for."""


class ModelLoadError(ModelError):
    """Keras cannot rebuild the model from its files."""


class UnknownObjectError(ModelLoadError):
    """The architecture names a class or function that this process does not know.

    Attributes:
        name: The unknown class or function.
    """

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class WeightsMismatchError(ModelError):
    """The checkpoint's weights do not fit the model that was given.

    Attributes:
        tensors: Names of the tensors that do not fit.
    """

    def __init__(self, message: str, *, tensors: Sequence[str]) -> None:
        super().__init__(message)
        self.tensors = tuple(tensors)


class InputMismatchError(ModelError):
    """Data to predict on does not fit the model's input."""


class OutputError(MlflowCkptError, OSError):
    """An output file or directory cannot be written."""


class TrackingError(MlflowCkptError):
    """The tracking server or its artifact store failed or refused."""


class RequestRefusedError(TrackingError):
    """The tracking server says no to a request, and would say so again."""


class CheckpointBusyError(TrackingError):
    """Another process is uploading a checkpoint of that name.

    Attributes:
        run_id: The run that both save to.
        name: The checkpoint's name.
    """

    def __init__(self, message: str, *, run_id: str, name: str) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.name = name


class TrackingUnavailableError(TrackingError, ConnectionError):
    """The tracking server or its artifact store does not answer."""
