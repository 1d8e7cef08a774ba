"""All uses of Keras's and TensorFlow's private names and texts, and the fallbacks if they change.

- `saving_lib._save_state`, `_serialize_model_as_json`, `H5IOStore` and `DiskIOStore` with its
  `working_dir` capture what `model.save` would write. Fallback: the public `model.save` and
  `save_weights`, slower, with a warning.
- `legacy_h5_format.save_model_to_hdf5` saves legacy `.h5` to memory. Fallback: as above.
- `saving_attr_skipset_*` and `saving_attr_skiplist_*` of `global_state` speed up the capture.
  Fallback: it is as slow as Keras's own.
- `EpochIterator`, and the local variables `self` and `epoch_iterator` in the frames of `fit`, give
  the other callbacks and the data. Fallback: both are unknown, which resuming reports.
- `EpochIterator.data_adapter`, its class name, `_shuffle` and `py_dataset` identify the data.
  Fallback: arrays count as shuffled; an `EpochDataset` is not recognized.
- `EpochIterator._num_batches` and its adapter's `shuffle` serve `EpochDataset`, and
  `Model._symbolic_build` its metrics within an epoch. No fallback: `PrivateApiError` ends `fit`.
- `Model._compile_config.config` is repaired after a legacy save. Fallback: no repair.
- `Metric._direction` is `"up"` or `"down"`. Fallback: inferred from the metric's name.
- `global_seed_generator`, in `global_state` and `seed_generator`, has Keras's global random state.
  Fallback: it is not saved; a saved one is reported as not restored.
- Attributes of callbacks (`CALLBACK_STATE`) are their states. Fallback: a missing one is None.
- `_seed` and `_rng` of TensorFlow's `context`, and `global_generator` of `stateful_random_ops`, are
  its random state. Fallback: it is reported as not restored.
- Texts of Keras's and TensorFlow's errors, and the terminal codes in them, identify an unknown
  class, safe mode, and the errors of constructors and calls. Fallback: the error's first line.
- Texts of Keras's warnings and log records suppress them. Fallback: they are shown.
- `IteratorGetNext` in TensorFlow's errors shows that the step changed nothing. Fallback: the model
  counts as partly updated, and is not saved.
"""

from __future__ import annotations

import inspect
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.files.captured import CapturedState, Group
from mlflow_ckpt._warn import mention_untested

TESTED_WITH = ("3.15",)
# Copies a tensor to the host, given its path in the weights file and its value.
Copy = Callable[[str, Any], np.ndarray[Any, Any]]

try:
    from keras.src.legacy.saving import legacy_h5_format
    from keras.src.saving import saving_lib

    _StoreBase: Any = saving_lib.H5IOStore
    _AssetStoreBase: Any = saving_lib.DiskIOStore
    _IMPORT_PROBLEM: Exception | None = None
except (ImportError, AttributeError) as _error:  # pragma: no cover - another Keras
    saving_lib = legacy_h5_format = None
    _StoreBase = _AssetStoreBase = object
    _IMPORT_PROBLEM = _error


@dataclass(frozen=True)
class FitFrame:
    """Local variables of the `fit` that calls a callback.

    Attributes:
        callbacks: The outermost list that contains the callback; None if there is none.
        iterator: Its `EpochIterator`; None outside of `fit`.
        variables: All local variables, the arguments of `fit` among them.
    """

    callbacks: keras.callbacks.CallbackList | None
    iterator: Any
    variables: Mapping[str, Any] = field(default_factory=dict)


def mention_untested_version() -> None:
    """Log, once, that the running Keras version was not tested with this package."""
    mention_untested("Keras", keras.__version__, TESTED_WITH)


class PrivateApiError(Exception):
    """A private API of Keras is missing or has changed."""


class _CapturingStore(_StoreBase):  # type: ignore[misc]
    """Copies values to the host instead of writing them to an HDF5 file."""

    def __init__(self, copy: Copy) -> None:
        self.groups: list[Group] = []
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


