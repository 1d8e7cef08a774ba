"""The exceptions of mlflow_ckpt.

Every message states the problem, what was expected, what was received, and what to do.

    MlflowCkptError
    ├── InvalidArgumentError (ValueError)       an argument is invalid, regardless of the run
    │   ├── ArgumentTypeError (TypeError)       ... because of its type
    │   └── SelectorError                       a selector or reference cannot be parsed
    ├── NotFoundError (LookupError)
    │   ├── RunNotFoundError (FileNotFoundError, ValueError)
    │   │                                       the run does not exist
    │   ├── CheckpointNotFoundError (FileNotFoundError, ValueError)
    │   │                                       the run has no such checkpoint
    │   ├── FormNotFoundError (ValueError)      the checkpoint was saved without the requested form
    │   └── MetricNotFoundError                 no checkpoint recorded the metric that `best` uses
    ├── CheckpointExistsError (FileExistsError) a save would overwrite a checkpoint
    ├── IntegrityError (ValueError)             stored data is damaged or altered
    │   ├── ManifestError                       manifest.json cannot be read
    │   │   └── NewerSchemaError                ... because a newer mlflow_ckpt wrote it
    │   ├── UnsafeFileError                     a file does what no checkpoint's file does
    │   ├── VerificationError (OSError)         files missing, extra or altered, see `result`
    │   ├── SignatureError                      not signed, or not by whom it must be
    │   └── FingerprintMismatchError            the rebuilt model differs from the saved one
    ├── ModelError (ValueError)
    │   ├── UnsupportedModelError (NotImplementedError)
    │   │                                       Keras cannot save this model in this form
    │   ├── ModelLoadError (TypeError)          Keras cannot rebuild the model
    │   │   └── UnknownObjectError              ... because a class or function is unknown
    │   ├── WeightsMismatchError                weights do not fit the model
    │   └── InputMismatchError                  input data does not fit the model
    ├── SigningError                            a checkpoint cannot be signed
    ├── OutputError (OSError)                   an output file or directory cannot be written
    └── TrackingError                           the tracking server or artifact store failed
        ├── RequestRefusedError                 ... because it rejected the request
        ├── CheckpointBusyError                 ... because another process is saving it
        └── TrackingUnavailableError (ConnectionError)
                                            ... because it does not answer

The classes in brackets are those that Keras or Python raises for the same mistake, so that code
which catches them keeps working.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow_ckpt._shown.escaping import shown

__all__ = [
    "ArgumentTypeError", "CheckpointBusyError", "CheckpointExistsError", "CheckpointNotFoundError",
    "FingerprintMismatchError", "FormNotFoundError", "InputMismatchError", "IntegrityError",
    "InvalidArgumentError", "ManifestError", "MetricNotFoundError", "MlflowCkptError",
    "ModelError", "ModelLoadError", "NewerSchemaError", "NotFoundError", "OutputError",
    "RequestRefusedError", "RunNotFoundError", "SelectorError", "SignatureError", "SigningError",
    "TrackingError", "TrackingUnavailableError", "UnknownObjectError", "UnsafeFileError",
    "UnsupportedModelError", "VerificationError", "WeightsMismatchError"
]  # fmt: skip


class MlflowCkptError(Exception):
    """Base class of all errors that mlflow_ckpt raises deliberately.

    Its message has neither control characters nor credentials, whatever it is made from.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(shown(arg) if isinstance(arg, str) else arg for arg in args))


class InvalidArgumentError(MlflowCkptError, ValueError):
    """An argument is invalid, regardless of the run."""


class ArgumentTypeError(InvalidArgumentError, TypeError):
    """An argument is of a wrong type."""


class SelectorError(InvalidArgumentError):
    """A selector or reference cannot be parsed.

    Attributes:
        received: The text that was passed.
    """

    def __init__(self, message: str, *, received: str) -> None:
        super().__init__(message)
        self.received = received


class NotFoundError(MlflowCkptError, LookupError):
    """The requested run, checkpoint, form or metric does not exist."""


