"""Keras's code that saves and loads models, imported in one place.

- `keras.src.saving.saving_lib` with `_save_state`, `_serialize_model_as_json`, `H5IOStore` and
  `DiskIOStore`, `serialization_lib`, and `legacy_h5_format`. Without one of them, `require` raises
  `PrivateApiError`. Fallback of those who call it: the public `model.save` and `save_weights`,
  slower, with a warning.
- `legacy_h5_format.save_model_to_hdf5` saves legacy `.h5` to memory. Fallback: as above.
- `saving_attr_skipset_*` and `saving_attr_skiplist_*` of `global_state` speed up the capture.
  Fallback: it is as slow as Keras's own.
- `serialization_lib.ObjectSharingScope` keeps a layer that a model holds twice one layer. Fallback:
  the split form of such a model does not load.
- `saving_lib._load_state`, `_raise_loading_failure`, `_VARS_FNAME_H5` and `_ASSETS_DIRNAME` load an
  archive into a model. No fallback: a model with adapters that its configuration lacks is refused.
"""

from __future__ import annotations

import inspect
import zipfile
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import keras

from mlflow_ckpt._model.keras_private.keras_version import PrivateApiError

try:
    from keras.src.legacy.saving import legacy_h5_format
    from keras.src.saving import saving_lib as saving_lib  # exported: other modules use it
    from keras.src.saving import serialization_lib

    StoreBase: Any = saving_lib.H5IOStore
    AssetStoreBase: Any = saving_lib.DiskIOStore
    _IMPORT_PROBLEM: Exception | None = None
except (ImportError, AttributeError) as _error:  # pragma: no cover - another Keras
    saving_lib = serialization_lib = legacy_h5_format = None
    StoreBase = AssetStoreBase = object
    _IMPORT_PROBLEM = _error


def require() -> None:
    """Check that Keras's saving code is the one that this package knows.

    Raises:
        PrivateApiError: If it is not.
    """
    if _IMPORT_PROBLEM is not None:  # pragma: no cover - another Keras
        raise PrivateApiError(str(_IMPORT_PROBLEM))
    wanted = {
        "_save_state": ("weights_store", "assets_store", "inner_path", "visited_saveables"),
        "_serialize_model_as_json": ("model",),
        "DiskIOStore": ("root_path", "mode"),
    }
    for name, parameters in wanted.items():
        function = getattr(saving_lib, name, None)
        if function is None:
            raise PrivateApiError(f"keras.src.saving.saving_lib has no {name}")
        if not set(parameters) <= set(inspect.signature(function).parameters):
            raise PrivateApiError(f"{name} of keras.src.saving.saving_lib takes other arguments")


def is_known() -> bool:
    """Whether Keras's saving code is the one that this package knows."""
    try:
        require()
    except PrivateApiError:
        return False
    return True


def fix_attribute_cache() -> None:
    """Copy Keras's cache of attributes to skip to the name under which Keras looks it up.

    Keras 3.15 stores it under another name. Without the cache, it creates a layer, an optimizer or
    a metric for each object of the model, which takes most of the time.
    """
    with suppress(ImportError, AttributeError):
        from keras.src.backend.common import global_state

        for kind in ("Operation", "Layer", "Functional", "Sequential", "Metric", "Optimizer"):
            kept = global_state.get_global_attribute(f"saving_attr_skipset_{kind}")
            if kept is not None:
                global_state.set_global_attribute(f"saving_attr_skiplist_{kind}", kept)


def sharing_objects() -> AbstractContextManager[Any]:
    """Have Keras mark objects that it describes twice, and build such objects once.

    `model.save` does so, `to_json` does not.
    """
    scope = getattr(serialization_lib, "ObjectSharingScope", None)
    return nullcontext() if scope is None else scope()


def save_legacy_h5(model: keras.Model, file: Any) -> None:
    """Save a model to an open file, as `model.save("x.h5")` does. Errors as in `require`."""
    require()
    if not hasattr(legacy_h5_format, "save_model_to_hdf5"):
        raise PrivateApiError("keras.src.legacy.saving.legacy_h5_format has no save_model_to_hdf5")
    legacy_h5_format.save_model_to_hdf5(model, file)


def load_archive_into(model: keras.Model, path: Path) -> None:
    """Load the weights, the optimizer and the files of layers of a `.keras` archive into a model.

    Raises:
        PrivateApiError: If Keras's loading code has changed.
        Exception: Whatever the loading code of a layer raises.
    """
    names = ("_load_state", "_raise_loading_failure", "_VARS_FNAME_H5", "_ASSETS_DIRNAME")
    if not all(hasattr(saving_lib, name) for name in names):
        raise PrivateApiError("keras.src.saving.saving_lib has no " + " or no ".join(names))
    failed: set[int] = set()
    messages: dict[int, Any] = {}
    with zipfile.ZipFile(path) as archive:
        weights = saving_lib.H5IOStore(saving_lib._VARS_FNAME_H5, archive, mode="r")
        files = None
        if any(name.startswith(saving_lib._ASSETS_DIRNAME) for name in archive.namelist()):
            files = saving_lib.DiskIOStore(saving_lib._ASSETS_DIRNAME, archive=archive, mode="r")
        try:
            saving_lib._load_state(
                model,
                weights_store=weights,
                assets_store=files,
                inner_path="",
                visited_saveables=set(),
                failed_saveables=failed,
                error_msgs=messages,
            )
        finally:
            weights.close()
            if files is not None:
                files.close()
    if failed:
        saving_lib._raise_loading_failure(messages)