class _AssetStore(_AssetStoreBase):  # type: ignore[misc]
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
    return _walk(model, None, copy)


def capture(
    model: keras.Model, workspace: Callable[[], Path], copy: Copy, *, optimizer: bool = True
) -> CapturedState:
    """Capture the content of a `.keras` archive.

    Args:
        model: A built model.
        workspace: Returns an existing directory, for the files that layers save.
        copy: Copies a tensor to the host, given its path and value.
        optimizer: Whether to capture the state of the compiled optimizer.

    Raises:
        PrivateApiError: If Keras's saving code has changed.
    """
    _require()
    asset_store = _AssetStore()
    try:
        groups = _walk(model, asset_store, copy, optimizer=optimizer)
        config_json, metadata_json = saving_lib._serialize_model_as_json(model)
        kept = None
        assets = asset_store.directory
        if assets is not None and any(item.is_file() for item in assets.rglob("*")):
            kept = Path(shutil.copytree(assets, workspace() / "assets"))
    finally:
        asset_store.close()
    return CapturedState(groups, config_json, metadata_json, kept)


def save_legacy_h5(model: keras.Model, file: Any) -> None:
    """Save a model to an open file, as `model.save("x.h5")` does. Errors as in `capture`."""
    _require()
    if not hasattr(legacy_h5_format, "save_model_to_hdf5"):
        raise PrivateApiError("keras.src.legacy.saving.legacy_h5_format has no save_model_to_hdf5")
    legacy_h5_format.save_model_to_hdf5(model, file)


def variable_names(model: keras.Model) -> dict[str, str]:
    """Return the names of the optimizer's variables, which its weights lack, by their paths."""
    optimizer = getattr(model, "optimizer", None)
    return {} if optimizer is None else dict(_optimizer_names(optimizer, "optimizer"))


def repair_compile_settings(model: keras.Model) -> None:
    """Restore the optimizer in a model's compile settings after `model.save("x.h5")`.

    Keras 3.15 removes it: the next `.keras` file names none, and loads with RMSprop.
    """
    optimizer = getattr(model, "optimizer", None)
    config = getattr(getattr(model, "_compile_config", None), "config", None)
    if optimizer is not None and isinstance(config, dict) and "optimizer" not in config:
        config["optimizer"] = optimizer


def metric_direction(model: keras.Model, name: str) -> str | None:
    """Return `"min"` or `"max"` as the metric object declares it; None if unknown."""
    wanted = name.removeprefix("val_")
    for metric in _flatten(getattr(model, "metrics", [])):
        if getattr(metric, "name", None) == wanted:
            return {"up": "max", "down": "min"}.get(getattr(metric, "_direction", None) or "")
    return None


def find_fit_frame() -> FitFrame:
    """Find the `fit` on the stack of a callback's `on_train_begin`.

    Raises:
        PrivateApiError: If Keras has no `EpochIterator`.
    """
    try:
        from keras.src.trainers.epoch_iterator import EpochIterator
    except ImportError as error:  # pragma: no cover - another Keras
        raise PrivateApiError(str(error)) from error
    callbacks: keras.callbacks.CallbackList | None = None
    inside = False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            # Of nested lists, the outermost contains all callbacks.
            if callbacks is None or inside:
                callbacks, inside = caller, True
        elif callbacks is not None:
            inside = False
            iterator = frame.f_locals.get("epoch_iterator")
            if isinstance(iterator, EpochIterator):
                return FitFrame(callbacks, iterator, dict(frame.f_locals))
        frame = frame.f_back
    return FitFrame(callbacks, None)


def data_of(iterator: Any) -> tuple[str, Any]:
    """Return the kind of an `EpochIterator`'s data, and its `PyDataset`, if it is one.

    The kind is `"arrays"`, `"shuffled arrays"`, `"PyDataset"` or the name of another adapter.
    """
    adapter = getattr(iterator, "data_adapter", None)
    kind = type(adapter).__name__.removesuffix("Adapter")
    if kind == "PyDataset":
        return kind, getattr(adapter, "py_dataset", None)
    if kind == "ArrayData":
        return ("shuffled arrays" if getattr(adapter, "_shuffle", True) else "arrays"), None
    return kind, None


