"""Checks what users ask for, before anything is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_ckpt.errors import InvalidArgumentError
from mlflow_ckpt.format import layout


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
