"""Checks the arguments of the callback and the saver."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, fields
from typing import Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.monitor import MODES
from mlflow_ckpt._format.retention import (
    LatestN,
    RetentionPolicy,
    check_policy,
    describe_policy,
    policy_of,
)
from mlflow_ckpt.errors import InvalidArgumentError


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

    def __post_init__(self, max_to_keep: int | None) -> None:
        if self.mode not in ("auto", *MODES):
            raise _unrecognized("mode", "'auto', 'min' or 'max'", self.mode)
        if self.on_error not in ("warn", "raise"):
            raise _unrecognized("on_error", "'warn' or 'raise'", self.on_error)
        if self.report is not True and self.report is not False and self.report != "auto":
            raise _unrecognized("report", "True, False or 'auto'", self.report)
        seconds = self.drain_timeout
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
            raise _unrecognized("drain_timeout", "a number of seconds, 0 or more", seconds)
        limit = self.data_state_limit
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise _unrecognized("data_state_limit", "a number of bytes, 0 or more", limit)
        self._check_save_freq()
        check_full_format(self.full_format)
        for name, value in (
            ("forms", check_forms(self.forms)),
            ("metadata", check_metadata(self.metadata)),
            ("retention", check_retention(max_to_keep, self.retention)),
        ):
            object.__setattr__(self, name, value)

    def _check_save_freq(self) -> None:
        save_freq = self.save_freq
        if save_freq == "epoch":
            return
        if isinstance(save_freq, bool) or not isinstance(save_freq, int) or save_freq < 1:
            expected = "'epoch' or a number of batches, 1 or more"
            raise _unrecognized("save_freq", expected, save_freq)
        if self.save_best_only and self.monitor.startswith("val_"):
            raise InvalidArgumentError(
                "Inside an epoch there is no validation. Expected, with save_best_only and "
                "save_freq in batches, a monitor of the training such as 'loss'. "
                f"Received: monitor={self.monitor!r}"
            )

    def recorded(self) -> dict[str, Any]:
        """Return the arguments as JSON-serializable values to store in checkpoints.

        A user-defined retention policy is omitted.
        """
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        policy = None if self.retention is None else describe_policy(self.retention)
        return {**plain, "forms": list(self.forms), "retention": policy}


def check_forms(forms: Sequence[str]) -> tuple[str, ...]:
    """Return the forms in canonical order.

    Raises:
        InvalidArgumentError: If they are not one or both of `"full"` and `"split"`.
    """
    names = [forms] if isinstance(forms, str) else list(forms)
    if not names or not set(names) <= set(layout.FORMS):
        raise InvalidArgumentError(
            "Unrecognized forms. Expected ('full',), ('split',) or ('full', 'split'). "
            f"Received: forms={forms!r}"
        )
    return tuple(form for form in layout.FORMS if form in names)


def check_full_format(full_format: str) -> None:
    """Check the format of the full form.

    Raises:
        InvalidArgumentError: If it is neither `"keras"` nor `"h5"`.
    """
    if full_format not in layout.FULL_FORMATS:
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
    known = {field.name for field in fields(CallbackArguments)}
    arguments = {name: value for name, value in settings.items() if name in known}
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


def _unrecognized(name: str, expected: str, value: object) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"Unrecognized {name}. Expected {expected}. Received: {name}={value!r}"
    )
