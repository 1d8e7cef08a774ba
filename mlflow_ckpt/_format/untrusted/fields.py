"""Checks the types and ranges of fields of JSON that others wrote.

Each function returns the value, or raises TypeError or ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_LARGEST = 2**63
_SHOWN = 80


def text(value: Any) -> str:
    """Require text."""
    if not isinstance(value, str):
        raise TypeError(f"expected text, received {_shown(value)}")
    return value


def count(value: Any) -> int:
    """Require an integer from 0 to the largest that databases store."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST:
        raise ValueError(f"expected a count, received {_shown(value)}")
    return value


def number(value: Any) -> float:
    """Require a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, received {_shown(value)}")
    if not (isinstance(value, float) or abs(value) < _LARGEST) or not math.isfinite(value):
        raise ValueError(f"expected a finite number, received {_shown(value)}")
    return float(value)


def flag(value: Any) -> bool:
    """Require true or false."""
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, received {_shown(value)}")
    return value


def items(value: Any) -> list[Any]:
    """Require a list."""
    if not isinstance(value, list):
        raise TypeError(f"expected a list, received {_shown(value)}")
    return value


def table(value: Any) -> dict[str, Any]:
    """Require an object, which has text as keys."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"expected an object, received {_shown(value)}")
    return value


def texts(value: Any) -> list[str]:
    """Require a list of text."""
    return [text(item) for item in items(value)]


def counts(value: Any) -> list[int]:
    """Require a list of counts."""
    return [count(item) for item in items(value)]


def optional(check: Callable[[Any], T], value: Any) -> T | None:
    """Require null, or what another function requires."""
    return None if value is None else check(value)


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"{type(value).__name__} of {len(value)}"
    shown = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