class RunNotFoundError(NotFoundError, FileNotFoundError, ValueError):
    """The run does not exist on the tracking server.

    Attributes:
        run_id: The requested run.
    """

    def __init__(self, message: str, *, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class CheckpointNotFoundError(NotFoundError, FileNotFoundError, ValueError):
    """The run has no such checkpoint.

    Attributes:
        run_id: The run that was searched.
        available: Names of the run's checkpoints, oldest first.
    """

    def __init__(self, message: str, *, run_id: str, available: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.available = tuple(available)


class FormNotFoundError(NotFoundError, ValueError):
    """The checkpoint was saved without the requested form.

    Attributes:
        available: The forms that it was saved in.
    """

    def __init__(self, message: str, *, available: Sequence[str]) -> None:
        super().__init__(message)
        self.available = tuple(available)


class MetricNotFoundError(NotFoundError):
    """No checkpoint recorded the metric that `best` uses.

    Attributes:
        metric: The requested metric.
        available: The metrics that were recorded.
    """

    def __init__(self, message: str, *, metric: str, available: Sequence[str]) -> None:
        super().__init__(message)
        self.metric = metric
        self.available = tuple(available)


class CheckpointExistsError(MlflowCkptError, FileExistsError):
    """A save would overwrite a checkpoint.

    Attributes:
        run_id: The run that holds the checkpoint.
        name: The checkpoint's name, such as `epoch_0003`.
    """

    def __init__(self, message: str, *, run_id: str, name: str) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.name = name


class IntegrityError(MlflowCkptError, ValueError):
    """Stored data is damaged, or differs from what was saved."""


class ManifestError(IntegrityError):
    """`manifest.json` is not valid JSON, or does not follow docs/format.md."""


class NewerSchemaError(ManifestError):
    """The file was written by a newer version of mlflow_ckpt.

    Attributes:
        found: Schema version in the file.
        supported: Newest schema version that this package reads.
    """

    def __init__(self, message: str, *, found: int, supported: int) -> None:
        super().__init__(message)
        self.found = found
        self.supported = supported

    @classmethod
    def of(cls, what: str, found: int, supported: int) -> NewerSchemaError:
        """Return the error for what a file holds, such as `The manifest`."""
        message = f"{what} has schema version {found}; this mlflow_ckpt reads up to {supported}."
        return cls(f"{message} Install a newer mlflow-ckpt.", found=found, supported=supported)


class UnsafeFileError(IntegrityError):
    """A file was not read, because it does what no file of a checkpoint does.

    It names other files, declares more than it holds, or is not a file at all.
    """


class VerificationError(IntegrityError, OSError):
    """Files of a checkpoint are missing, extra or altered.

    Attributes:
        result: A `VerificationResult`, which lists the differing files and tensors.
    """

    def __init__(self, message: str, *, result: Any) -> None:
        super().__init__(message)
        self.result = result


class SignatureError(IntegrityError):
    """A checkpoint is not signed, or not by whom it must be."""


class SigningError(MlflowCkptError):
    """A checkpoint cannot be signed: the key cannot be used, or Sigstore does not answer."""


class FingerprintMismatchError(IntegrityError):
    """The rebuilt model's tensors differ from the saved ones.

    Attributes:
        tensors: Names of the tensors that differ, are missing or are extra.
    """

    def __init__(self, message: str, *, tensors: Sequence[str]) -> None:
        super().__init__(message)
        self.tensors = tuple(tensors)


class ModelError(MlflowCkptError, ValueError):
    """A model cannot be saved or rebuilt, or does not fit its weights or inputs."""


class UnsupportedModelError(ModelError, NotImplementedError):
    """Keras cannot save this model in the requested form."""


class ModelLoadError(ModelError, TypeError):
    """Keras cannot rebuild the model from its files."""


class UnknownObjectError(ModelLoadError):
    """The architecture refers to a class or function that is unknown to this process.

    Attributes:
        name: The unknown class or function.
    """

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class WeightsMismatchError(ModelError):
    """The checkpoint's weights do not fit the model.

    Attributes:
        tensors: Names of the tensors that do not fit.
    """

    def __init__(self, message: str, *, tensors: Sequence[str]) -> None:
        super().__init__(message)
        self.tensors = tuple(tensors)


class InputMismatchError(ModelError):
    """The data to predict on does not fit the model's inputs."""


class OutputError(MlflowCkptError, OSError):
    """An output file or directory cannot be written."""


class TrackingError(MlflowCkptError):
    """The tracking server or its artifact store failed or rejected a request."""


class RequestRefusedError(TrackingError):
    """The tracking server rejected a request; retrying would not help."""


class CheckpointBusyError(TrackingError):
    """Another process is uploading a checkpoint of the same name.

    Attributes:
        run_id: The run that both processes save to.
        name: The checkpoint's name.
    """

    def __init__(self, message: str, *, run_id: str, name: str) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.name = name


class TrackingUnavailableError(TrackingError, ConnectionError):
    """The tracking server or its artifact store does not answer."""
