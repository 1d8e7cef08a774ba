"""Custom objects from modules named on the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from mlflow_ckpt.errors import InvalidArgumentError


def load_modules(names: Iterable[str]) -> dict[str, Any]:
    """Import modules and return the classes and functions that they define, by name.

    The current directory counts as a place to import from, as for `python -m`.

    Raises:
        InvalidArgumentError: If there is no such module, or it cannot be imported.
    """
    found: dict[str, Any] = {}
    for name in names:
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            module = import_module(name)
        except (Exception, SystemExit) as error:
            # A user's module may raise anything while it is imported.
            raise InvalidArgumentError(
                f"The module {name!r} cannot be imported to take custom objects from: "
                f"{type(error).__name__}: {error}. Expected a module that Python can import from "
                "here, such as 'mypackage.layers'."
            ) from error
        found.update(
            {
                key: value
                for key, value in vars(module).items()
                if callable(value) and getattr(value, "__module__", None) == module.__name__
            }
        )
    return found
