"""Checks the arguments of the callback and the saver."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import InitVar, dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.monitor import MODES
from mlflow_ckpt._format.retention import (
    LatestN,
    RetentionPolicy,
    check_policy,
    describe_policy,
    policy_of,
)
from mlflow_ckpt._format.signing.keys import Location, SigningKey, signing_key
from mlflow_ckpt._shown.warn import warn
from mlflow_ckpt.errors import ArgumentTypeError, InvalidArgumentError

# Arguments that are recorded in checkpoints, and that a resumed training takes over from one, which
# others may have written. None of them says where to, as `run_id` does, or is of this machine only.
_RECORDED = frozenset(
    (
        *("monitor", "verbose", "save_best_only", "mode", "save_freq", "initial_value_threshold"),
        *("forms", "full_format", "log_metrics", "metadata", "retention", "on_error"),
        *("drain_timeout", "weight_metrics", "test_load", "report", "data_state_limit"),
    )
)
# Arguments that are true or false.
_FLAGS = ("save_best_only", "log_metrics", "weight_metrics", "test_load")


@dataclass(frozen=True)
class CallbackArguments:
    """The checked arguments of an `MlflowCheckpoint`, under the same names.

    Raises:
        InvalidArgumentError: If an argument is not as documented in `MlflowCheckpoint`.
    """

    monitor: str
    verbose: int
    save_best_only: bool
    mode: str
    save_freq: str | int
    initial_value_threshold: float | None
    max_to_keep: InitVar[int | None]
    forms: Sequence[str]
    full_format: str
    log_metrics: bool
    metadata: Mapping[str, Any] | None
    retention: RetentionPolicy | None
    on_error: str
    drain_timeout: float
    weight_metrics: bool
    test_load: bool
    report: bool | str
    data_state_limit: int
    sign: SigningKey | Location | None = None

    def __post_init__(self, max_to_keep: int | None) -> None:
        if not isinstance(self.monitor, str) or not self.monitor:
            raise _unrecognized(
                "monitor", "the name of a metric, such as 'val_loss'", self.monitor, str
            )
        if not (_is(self.on_error, "warn") or _is(self.on_error, "raise")):
            raise _unrecognized("on_error", "'warn' or 'raise'", self.on_error, str)
        check_full_format(self.full_format)
        checked = {
            **{name: _flag(name, getattr(self, name)) for name in _FLAGS},
            "verbose": self._check_verbose(),
            "mode": _known_mode(self.mode),
            "save_freq": _check_save_freq(self.save_freq),
            "initial_value_threshold": _check_threshold(self.initial_value_threshold),
            "forms": check_forms(self.forms),
            "metadata": check_metadata(self.metadata),
            "retention": check_retention(max_to_keep, self.retention),
            "drain_timeout": _check_seconds(self.drain_timeout),
            "report": "auto" if _is(self.report, "auto") else _flag("report", self.report),
            "sign": signing_key(self.sign),
            "data_state_limit": _count(
                "data_state_limit", self.data_state_limit, "a number of bytes, 0 or more"
            ),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _check_verbose(self) -> int:
        # True is as good as 1 here.
        verbose = int(self.verbose) if isinstance(self.verbose, bool) else self.verbose
        return _count("verbose", verbose, "0 or 1")

    def recorded(self) -> dict[str, Any]:
        """Return the arguments as JSON-serializable values to store in checkpoints.

        A user-defined retention policy is omitted, and so is where a key is on this machine.
        """
        names = [field.name for field in fields(self) if field.name in _RECORDED]
        plain = {name: getattr(self, name) for name in names}
        policy = None if self.retention is None else describe_policy(self.retention)
        return {**plain, "forms": list(self.forms), "retention": policy}


def check_each_once(callbacks: Sequence[object]) -> None:
    """Check that no callback stands twice in the callbacks of a `fit`.

    Raises:
        InvalidArgumentError: If one does.
    """
    times = max(Counter(map(id, callbacks)).values(), default=1)
    if times > 1:
        raise InvalidArgumentError(
            "fit calls an MlflowCheckpoint as often as it is among its callbacks, which the "
            "callbacks of a ResumePoint already contain. Expected each once. Received: the same "
            f"one {times} times. Remove it, or create another one to save in another way as well."
        )


def check_run_id(run_id: str | None) -> str | None:
    """Return a run id, or None for MLflow's active run.

    Raises:
        InvalidArgumentError: If it is neither None nor text that is not empty.
    """
    if run_id is not None and (not isinstance(run_id, str) or not run_id.strip()):
        raise _unrecognized(
            *("run_id", "a run id, such as mlflow.start_run().info.run_id, or None"),
            *(run_id, str),
        )
    return run_id


def check_forms(forms: Sequence[str]) -> tuple[str, ...]:
    """Return the forms in canonical order.

    Raises:
        InvalidArgumentError: If they are not one or both of `"full"` and `"split"`.
    """
    names = [forms] if isinstance(forms, str) else forms
    if not isinstance(names, Collection) or not names or not all(map(_is_form, names)):
        raise InvalidArgumentError(
            "Unrecognized forms. Expected ('full',), ('split',) or ('full', 'split'). "
            f"Received: forms={forms!r}"
        )
    return tuple(form for form in layout.FORMS if form in names)


def _is_form(name: object) -> bool:
    return isinstance(name, str) and name in layout.FORMS


def check_full_format(full_format: str) -> None:
    """Check the format of the full form.

    Raises:
        InvalidArgumentError: If it is neither `"keras"` nor `"h5"`.
    """
    if not isinstance(full_format, str) or full_format not in layout.FULL_FORMATS:
        raise InvalidArgumentError(
            f"Unrecognized full_format. Expected 'keras' or 'h5'. Received: {full_format!r}"
        )


def check_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the metadata as a dictionary of JSON values.

    Raises:
        InvalidArgumentError: If it cannot be written as JSON.
    """
    try:
        text = json.dumps(dict(metadata or {}), allow_nan=False, ensure_ascii=False)
        checked: dict[str, Any] = json.loads(text.encode())
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            "The metadata cannot be written as JSON. Expected a mapping of text, finite numbers, "
            f"booleans, lists and mappings. Received: {metadata!r} ({error})"
        ) from error
    return checked


