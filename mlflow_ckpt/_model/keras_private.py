"""All uses of Keras's and TensorFlow's private names and texts, and the fallbacks if they change.

- `saving_lib._save_state`, `_serialize_model_as_json`, `H5IOStore` and `DiskIOStore` with its
  `working_dir` capture what `model.save` would write. Fallback: the public `model.save` and
  `save_weights`, slower, with a warning.
- The local variable `saveable` of `_save_state` tells which object saves a tensor. Fallback: errors
  do not name its class.
- `legacy_h5_format.save_model_to_hdf5` saves legacy `.h5` to memory. Fallback: as above.
- `saving_attr_skipset_*` and `saving_attr_skiplist_*` of `global_state` speed up the capture.
  Fallback: it is as slow as Keras's own.
- `EpochIterator`, and the local variables `self`, `epoch_iterator` and `epoch` in the frames of
  `fit`, give the other callbacks, the data and the epoch. Fallback: they are unknown, which
  resuming reports, and an `EpochDataset` without `MlflowCheckpoint` repeats one order: it warns.
- `EpochIterator.data_adapter`, its class name, `_shuffle` and `py_dataset` identify the data.
  Fallback: arrays count as shuffled; an `EpochDataset` is not recognized.
- `EpochIterator._num_batches` and its adapter's `shuffle` serve `EpochDataset`, and
  `Model._symbolic_build` its metrics within an epoch. No fallback: `PrivateApiError` ends `fit`.
- `Model._compile_config.config` is repaired after a legacy save. Fallback: no repair.
- `CallbackList._futures` are the reports of steps that Keras makes on other threads. Fallback: one
  that is late is not waited for.
- `serialization_lib.ObjectSharingScope` keeps a layer that a model holds twice one layer. Fallback:
  the split form of such a model does not load.
- `Layer._flatten_layers` finds frozen layers. Fallback: as Keras's configuration has them.
- `Layer._tracker` is unlocked while a built model is compiled again. Fallback: a class whose own
  `compile` creates metrics cannot be compiled again.
- `Optimizer._trainable_variables` are those an optimizer was built with. Fallback: none, and the
  optimizer is built with the model's trainable variables.
- `MultiOptimizer._optimizer_map` tells which optimizer a variable belongs to. Fallback: as Keras
  assigns them.
- `SwapEMAWeights._finalize_ema_values` and an optimizer's `_model_variables_moving_average` keep
  the weights that the former drops. Fallback: resuming from there is reported.
- `Metric._direction` is `"up"` or `"down"`. Fallback: inferred from the metric's name.
- `Model._compile_config.config` also holds the arguments of `compile`. Fallback: the user's
  functions among them are unknown, and so are those that a model keeps in no attribute.
- `global_state` has the settings of a thread, and `_SHARED` are the modules with which Keras draws
  default seeds and warns. Fallback: no checkpoint is loaded on trial.
- `global_seed_generator`, in `global_state` and `seed_generator`, has Keras's global random state.
  Fallback: it is not saved; a saved one is reported as not restored.
- Attributes of callbacks (`CALLBACK_STATE`) are their states. Fallback: a missing one is None.
- `_seed` and `_rng` of TensorFlow's `context`, and `global_generator` of `stateful_random_ops`, are
  its random state. Fallback: it is reported as not restored.
- Texts of Keras's and TensorFlow's errors, and the terminal codes in them, identify an unknown
  class, safe mode, and the errors of constructors and calls. Fallback: the error's first line.
- Texts of Keras's warnings and log records suppress them. Fallback: they are shown.
- `get_attr_skipset` of `saving_lib`, and names of attributes of `Trainer`, `Functional` and layers
  tell Keras's attributes from the user's. Fallback: some of Keras's are compared as well.
- `_layers`, `_trainable_variables`, `_non_trainable_variables`, `_seed_generators`, `_variables`
  and `CompileMetrics._user_metrics` lead to what is no attribute. Fallback: it is not looked at.
- `_exclude_from_weight_decay`, its pattern and cache, and `_var_key` of optimizers are what they
  exclude from weight decay. Fallback: they exclude nothing.
- `lora_enabled`, `lora_rank` and `lora_alpha` of layers. Fallback: no layer has adapters.
- `saving_lib._load_state`, `_raise_loading_failure`, `_VARS_FNAME_H5` and `_ASSETS_DIRNAME` load an
  archive into a model. No fallback: a model with adapters that its configuration lacks is refused.
- `IteratorGetNext` in TensorFlow's errors shows that the step changed nothing. Fallback: the model
  counts as partly updated, and is not saved.
"""

