"""Checks what users ask for, before anything is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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


def check_forms(forms: Sequence[str]) -> tuple[str, ...]:
    """Return the forms in canonical order.

    Raises:
        InvalidArgumentError: Unless they are one or both of `"full"` and `"split"`.
    """
    given = [forms] if isinstance(forms, str) else list(forms)
    if not given or not set(given) <= set(layout.FORMS):
        raise InvalidArgumentError(
            "Unrecognized forms. Expected ('full',), ('split',) or ('full', 'split'). "
            f"Received: forms={forms!r}"
        )
    return tuple(form for form in layout.FORMS if form in given)


def check_full_format(full_format: str) -> str:
    """Return the format.

    Raises:
        InvalidArgumentError: Unless it is `"keras"` or `"h5"`.
    """
    if full_format not in layout.FULL_FORMATS:
        raise InvalidArgumentError(
            f"Unrecognized full_format. Expected 'keras' or 'h5'. Received: {full_format!r}"
        )
    return full_format


def check_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the metadata as a plain mapping.

    Raises:
        InvalidArgumentError: Unless JSON can hold it.
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


def check_mode(mode: str) -> str:
    """Return the mode.

    Raises:
        InvalidArgumentError: Unless it is `"auto"`, `"min"` or `"max"`.
    """
    if mode not in ("auto", *MODES):
        raise InvalidArgumentError(
            f"Unrecognized mode. Expected 'auto', 'min' or 'max'. Received: mode={mode!r}"
        )
    return mode


def check_save_freq(save_freq: str | int, monitor: str, *, save_best_only: bool) -> str | int:
    """Return how often to save.

    Args:
        save_freq: It.
        monitor: The metric that tells which checkpoint is best.
        save_best_only: Whether only the best is saved.

    Raises:
        InvalidArgumentError: Unless it is `"epoch"` or a number of batches, and the metric is known
            at such moments if saving depends on it.
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
    return save_freq


def check_on_error(on_error: str) -> bool:
    """Return whether what goes wrong is to be raised.

    Raises:
        InvalidArgumentError: Unless `on_error` is `"warn"` or `"raise"`.
    """
    if on_error not in ("warn", "raise"):
        raise InvalidArgumentError(
            f"Unrecognized on_error. Expected 'warn' or 'raise'. Received: on_error={on_error!r}"
        )
    return on_error == "raise"


def check_report(report: bool | str) -> bool | str:
    """Return whether a report is to be drawn.

    Raises:
        InvalidArgumentError: Unless it is True, False or `"auto"`.
    """
    if report is not True and report is not False and report != "auto":
        raise InvalidArgumentError(
            f"Unrecognized report. Expected True, False or 'auto'. Received: report={report!r}"
        )
    return report


def check_drain_timeout(seconds: float) -> float:
    """Return the seconds.

    Raises:
        InvalidArgumentError: If they are negative, NaN or no number.
    """
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not seconds >= 0:
        raise InvalidArgumentError(
            "Unrecognized drain_timeout. Expected a number of seconds, 0 or more. "
            f"Received: drain_timeout={seconds!r}"
        )
    return seconds


def check_retention(
    max_to_keep: int | None, retention: RetentionPolicy | None
) -> RetentionPolicy | None:
    """Return the policy that two arguments ask for together; None if all is kept.

    Raises:
        InvalidArgumentError: If both are given, or one is no policy.
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


def recorded(arguments: Mapping[str, Any], retention: RetentionPolicy | None) -> dict[str, Any]:
    """Return a callback's arguments as plain values, to be kept in its checkpoints.

    Args:
        arguments: The plain ones by name.
        retention: The policy; one that a user wrote is left out.
    """
    return {**arguments, "retention": None if retention is None else describe_policy(retention)}


def arguments_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that `recorded` was given."""
    described = settings.get("retention")
    return {**settings, "retention": None if described is None else policy_of(described)}
