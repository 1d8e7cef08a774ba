"""Options for loading a model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_ckpt.errors import InvalidArgumentError

if TYPE_CHECKING:
    from mlflow_ckpt._tracking.find import Convert


@dataclass(frozen=True)
class ModelOptions:
    """Options for loading a model.

    Attributes:
        modules: Modules that define its custom objects.
        architecture: For weights files of other tools: a file with the architecture.
    """

    modules: tuple[str, ...]
    architecture: Path | None

    @cached_property
    def custom_objects(self) -> dict[str, Any]:
        """The classes and functions that the modules define, by name."""
        return load_modules(self.modules)

    def converter(self) -> Convert:
        """Return the function that converts models of other tools."""
        from mlflow_ckpt._loading.convert import converter

        return converter(self.custom_objects, self.architecture)


@contextmanager
def _current_directory_first() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)


def load_modules(names: Iterable[str]) -> dict[str, Any]:
    """Import modules and return the classes and functions that they define, by name.

    They are looked for in the current directory first, as with `python -m`; other modules, of which
    somebody may have put others of the same names there, in that directory last.

    Raises:
        InvalidArgumentError: If a module cannot be imported.
    """
    objects: dict[str, Any] = {}
    for name in names:
        try:
            with _current_directory_first():
                module = import_module(name)
        except (Exception, SystemExit) as error:
            # A user's module may raise anything while it is imported.
            raise InvalidArgumentError(
                f"The module {name!r} for --custom-objects cannot be imported: "
                f"{type(error).__name__}: {error}. Expected a module that Python can import from "
                "here, such as 'mypackage.layers'."
            ) from error
        objects.update(
            {
                key: value
                for key, value in vars(module).items()
                if callable(value) and getattr(value, "__module__", None) == module.__name__
            }
        )
    return objects
