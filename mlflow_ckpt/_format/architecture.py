"""Reads `architecture.json`. Needs no Keras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlflow_ckpt._format import layout
from mlflow_ckpt.errors import IntegrityError


def parse_architecture(text: str | bytes) -> dict[str, Any]:
    """Parse the text of `architecture.json`.

    Raises:
        IntegrityError: If it is not a JSON object.
    """
    try:
        architecture = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise IntegrityError(f"architecture.json is not JSON: {error}.") from error
    if not isinstance(architecture, dict):
        raise IntegrityError("architecture.json holds no architecture. Expected an object.")
    return architecture


def read_architecture(directory: Path) -> dict[str, Any]:
    """Read `architecture.json` in a checkpoint's directory.

    Raises:
        IntegrityError: If it is not a JSON object.
        OSError: If the file cannot be read.
    """
    return parse_architecture((directory / layout.ARCHITECTURE_JSON).read_bytes())
