"""Parses JSON that others wrote."""

from __future__ import annotations

import json
import re
from typing import Any

from mlflow_ckpt._format.untrusted.regular_file import MOST_TEXT
from mlflow_ckpt.errors import UnsafeFileError

# A model in a model takes four levels, and code that walks the result calls itself for each.
MOST_DEPTH = 150
# Each takes a hundred bytes of memory.
_MOST_ITEMS = 5_000_000
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        UnsafeFileError: If it is too large or too deep, or holds text that cannot be written.
        ValueError: If it is not JSON.
    """
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(content) > MOST_TEXT or content.count(b",") > _MOST_ITEMS:
        raise UnsafeFileError(f"The JSON is too large to be read ({len(content)} bytes).")
    try:
        value = json.loads(text)
        deep = _is_deep(value)
    except RecursionError:
        deep = True
    if deep:
        raise UnsafeFileError(f"The JSON is nested more than {MOST_DEPTH} levels deep.")
    if _SURROGATE.search(content):
        json.dumps(value, ensure_ascii=False).encode()  # raises for half of a character
    return value


def _is_deep(value: Any) -> bool:
    # Level by level, as a call for each level may not end.
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MOST_DEPTH):
        if not level:
            return False
        level = [
            item
            for node in level
            for item in (node.values() if type(node) is dict else node)
            if type(item) is dict or type(item) is list
        ]
    return bool(level)
