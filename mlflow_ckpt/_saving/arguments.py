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
    report: bool | str

    def __post_init__(self, max_to_keep: int | None) -> None:
        check_mode(self.mode)
        check_save_freq(self.save_freq, self.monitor, save_best_only=self.save_best_only)
        check_full_format(self.full_format)
        check_on_error(self.on_error)
        check_drain_timeout(self.drain_timeout)
        check_report(self.report)
        for name, value in (
            ("forms", check_forms(self.forms)),
            ("metadata", check_metadata(self.metadata)),
            ("retention", check_retention(max_to_keep, self.retention)),
        ):
            object.__setattr__(self, name, value)

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


def check_mode(mode: str) -> None:
    """Check `mode`.

    Raises:
        InvalidArgumentError: If it is not `"auto"`, `"min"` or `"max"`.
    """
    if mode not in ("auto", *MODES):
        raise InvalidArgumentError(
            f"Unrecognized mode. Expected 'auto', 'min' or 'max'. Received: mode={mode!r}"
        )


def check_save_freq(save_freq: str | int, monitor: str, *, save_best_only: bool) -> None:
    """Check `save_freq`.

    Args:
        save_freq: `"epoch"`, or a number of batches.
        monitor: The metric that decides which checkpoint is best.
        save_best_only: Whether only checkpoints that improve on it are saved.

    Raises:
        InvalidArgumentError: If it is neither `"epoch"` nor a positive number of batches, or if
            saving depends on a metric that is not available within an epoch.
    """
    if save_freq != "epoch" and (
        isinstance(save_freq, bool) or not isinstance(save_freq, int) or save_freq < 1
    ):
        raise InvalidArgumentError(
            "Unrecognized save_freq. Expected 'epoch' or a number of batches, 1 or more. "
            f"Received: save_freq={save_freq!r}"
        )
    if save_best_only and save_freq != "epoch" and monitor.startswith("val_"):
        raise InvalidArgumentError(
            "Inside an epoch there is no validation. Expected, with save_best_only and "
            "save_freq in batches, a monitor of the training such as 'loss'. "
            f"Received: monitor={monitor!r}"
        )


def check_on_error(on_error: str) -> None:
    """Check `on_error`.

    Raises:
        InvalidArgumentError: If it is neither `"warn"` nor `"raise"`.
    """
    if on_error not in ("warn", "raise"):
        raise InvalidArgumentError(
            f"Unrecognized on_error. Expected 'warn' or 'raise'. Received: on_error={on_error!r}"
        )


def check_report(report: bool | str) -> None:
    """Check `report`.

    Raises:
        InvalidArgumentError: If it is not True, False or `"auto"`.
    """
    if report is not True and report is not False and report != "auto":
        raise InvalidArgumentError(
            f"Unrecognized report. Expected True, False or 'auto'. Received: report={report!r}"
        )


def check_drain_timeout(seconds: float) -> None:
    """Check `drain_timeout`.

    Raises:
        InvalidArgumentError: If it is not a number, or is negative or NaN.
    """
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not seconds >= 0:
        raise InvalidArgumentError(
            "Unrecognized drain_timeout. Expected a number of seconds, 0 or more. "
            f"Received: drain_timeout={seconds!r}"
        )


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


def arguments_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Restore arguments of `MlflowCheckpoint` from `CallbackArguments.recorded`."""
    description = settings.get("retention")
    return {**settings, "retention": None if description is None else policy_of(description)}
