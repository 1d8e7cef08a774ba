"""Captures what `model.save` would write, by Keras's own traversal of a model.

- `saving_lib._save_state`, `_serialize_model_as_json`, `H5IOStore` and `DiskIOStore` with its
  `working_dir` capture what `model.save` would write. Fallback: the public `model.save` and
  `save_weights`, slower, with a warning.
- The local variable `saveable` of `_save_state` tells which object saves a tensor. Fallback: errors
  do not name its class.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.files.captured import CapturedState, Group
from mlflow_ckpt._model.keras_private import optimizer_internals, saving_code
from mlflow_ckpt._model.keras_private.keras_version import PrivateApiError

# Copies a tensor to the host, given its path in the weights file and its value.
Copy = Callable[[str, Any], np.ndarray[Any, Any]]

_NOTHING = np.empty(0)


class _CapturingStore(saving_code.StoreBase):  # type: ignore[misc]
    """Copies values to the host instead of writing them to an HDF5 file."""

    def __init__(self, copy: Copy) -> None:
        self.groups: list[Group] = []
        self.handed_over: list[Any] = []
        self._group = Group("", None)
        self._copy = copy

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: dict[str, Any] | None = None) -> _CapturingStore:
        # As in Keras: a group without metadata is created with its first value.
        self._group = Group(path, (metadata or {}).get("name"))
        if metadata:
            self.groups.append(self._group)
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        if not any(group is self._group for group in self.groups[-1:]):
            self.groups.append(self._group)
        self._group.arrays[key] = self._copy(f"{self._group.path}/{key}", value)
        if isinstance(value, keras.Variable):
            self._group.variables[key] = value.name
        if hasattr(value, "assign"):
            self.handed_over.append(value)

    def __getitem__(self, key: str) -> np.ndarray[Any, Any]:
        return self._group.arrays[key]

    def __delitem__(self, key: str) -> None:
        del self._group.arrays[key]

    def __contains__(self, key: object) -> bool:
        return key in self._group.arrays

    def __len__(self) -> int:
        return len(self._group.arrays)

    def keys(self) -> Any:
        return self._group.arrays.keys()

    def close(self) -> None:
        pass


class _AssetStore(saving_code.AssetStoreBase):  # type: ignore[misc]
    """A `DiskIOStore` that creates its directory on first use."""

    def __init__(self) -> None:
        self.directory: Path | None = None

    def __bool__(self) -> bool:
        return True

    def make(self, path: str) -> Any:
        if self.directory is None:
            super().__init__("assets", mode="w")
            self.directory = Path(self.working_dir)
        return super().make(path)

    def close(self) -> None:
        if self.directory is not None:
            super().close()


def capture_groups(model: keras.Model, copy: Copy) -> list[Group]:
    """Capture a model's tensors only. Arguments and errors as in `capture`."""
    return _walk(model, None, copy).groups


def capture(
    model: keras.Model,
    workspace: Callable[[], Path],
    copy: Copy,
    *,
    optimizer: bool = True,
    optimizers: Iterable[Any] = (),
) -> CapturedState:
    """Capture the content of a `.keras` archive.

    Args:
        model: A built model.
        workspace: Returns an existing directory, for the files that layers save.
        copy: Copies a tensor to the host, given its path and value.
        optimizer: Whether to capture the state of the compiled optimizer.
        optimizers: All optimizers of the model.

    Raises:
        PrivateApiError: If Keras's saving code has changed.
    """
    saving_code.require()
    asset_store = _AssetStore()
    try:
        store = _walk(model, asset_store, copy, optimizer=optimizer, optimizers=optimizers)
        config_json, metadata_json = saving_code.saving_lib._serialize_model_as_json(model)
        kept = None
        assets = asset_store.directory
        if assets is not None and any(item.is_file() for item in assets.rglob("*")):
            kept = Path(shutil.copytree(assets, workspace() / "assets"))
    finally:
        asset_store.close()
    return CapturedState(store.groups, config_json, metadata_json, kept, store.handed_over)


def named_variables(model: keras.Model, optimizers: Iterable[Any] = ()) -> dict[str, Any]:
    """Return the variables that a model saves as they are, by their paths in the weights file.

    Args:
        model: A built model.
        optimizers: Its optimizers.

    Returns:
        The variables; empty if Keras's saving code has changed.
    """
    named: dict[str, Any] = {}

    def look(path: str, value: Any) -> np.ndarray[Any, Any]:
        if isinstance(value, keras.Variable):
            owner, _, key = path.rpartition("/")
            named[f"{owner}/vars/{key}".removeprefix("/")] = value
        return _NOTHING

    try:
        _walk(model, None, look, optimizers=optimizers)
    except PrivateApiError:  # pragma: no cover - another Keras
        return {}
    return named


def owners_of(model: keras.Model) -> dict[str, Any]:
    """Return the objects that save state, by their paths in the weights file with `/vars`.

    Returns:
        The objects; empty if Keras's saving code has changed.
    """
    owners: dict[str, Any] = {}

    class Store(_CapturingStore):
        def make(self, path: str, metadata: dict[str, Any] | None = None) -> _CapturingStore:
            saveable = sys._getframe(1).f_locals.get("saveable")
            owners[f"{path}/vars" if path else "vars"] = saveable
            return super().make(path, metadata)

    try:
        _walk(model, None, lambda *_: _NOTHING, store=Store)
    except PrivateApiError:  # pragma: no cover - another Keras
        return {}
    return owners


def _walk(
    model: keras.Model,
    asset_store: Any,
    copy: Copy,
    *,
    optimizer: bool = True,
    optimizers: Iterable[Any] = (),
    store: type[_CapturingStore] | None = None,
) -> _CapturingStore:
    saving_code.require()
    saving_code.fix_attribute_cache()
    filled = (store or _CapturingStore)(copy)
    compiled = getattr(model, "optimizer", None)
    with _without_copies(compiled, *optimizers):
        saving_code.saving_lib._save_state(
            model,
            weights_store=filled,
            assets_store=asset_store,
            inner_path="",
            visited_saveables=set() if optimizer else {id(compiled)},
        )
    return filled


@contextmanager
def _without_copies(*optimizers: Any) -> Iterator[None]:
    """Have optimizers pass their variables to the store without copying each first."""
    own = keras.optimizers.Optimizer.save_own_variables
    found: dict[int, Any] = {}
    waiting = [optimizer for optimizer in optimizers if optimizer is not None]
    while waiting:
        item = waiting.pop()
        found[id(item)] = item
        inner = getattr(item, "inner_optimizer", None)
        waiting += [
            *optimizer_internals.inner_optimizers(item),
            *([] if inner is None else [inner]),
        ]
    patched = [item for item in found.values() if type(item).save_own_variables is own]
    for item in patched:
        object.__setattr__(item, "save_own_variables", partial(_save_variables, item))
    try:
        yield
    finally:
        for item in patched:
            object.__delattr__(item, "save_own_variables")


def _save_variables(optimizer: Any, store: Any) -> None:
    for index, variable in enumerate(optimizer.variables):
        store[str(index)] = variable