def expect_batches(iterator: Any, count: int) -> None:
    """Set the number of batches of the next epoch, and disable shuffling.

    By default, `fit` shuffles the batches of a `PyDataset` with Python's `random`.

    Raises:
        PrivateApiError: If the iterator or its adapter has changed.
    """
    adapter: Any = getattr(iterator, "data_adapter", None)
    if not (hasattr(iterator, "_num_batches") and hasattr(adapter, "shuffle")):
        raise PrivateApiError(f"{type(iterator).__name__} has no _num_batches, or no shuffle")
    iterator._num_batches = count
    adapter.shuffle = False


def build_metrics(model: keras.Model, batch: Any) -> None:
    """Create the variables of a compiled model's metrics, as the first step does.

    Args:
        model: A built model.
        batch: A batch of its data: (x, y) or (x, y, sample_weight).

    Raises:
        PrivateApiError: If Keras has no `_symbolic_build`.
    """
    if not hasattr(model, "_symbolic_build"):
        raise PrivateApiError("keras.Model has no _symbolic_build")
    model._symbolic_build(data_batch=batch)


def global_seed_state() -> Any:
    """Return the state of Keras's global seed generator; None if it is unused or unknown."""
    try:
        from keras.src.backend.common import global_state

        generator = global_state.get_global_attribute("global_seed_generator")
    except (ImportError, AttributeError):  # pragma: no cover - another Keras
        return None
    return None if generator is None else generator.state


def set_global_seed_state(value: Any) -> None:
    """Set the state of Keras's global seed generator.

    Raises:
        AttributeError, ImportError: If Keras has changed.
        ValueError: If the state has another shape.
    """
    from keras.src.random import seed_generator

    seed_generator.global_seed_generator().state.assign(value)


def _walk(
    model: keras.Model, asset_store: Any, copy: Copy, *, optimizer: bool = True
) -> list[Group]:
    _require()
    _fix_attribute_cache()
    store = _CapturingStore(copy)
    compiled = getattr(model, "optimizer", None)
    with _without_copies(compiled):
        saving_lib._save_state(
            model,
            weights_store=store,
            assets_store=asset_store,
            inner_path="",
            visited_saveables=set() if optimizer else {id(compiled)},
        )
    return store.groups


def _fix_attribute_cache() -> None:
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


@contextmanager
def _without_copies(optimizer: Any) -> Iterator[None]:
    """Have an optimizer pass its variables to the store without copying each first."""
    own = keras.optimizers.Optimizer.save_own_variables
    patched = []
    while optimizer is not None:
        if type(optimizer).save_own_variables is own:
            patched.append(optimizer)
        optimizer = getattr(optimizer, "inner_optimizer", None)
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


def _optimizer_names(optimizer: Any, path: str) -> Iterator[tuple[str, str]]:
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        yield from _optimizer_names(inner, f"{path}/inner_optimizer")
    for index, variable in enumerate(optimizer.variables):
        yield f"{path}/vars/{index}", variable.name


def _flatten(metrics: Any) -> Iterator[Any]:
    for metric in metrics:
        yield metric
        # Compiled metrics are in a wrapper that is a metric itself.
        yield from _flatten(getattr(metric, "metrics", []))


def _require() -> None:
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


# Attributes that change during training, by class.
CALLBACK_STATE: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
    ),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}

_UNKNOWN_OBJECT = (
    re.compile(r"Could not locate (?:class|function) '(?P<name>[^']+)'"),
    re.compile(r"Unknown \w+(?: \w+)?: '(?P<name>[^']+)'"),
)
_TERMINAL_CODE = re.compile(r"\x1b\[[\d;]*m")
_HEADING = re.compile(r"Exception encountered|.*Error encountered:$")
_UNSAFE = ("safe_mode", "unsafe deserialization", "arbitrary code")
_SKIPPED_OPTIMIZER = "Skipping variable loading for optimizer"
_SKIPPED_WEIGHTS = (".*objects could not be loaded", "Skipping loading weights")