from __future__ import annotations

import inspect
import logging
import random
import re
import shutil
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import keras
import numpy as np

from mlflow_ckpt._model.files.captured import CapturedState, Group
from mlflow_ckpt._warn import mention_untested

TESTED_WITH = ("3.15",)
# Copies a tensor to the host, given its path in the weights file and its value.
Copy = Callable[[str, Any], np.ndarray[Any, Any]]
_NOTHING = np.empty(0)

try:
    from keras.src.legacy.saving import legacy_h5_format
    from keras.src.saving import saving_lib, serialization_lib

    _StoreBase: Any = saving_lib.H5IOStore
    _AssetStoreBase: Any = saving_lib.DiskIOStore
    _IMPORT_PROBLEM: Exception | None = None
except (ImportError, AttributeError) as _error:  # pragma: no cover - another Keras
    saving_lib = serialization_lib = legacy_h5_format = None
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
    _require()
    asset_store = _AssetStore()
    try:
        store = _walk(model, asset_store, copy, optimizer=optimizer, optimizers=optimizers)
        config_json, metadata_json = saving_lib._serialize_model_as_json(model)
        kept = None
        assets = asset_store.directory
        if assets is not None and any(item.is_file() for item in assets.rglob("*")):
            kept = Path(shutil.copytree(assets, workspace() / "assets"))
    finally:
        asset_store.close()
    return CapturedState(store.groups, config_json, metadata_json, kept, store.handed_over)


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


# Keras's settings of a thread that loading depends on.
_SETTINGS = ("custom_objects_scope_dict", "dtype_policy", "safe_mode_saving")
# Modules that Keras uses while it loads, and whose effects are not limited to a thread.
_SHARED = (
    ("keras.src.random.seed_generator", "python_random"),
    ("keras.src.saving.saving_lib", "warnings"),
    ("keras.src.optimizers.base_optimizer", "warnings"),
    ("keras.src.trainers.trainer", "warnings"),
)
_thread = threading.local()


class _OfThread:
    """A module, but for another object on a thread that is apart from training."""

    def __init__(self, shared: Any, own: Any) -> None:
        self._shared, self._own = shared, own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own if is_apart() else self._shared, name)


def is_apart() -> bool:
    """Whether this thread is in `apart_from_training`."""
    return getattr(_thread, "apart", False)


def thread_settings() -> dict[str, Any]:
    """Return Keras's settings of this thread that loading depends on."""
    try:
        from keras.src.backend.common import global_state
    except ImportError:  # pragma: no cover - another Keras
        return {}
    return {name: global_state.get_global_attribute(name) for name in _SETTINGS}


@contextmanager
def apart_from_training(settings: Mapping[str, Any]) -> Iterator[None]:
    """Build models on another thread without effect on a training, on the CPU.

    Keras counts names and keeps its settings by thread, but draws default seeds from Python's
    global generator, and warns through filters that are global too.

    Args:
        settings: From `thread_settings` on the thread that trains.

    Raises:
        PrivateApiError: If Keras has changed.
    """
    own = {"python_random": random.Random(0), "warnings": SimpleNamespace(warn=_ignore)}  # noqa: S311
    try:
        from keras.src.backend.common import global_state

        modules = [(import_module(name), attribute) for name, attribute in _SHARED]
        shared = [getattr(module, attribute) for module, attribute in modules]
    except (AttributeError, ImportError) as error:  # pragma: no cover - another Keras
        raise PrivateApiError(str(error)) from error
    for (module, attribute), value in zip(modules, shared, strict=True):
        setattr(module, attribute, _OfThread(value, own[attribute]))
    for name, value in settings.items():
        global_state.set_global_attribute(name, value)
    _thread.apart = True
    # PyTorch copies a parameter of the device "cpu" to "cpu:0", to a tensor that is no parameter.
    device = "cpu" if keras.config.backend() == "torch" else "cpu:0"
    try:
        with keras.device(device):
            yield
    finally:
        _thread.apart = False
        for (module, attribute), value in zip(modules, shared, strict=True):
            setattr(module, attribute, value)