def check_retention(
    max_to_keep: int | None, retention: RetentionPolicy | None
) -> RetentionPolicy | None:
    """Combine `max_to_keep` and `retention`; return None if all checkpoints are kept.

    Raises:
        InvalidArgumentError: If both are passed, or one is invalid.
    """
    if max_to_keep is not None and retention is not None:
        raise InvalidArgumentError(
            "max_to_keep and retention contradict each other. Expected one of them. "
            f"Received: max_to_keep={max_to_keep!r}, retention={retention!r}"
        )
    if max_to_keep is not None:
        return LatestN(max_to_keep)
    if retention is not None:
        check_policy(retention)
    return retention


def arguments_of(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Restore arguments of `MlflowCheckpoint` from `CallbackArguments.recorded`.

    Also returns a phrase for each that is left out, as only a newer mlflow_ckpt knows it.
    """
    arguments = {name: value for name, value in settings.items() if name in _RECORDED}
    if arguments.get("retention") is not None:
        try:
            arguments["retention"] = policy_of(arguments["retention"])
        except (LookupError, TypeError, ValueError):
            del arguments["retention"]
    return arguments, [
        f"this mlflow_ckpt does not know the recorded setting {name}={value!r}"
        for name, value in settings.items()
        if name not in arguments
    ]


def _known_mode(mode: str) -> str:
    """Return a mode; for an unknown one, warn and return `"auto"`, as `ModelCheckpoint` does."""
    if any(_is(mode, known) for known in ("auto", *MODES)):
        return mode
    warn(
        "Unrecognized mode. Expected 'auto', 'min' or 'max'. "
        f"Received: mode={mode!r}. 'auto' is used, which infers it from the metric."
    )
    return "auto"


def _check_save_freq(save_freq: str | int) -> str | int:
    if _is(save_freq, "epoch"):
        return "epoch"
    return _count("save_freq", save_freq, "'epoch' or a number of batches, 1 or more", least=1)


def _check_threshold(threshold: float | None) -> float | None:
    if threshold is None:
        return None
    return _number("initial_value_threshold", threshold, "a number or None")


def _check_seconds(seconds: float) -> float:
    expected = "a number of seconds, 0 or more"
    number = _number("drain_timeout", seconds, expected)
    if not number >= 0:
        raise _unrecognized("drain_timeout", expected, seconds)
    return number


def _is(value: Any, text: str) -> bool:
    return isinstance(value, str) and value == text


def _flag(name: str, value: Any) -> bool:
    # NumPy's too, but no text or list, which would count as true whatever it says.
    if isinstance(value, (Integral, np.bool_)):
        return bool(value)
    expected = "True, False or 'auto'" if name == "report" else "True or False"
    raise _unrecognized(name, expected, value, Integral)


def _count(name: str, value: Any, expected: str, *, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise _unrecognized(name, expected, value, Integral)
    return int(value)


def _number(name: str, value: Any, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _unrecognized(name, expected, value, Real)
    return float(value)


def _unrecognized(name: str, expected: str, value: object, *types: type) -> InvalidArgumentError:
    """Return the error for an argument, which may be of a type other than those expected."""
    is_other = bool(types) and (isinstance(value, bool) or not isinstance(value, types))
    kind = ArgumentTypeError if is_other else InvalidArgumentError
    return kind(f"Unrecognized {name}. Expected {expected}. Received: {name}={value!r}")
