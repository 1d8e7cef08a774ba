"""State of the training script that the code of a model refers to, and that no file can hold.

Variables of modules and closures, and attributes of classes: others may use them too, so a loader
must not set them. A change during the training is named.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from types import FunctionType
from typing import Any

from mlflow_ckpt._model.capture.code_origin import is_of_user
from mlflow_ckpt._model.capture.references_in_code import methods_of_user
from mlflow_ckpt._model.capture.summaries import Summarizer


class ScriptState:
    """Notices changes of what a model's code refers to."""

    def __init__(self) -> None:
        self._functions: dict[str, FunctionType] = {}
        self._classes: dict[str, type] = {}
        self._saved: Mapping[int, Any] = {}
        self._begin: dict[str, Hashable] = {}

    def look_at(
        self,
        objects: Mapping[str, Any],
        functions: Mapping[str, FunctionType],
        saved: Mapping[int, Any],
    ) -> None:
        """Look at the code of a model from now on.

        Args:
            objects: The objects that it consists of, by path.
            functions: The user's functions among them, by path.
            saved: Objects by id whose state is saved.
        """
        types: dict[type, None] = dict.fromkeys(type(item) for item in objects.values())
        self._classes = {t.__qualname__: t for t in types if is_of_user(t.__module__)}
        self._functions = {function.__qualname__: function for function in functions.values()} | {
            f"{name}.{method}": function
            for name, owner in self._classes.items()
            for method, function in methods_of_user(owner).items()
        }
        bases = {id(base): base for owner in types for base in owner.__mro__}
        self._saved = {**saved, **bases}

    def changed(self) -> list[str]:
        """Describe what changed since it was first looked at."""
        changed: dict[str, None] = {}
        for what, summary in self._summaries():
            if summary != self._begin.setdefault(what, summary):
                changed[f"{what}, which changed in training and is not saved"] = None
        return list(changed)

    def _summaries(self) -> Iterator[tuple[str, Hashable]]:
        summarizer = Summarizer(self._saved)
        for label, function in self._functions.items():
            for name, summary in summarizer.of_function(function).items():
                yield f"{label} refers to the variable {name!r}", summary
        for label, owner in self._classes.items():
            for name, summary in summarizer.of_class(owner).items():
                yield f"the class {label} has the attribute {name!r}", summary
