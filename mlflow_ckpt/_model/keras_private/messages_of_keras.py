"""Texts of Keras's and TensorFlow's errors, warnings and log records.

- Texts of Keras's and TensorFlow's errors, and the terminal codes in them, identify an unknown
  class, safe mode, and the errors of constructors and calls. Fallback: the error's first line.
- Texts of Keras's warnings and log records suppress them. Fallback: they are shown.
- `IteratorGetNext` in TensorFlow's errors shows that the step changed nothing. Fallback: the model
  counts as partly updated, and is not saved.
- `[Op:` and `{{` end the reason in the errors of TensorFlow's operations. Fallback: a report
  contains more than the reason.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from mlflow_ckpt._model.keras_private import trial_thread

_UNKNOWN_OBJECT = (
    re.compile(r"Could not locate (?:class|function) '(?P<name>[^']+)'"),
    re.compile(r"Unknown \w+(?: \w+)?: '(?P<name>[^']+)'"),
)

_MODULE = re.compile(r"['\"]module['\"]: ['\"]([^'\"]*)['\"]")

_TERMINAL_CODE = re.compile(r"\x1b\[[\d;]*m")

_HEADING = re.compile(r"Exception encountered|.*Error encountered:$")

_UNSAFE = (
    "safe_mode",
    "safe mode",
    "unsafe deserialization",
    "unsafe_deserialization",
    "arbitrary code",
)

_SKIPPED_OPTIMIZER = "Skipping variable loading for optimizer"

_SKIPPED_WEIGHTS = (".*objects could not be loaded", "Skipping loading weights")


def unknown_object(error: Exception) -> str | None:
    """Return the class or function that Keras could not find, if that was the error."""
    matches = (pattern.search(str(error)) for pattern in _UNKNOWN_OBJECT)
    return next((match["name"] for match in matches if match), None)


def modules_named(error: Exception) -> list[str]:
    """Return the modules in the configuration of the object that Keras could not find."""
    return _MODULE.findall(str(error))


def is_unsafe(error: Exception) -> bool:
    """Whether Keras's safe mode rejected an object."""
    return any(sign in str(error) for sign in _UNSAFE)


def constructor_message(error: Exception) -> str | None:
    """Return the message of a constructor's error, which Keras appends to the configuration."""
    _, wrapped, message = str(error).rpartition("Exception encountered: ")
    return call_message(message) if wrapped else None


def call_message(error: Exception | str) -> str:
    """Return the first line of an error that a model's call raised, without heading and bold."""
    text = _TERMINAL_CODE.sub("", str(error))
    if text.startswith("Graph execution error"):
        # TensorFlow puts the reason between the stack and the node.
        text = text.partition("[[{{node")[0].rstrip().rpartition("\n")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if not _HEADING.match(line)), "")


def operation_reason(error: Exception) -> str:
    """Return the reason in an error of a TensorFlow operation, without the operation's name."""
    text = str(getattr(error, "message", error)).partition("\n")[0]
    return text.partition(" [Op:")[0].partition("{{")[0].strip().rstrip(".") or type(error).__name__


def failed_before_step(error: BaseException) -> bool:
    """Whether a TensorFlow step failed at its first operation, which gets the data."""
    return "IteratorGetNext" in str(error)


def ignoring_skipped_optimizer() -> AbstractContextManager[None]:
    """Ignore Keras's warning of an optimizer that it did not load: fingerprints detect that."""
    return _ignoring(_SKIPPED_OPTIMIZER)


def ignoring_skipped_weights() -> AbstractContextManager[None]:
    """Ignore Keras's warnings of weights that it did not load: the caller reports them."""
    return _ignoring(_SKIPPED_OPTIMIZER, *_SKIPPED_WEIGHTS)


@contextmanager
def _ignoring(*messages: str) -> Iterator[None]:
    if trial_thread.is_apart():  # filters are global, and need none there
        yield
        return
    with warnings.catch_warnings():
        for message in messages:
            warnings.filterwarnings("ignore", message=message)
        yield


@contextmanager
def ignoring_legacy_format() -> Iterator[None]:
    """Ignore Keras's warning that HDF5 is a legacy format, which the user chose."""
    logger = logging.getLogger("absl")
    logger.addFilter(_is_not_about_hdf5)
    try:
        yield
    finally:
        logger.removeFilter(_is_not_about_hdf5)


def _is_not_about_hdf5(record: logging.LogRecord) -> bool:
    return "HDF5 file" not in record.getMessage()