def _ignore(*_: Any, **__: Any) -> None:
    pass


def await_reports(callbacks: keras.callbacks.CallbackList | None) -> None:
    """Wait until callbacks have been told of all steps, which Keras may do on another thread."""
    wait(list(getattr(callbacks, "_futures", ())))


def running_epoch() -> tuple[int, Any] | None:
    """Return the epoch of the `fit` on the stack, and its `EpochIterator`; None outside of one."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        iterator, epoch = frame.f_locals.get("epoch_iterator"), frame.f_locals.get("epoch")
        if iterator is not None:
            return (epoch, iterator) if isinstance(epoch, int) else None
        frame = frame.f_back
    return None


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


def metrics_results(model: keras.Model) -> dict[str, float]:
    """Return the values of a model's metrics; none if Keras has no `get_metrics_result`."""
    get = getattr(model, "get_metrics_result", dict)
    return {name: float(keras.ops.convert_to_numpy(value)) for name, value in get().items()}


def moving_averages(model: keras.Model) -> list[Any]:
    """Return the moving averages of a model's weights, optimizer by optimizer."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    found = []
    for item in getattr(optimizer, "optimizers", None) or [optimizer]:
        if getattr(item, "use_ema", False):
            found += list(getattr(item, "_model_variables_moving_average", []))
    return found


def before_finalizing(callback: Any, function: Callable[[], None]) -> None:
    """Call a function once, before a `SwapEMAWeights` overwrites the averages for good."""

    def finalize() -> None:
        del callback._finalize_ema_values
        function()
        callback._finalize_ema_values()

    if hasattr(callback, "_finalize_ema_values"):
        callback._finalize_ema_values = finalize


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


def all_layers(model: keras.Model) -> list[Any] | None:
    """Return a model's layers and their sublayers, parents first; None if unknown."""
    flatten = getattr(model, "_flatten_layers", None)
    return None if flatten is None else list(flatten(include_self=True))


def sharing_objects() -> AbstractContextManager[Any]:
    """Have Keras mark objects that it describes twice, and build such objects once.

    `model.save` does so, `to_json` does not.
    """
    scope = getattr(serialization_lib, "ObjectSharingScope", None)
    return nullcontext() if scope is None else scope()


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Return the arguments that Keras's `compile` was called with; empty if unknown."""
    config = getattr(getattr(model, "_compile_config", None), "config", None)
    return dict(config) if isinstance(config, dict) else {}


@contextmanager
def unlocked(model: keras.Model) -> Iterator[None]:
    """Let a built model take new metrics and variables, as one does that is compiled first."""
    tracker: Any = getattr(model, "_tracker", None)
    if not getattr(tracker, "locked", False):
        yield
        return
    tracker.unlock()
    try:
        yield
    finally:
        tracker.lock()


def optimized_variables(optimizer: Any) -> list[Any]:
    """Return the variables that a built optimizer was built with; empty if unknown."""
    return list(getattr(optimizer, "_trainable_variables", ()))


def inner_optimizers(optimizer: Any) -> list[Any]:
    """Return the optimizers among which a `MultiOptimizer` divides the variables."""
    multi = getattr(keras.optimizers, "MultiOptimizer", None)
    return list(optimizer.optimizers) if multi and isinstance(optimizer, multi) else []


@contextmanager
def dividing(optimizer: Any, choose: Callable[[Any], Any]) -> Iterator[None]:
    """Have a `MultiOptimizer` divide variables by a function, not by the paths of variables.

    A variable's path contains the model's name, which a reloaded model's variables lack.
    """
    before = getattr(optimizer, "_optimizer_map", None)
    optimizer._optimizer_map = choose
    try:
        yield
    finally:
        optimizer._optimizer_map = before


