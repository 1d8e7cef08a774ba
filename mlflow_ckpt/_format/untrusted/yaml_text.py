"""Parses YAML that others wrote."""

from __future__ import annotations

import re
from typing import Any

import yaml

from mlflow_ckpt._format.untrusted.json_text import MOST_DEPTH
from mlflow_ckpt._format.untrusted.regular_file import MOST_TEXT
from mlflow_ckpt.errors import UnsafeFileError

# The one in C where PyYAML was built with it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# YAML 1.1 has numbers to the base of 60: long ones take hours.
_NUMBER = re.compile(r"[-+\d_.:a-fA-FoOxX]+")
_LONGEST_NUMBER = 400


def parse(text: str | bytes) -> Any:
    """Parse one YAML document.

    Raises:
        UnsafeFileError: If it is too large or too deep, or refers to parts of itself.
        ValueError: If it is not YAML, or has values that Python's own types cannot represent.
    """
    if len(text) > MOST_TEXT:
        raise UnsafeFileError(f"The YAML is too large to be read ({len(text)} bytes).")
    try:
        _check(text)
        return yaml.load(text, _LOADER)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, RecursionError, OverflowError, TypeError) as error:
        raise ValueError(f"it is not YAML: {error}") from error


def _check(text: str | bytes) -> None:
    depth = 0
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise UnsafeFileError(
                "The YAML has aliases, which can grow without limit, so it was not read. Write out "
                "what they stand for."
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent):
            _check_number(event.value)
        if depth > MOST_DEPTH:
            raise UnsafeFileError(f"The YAML is nested more than {MOST_DEPTH} levels deep.")


def _check_number(value: str) -> None:
    if len(value) > _LONGEST_NUMBER and _NUMBER.fullmatch(value):
        raise UnsafeFileError(f"The YAML has a number of {len(value)} characters.")
