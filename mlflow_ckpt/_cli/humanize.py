"""Human-readable numbers, sizes and ages."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow_ckpt._format.manifest import Manifest


def number(value: float | None) -> str:
    """Return a value with four digits; a dash for None."""
    if value is None:
        return "-"
    if not math.isfinite(value) or value == int(value):
        return f"{value:g}"
    return f"{value:.4g}"


def whole(value: int | None) -> str:
    """Return a whole number with all its digits; a dash for None."""
    return "-" if value is None else str(value)


def size(count: int | None) -> str:
    """Return a number of bytes with its unit; a dash for None."""
    from rich.filesize import decimal

    return "-" if count is None else decimal(count)


def age(created: str) -> str:
    """Return how long ago an ISO 8601 time was."""
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def forms(manifest: Manifest) -> str:
    """Return the forms of a checkpoint, such as `full (keras)+split`."""
    return "+".join(
        f"full ({manifest.full_format})" if form == "full" else form for form in manifest.forms
    )