def _walk(
    model: keras.Model,
    asset_store: Any,
    copy: Copy,
    *,
    optimizer: bool = True,
    optimizers: Iterable[Any] = (),
    store: type[_CapturingStore] | None = None,
) -> _CapturingStore:
    _require()
    _fix_attribute_cache()
    filled = (store or _CapturingStore)(copy)
    compiled = getattr(model, "optimizer", None)
    with _without_copies(compiled, *optimizers):
        saving_lib._save_state(
            model,
            weights_store=filled,
            assets_store=asset_store,
            inner_path="",
            visited_saveables=set() if optimizer else {id(compiled)},
        )
    return filled


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
def _without_copies(*optimizers: Any) -> Iterator[None]:
    """Have optimizers pass their variables to the store without copying each first."""
    own = keras.optimizers.Optimizer.save_own_variables
    found: dict[int, Any] = {}
    waiting = [optimizer for optimizer in optimizers if optimizer is not None]
    while waiting:
        item = waiting.pop()
        found[id(item)] = item
        inner = getattr(item, "inner_optimizer", None)
        waiting += [*inner_optimizers(item), *([] if inner is None else [inner])]
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


def is_known() -> bool:
    """Whether Keras's saving code is the one that this file knows."""
    try:
        _require()
    except PrivateApiError:
        return False
    return True


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


def ignoring_skipped_optimizer() -> AbstractContextManager[None]:
    """Ignore Keras's warning of an optimizer that it did not load: fingerprints detect that."""
    return _ignoring(_SKIPPED_OPTIMIZER)


def ignoring_skipped_weights() -> AbstractContextManager[None]:
    """Ignore Keras's warnings of weights that it did not load: the caller reports them."""
    return _ignoring(_SKIPPED_OPTIMIZER, *_SKIPPED_WEIGHTS)


@contextmanager
def _ignoring(*messages: str) -> Iterator[None]:
    if is_apart():  # filters are global, and need none there
        yield
        return
    with warnings.catch_warnings():
        for message in messages:
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


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Attributes of `Trainer` and of models that hold no state of the user's.
_TRAINER = _words("""
    _compile_config _compile_loss _compile_metrics _compiled_trainable_state
    _compute_loss_has_training_arg _distribute_strategy _eval_epoch_iterator _initial_epoch
    _jax_state _jax_state_synced _jit_compile _loss_tracker _metrics _run_eagerly compiled history
    jit_compile make_predict_function make_test_function make_train_function predict_function
    run_eagerly steps_per_execution stop_evaluating stop_predicting stop_training test_function
    train_function unrolled_steps_per_execution
""")
_FUNCTIONAL = _words("""
    _functional _inputs _inputs_struct _manual_input_spec _nnx_op_mapping _nodes _nodes_by_depth
    _operations _operations_by_depth _outputs _outputs_struct _tensor_usage_count nnx_operations
    operations output_names
""")
# Of classes that layers inherit from, and of layers themselves, or saved in another way.
_INHERITED = _words("""
    _auto_config _backend_generators _dtype_policy _torch_params _tracker build input_spec quantize
    training _exclude_from_weight_decay _exclude_from_weight_decay_cache
    _exclude_from_weight_decay_pattern lora_enabled lora_rank quantization_config
""")
# On PyTorch, each layer also has the values of its variables in a module of this name.
TORCH_PARAMETERS = "_torch_params"
# Lists in which objects keep what they track, whether or not it is an attribute as well.
_TRACKED = (
    "_layers",
    "_trainable_variables",
    "_non_trainable_variables",
    "_seed_generators",
    "_parameters",
    "_buffers",
    "_modules",
)


def own_attributes(item: Any) -> frozenset[str]:
    """Return the names of a Keras object's attributes that Keras manages, and no user does."""
    return _managed(item._obj_type(), isinstance(item, keras.Model))