def unknown_object(error: Exception) -> str | None:
    """Return the class or function that Keras could not find, if that was the error."""
    matches = (pattern.search(str(error)) for pattern in _UNKNOWN_OBJECT)
    return next((match["name"] for match in matches if match), None)


def is_unsafe(error: Exception) -> bool:
    """Whether Keras's safe mode rejected an object."""
    return any(sign in str(error) for sign in _UNSAFE)


def constructor_message(error: Exception) -> str | None:
    """Return the message of a constructor's error, which Keras appends to the configuration."""
    _, wrapped, message = str(error).rpartition("Exception encountered: ")
    return call_message(message) if wrapped else None


def call_message(error: Exception | str) -> str:
    """Return the first line of an error that a model's call raised, without heading and bold."""
    text = _TERMINAL_CODE.sub("", str(error))
    if text.startswith("Graph execution error"):
        # TensorFlow puts the reason between the stack and the node.
        text = text.partition("[[{{node")[0].rstrip().rpartition("\n")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if not _HEADING.match(line)), "")


@contextmanager
def ignoring_skipped_optimizer() -> Iterator[None]:
    """Ignore Keras's warning of an optimizer that it did not load: fingerprints detect that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_SKIPPED_OPTIMIZER)
        yield


@contextmanager
def ignoring_skipped_weights() -> Iterator[None]:
    """Ignore Keras's warnings of weights that it did not load: the caller reports them."""
    with warnings.catch_warnings():
        for message in (_SKIPPED_OPTIMIZER, *_SKIPPED_WEIGHTS):
            warnings.filterwarnings("ignore", message=message)
        yield


@contextmanager
def ignoring_legacy_format() -> Iterator[None]:
    """Ignore Keras's warning that HDF5 is a legacy format, which the user chose."""
    logger = logging.getLogger("absl")
    logger.addFilter(_is_not_about_hdf5)
    try:
        yield
    finally:
        logger.removeFilter(_is_not_about_hdf5)


def _is_not_about_hdf5(record: logging.LogRecord) -> bool:
    return "HDF5 file" not in record.getMessage()


def failed_before_step(error: BaseException) -> bool:
    """Whether a TensorFlow step failed at its first operation, which gets the data."""
    return "IteratorGetNext" in str(error)


_TF_CONTEXT = "tensorflow.python.eager.context"
_TF_GENERATORS = "tensorflow.python.ops.stateful_random_ops"


def tensorflow_random_state() -> dict[str, Any]:
    """Return the state of TensorFlow's global random generators.

    Raises:
        AttributeError, KeyError: If TensorFlow has changed.
    """
    context = sys.modules[_TF_CONTEXT].context()
    state: dict[str, Any] = {"seed": context._seed}
    # Operations without a seed draw one from it.
    if context._seed is not None and context._rng is not None:
        version, words, gauss = context._rng.getstate()
        state["operations"] = [version, np.array(words, dtype=np.uint32), gauss]
    generator = sys.modules[_TF_GENERATORS].global_generator
    if generator is not None:
        state["generator"] = np.array(generator.state)
        state["algorithm"] = int(generator.algorithm)
    return state


def set_tensorflow_random_state(state: Mapping[str, Any]) -> None:
    """Set the state of TensorFlow's global random generators. Imports TensorFlow.

    Raises:
        AttributeError, ImportError, KeyError: If TensorFlow has changed, or is not installed.
        TypeError, ValueError: If the state does not fit.
    """
    context = import_module(_TF_CONTEXT).context()
    random_of_tf = sys.modules["tensorflow"].random
    if state["seed"] != context._seed:
        random_of_tf.set_seed(state["seed"])
    if "operations" in state:
        version, words, gauss = state["operations"]
        context._rng.setstate((version, tuple(int(word) for word in words), gauss))
    if "generator" in state:
        generator = random_of_tf.Generator.from_state(state["generator"], state["algorithm"])
        random_of_tf.set_global_generator(generator)
