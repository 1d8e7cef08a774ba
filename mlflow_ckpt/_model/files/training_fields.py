"""Checks the fields of `training_state.json`, which others may have written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from mlflow_ckpt._format.untrusted import fields
from mlflow_ckpt._format.untrusted.fields import count, flag, items, number, table, text, texts

_Check = Callable[[Any], Any]
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_IMAGES = ("channels_first", "channels_last")
# What `compile` stores in attributes that may be set again.
_SETTINGS: dict[str, tuple[type, ...]] = {
    "auto_scale_loss": (bool,),
    "run_eagerly": (bool,),
    "jit_compile": (bool, str),
    "steps_per_execution": (int,),
}
# Adapters of a higher rank are larger than any layer.
_HIGHEST_RANK = 1 << 16


def check(content: Mapping[str, Any]) -> None:
    """Check the fields that are plain, before any is used.

    Raises:
        LookupError, TypeError, ValueError: If one is missing, or not as docs/format.md says.
    """
    for name, required in _REQUIRED.items():
        required(content[name])
    for name, may_be in _OPTIONAL.items():
        if name in content:
            may_be(content[name])


def check_unpacked(content: Mapping[str, Any]) -> None:
    """Check the fields that hold arrays, once they do. Errors as in `check`."""
    for name in ("metrics", "dropped"):
        for array in items(content[name]):
            numbers(array)
    for held in items(content["state"]):
        _check_held(table(held))
    for name in ("attributes", "attributes_before"):
        for path in fields.optional(table, content[name]) or {}:
            _path(path)


def numbers(value: Any) -> Any:
    """Require an array of numbers, or a NumPy scalar."""
    if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind in "OSUMm":
        raise TypeError(f"expected an array of numbers, received {type(value).__name__}")
    return value


def _path(value: Any) -> str:
    """Require a path in a model, which leads to no internals of Python."""
    if any(part.startswith("__") for part in text(value).split("/")):
        raise ValueError(f"the path {value!r} leads into Python's internals")
    return str(value)


def _check_held(held: Mapping[str, Any]) -> None:
    path, kind, value = text(held["path"]), text(held["kind"]), held["value"]
    _path(path)
    if kind == "variable":
        numbers(value)
    elif kind == "adaptation":
        table(value)
        fields.optional(text, value["quantized"])
        rank = fields.optional(count, value["rank"])
        fields.optional(number, value.get("alpha"))
        if rank is not None and rank > _HIGHEST_RANK:
            raise ValueError(f"the rank {rank} of an adapter is higher than {_HIGHEST_RANK}")
    elif kind == "settings":
        for settings in table(value).values():
            table(settings)
    elif kind == "weight_decay":
        for name in texts(table(value)["variables"]):
            _path(name)
        fields.optional(text, value["names"])
    elif kind == "generator":
        table(value)


def _keras_config(value: Any) -> None:
    config = table(value)
    number(config["epsilon"])
    if config["floatx"] not in _FLOATS or config["image_data_format"] not in _IMAGES:
        raise ValueError(f"unknown settings of Keras {config!r}")


def _compile(value: Any) -> None:
    record = table(value)
    for name, setting in table(record.get("settings", {})).items():
        if name not in _SETTINGS or not isinstance(setting, _SETTINGS[name]):
            raise ValueError(f"unknown setting {name!r} of compile(): {setting!r}")
    for name in table(record.get("arguments", {})):
        _path(name)
    for why in table(record.get("unknown", {})).values():
        text(why)
    texts(record.get("metrics", []))
    fields.optional(table, record.get("optimizer"))


def _optimizers(value: Any) -> None:
    for path, record in table(value).items():
        _path(path)
        text(table(record)["class"])
        variables = fields.optional(texts, record["variables"])
        inner, parts = texts(record.get("inner", [])), fields.counts(record.get("parts", []))
        if inner and (len(parts) != len(variables or parts) or max(parts, default=0) >= len(inner)):
            raise ValueError(f"the parts of the optimizer {path} are not those of its variables")


def _layers(value: Any) -> None:
    count(table(value)["count"])
    fields.counts(value["frozen"])


def _data_state(value: Any) -> None:
    saved = table(value)
    text(saved["kind"])
    flag(saved["persists"])
    count(saved["pass"])
    count(saved["batch"])
    fields.optional(count, saved["length"])
    fields.optional(text, saved["problem"])


def _settings(value: Any) -> None:
    for beside in items(table(value).get("beside", [])):
        table(beside)


def _table_of_texts(value: Any) -> None:
    for item in table(value).values():
        text(item)


def _or_null(check_value: _Check) -> _Check:
    return partial(fields.optional, check_value)


_REQUIRED: dict[str, _Check] = {
    "epoch": count,
    "step": count,
    "compile_config": _or_null(table),
}
_OPTIONAL: dict[str, _Check] = {
    "batch": count,
    "steps": _or_null(count),
    "epochs": _or_null(count),
    "dtype_policy": _or_null(text),
    "keras_config": _or_null(_keras_config),
    "compile_before": table,
    "compile": _or_null(_compile),
    "optimizers": _or_null(_optimizers),
    "layers": _or_null(_layers),
    "random": _or_null(table),
    "validation_pending": flag,
    "callbacks": _or_null(table),
    "unsaved": texts,
    "stopped": flag,
    "data": _or_null(table),
    "data_state": _or_null(_data_state),
    "fit": _or_null(table),
    "code": _table_of_texts,
    "settings": _or_null(_settings),
}