@lru_cache(maxsize=32)
def _managed(kind: str, is_model: bool) -> frozenset[str]:
    managed = set(_INHERITED)
    if saving_lib is not None and hasattr(saving_lib, "get_attr_skipset"):
        _fix_attribute_cache()
        managed |= saving_lib.get_attr_skipset(kind)
    if is_model:
        managed |= _TRAINER | _FUNCTIONAL
    return frozenset(managed)


def has_layers_in_order(item: Any) -> bool:
    """Whether an object is a model whose configuration has the order of its layers."""
    kind = item._obj_type() if hasattr(item, "_obj_type") else None
    return kind in ("Functional", "Sequential")


def tracked_lists(item: Any) -> Iterator[tuple[str, Any]]:
    """Yield the lists in which a Keras object keeps its layers, variables and generators."""
    attributes = vars(item)
    if isinstance(item, keras.optimizers.Optimizer):
        # Its lists of trainable variables are those of the model.
        yield "_variables", attributes.get("_variables", [])
        schedule = attributes.get("_learning_rate")
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            yield "_learning_rate", schedule
        return
    for name in _TRACKED:
        if attributes.get(name):
            yield name, attributes[name]


def metrics_given(model: keras.Model) -> Any:
    """Return the metrics that a model was compiled with; None if there are none."""
    return getattr(getattr(model, "_compile_metrics", None), "_user_metrics", None)


@dataclass(frozen=True)
class WeightDecay:
    """What an optimizer excludes from weight decay.

    Attributes:
        keys: Keys of the excluded variables, as `variable_key` returns them.
        pattern: Regular expression that the names of excluded variables match; None for none.
    """

    keys: frozenset[Any]
    pattern: str | None


def weight_decay_of(optimizer: Any) -> WeightDecay | None:
    """Return what an optimizer excludes from weight decay; None if it excludes nothing."""
    keys = getattr(optimizer, "_exclude_from_weight_decay", None)
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    if not keys and pattern is None:
        return None
    return WeightDecay(frozenset(keys or ()), None if pattern is None else pattern.pattern)


def exclude_from_weight_decay(optimizer: Any, excluded: WeightDecay) -> None:
    """Set what an optimizer that is already built excludes from weight decay."""
    optimizer._exclude_from_weight_decay = set(excluded.keys)
    optimizer._exclude_from_weight_decay_pattern = (
        None if excluded.pattern is None else re.compile(excluded.pattern)
    )
    optimizer._exclude_from_weight_decay_cache = {}


def adaptation_of(layer: Any) -> dict[str, Any] | None:
    """Return how a layer was quantized, and given LoRA adapters; None if it was not."""
    rank = getattr(layer, "lora_rank", None) if getattr(layer, "lora_enabled", False) else None
    mode = getattr(layer, "quantization_mode", None)
    if rank is None and mode is None:
        return None
    return {"quantized": mode, "rank": rank, "alpha": getattr(layer, "lora_alpha", None)}


def adapt(layer: Any, wanted: Mapping[str, Any]) -> None:
    """Quantize a built layer, and give it LoRA adapters, unless it is so already."""
    if wanted["quantized"] is not None and layer.quantization_mode is None:
        layer.quantize(wanted["quantized"])
    if wanted["rank"] is not None and not layer.lora_enabled:
        layer.enable_lora(wanted["rank"], lora_alpha=wanted["alpha"])


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


def variable_key(optimizer: Any, variable: keras.Variable) -> Any:
    """Return the key under which an optimizer knows a variable; None if Keras has changed."""
    key = getattr(optimizer, "_var_key", None)
    return None if key is None else key(variable)


def runs_compiled(model: keras.Model) -> bool:
    """Whether the training step runs as a graph, which Python's code only made."""
    if getattr(model, "run_eagerly", False):
        return False
    if keras.config.backend() == "torch":
        return bool(getattr(model, "jit_compile", False))
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is None or not tensorflow.config.functions_run_eagerly()


def tensorflow_is_seeded() -> bool:
    """Whether TensorFlow's operations draw their seeds from a generator that is restored."""
    context = sys.modules.get(_TF_CONTEXT)
    return context is not None and getattr(context.context(), "_seed", None) is not None
