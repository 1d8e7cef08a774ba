"""Compares the layers of a user's model with those of a checkpoint, by their configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from mlflow_ckpt._model.capture import plain

# Of a built model, these have no effect, or their effect is compared otherwise.
_IGNORED = frozenset(
    (
        *("name", "trainable", "seed", "batch_shape", "build_input_shape", "quantization_config"),
        *("input_layers", "output_layers"),
    )
)
_IGNORED_ENDS = ("_initializer", "_constraint", "_regularizer")
_Description = Mapping[str, Any]


def differences(saved: _Description, own: _Description) -> Iterator[tuple[str, str]]:
    """Yield how the layers of two models of one class differ.

    Args:
        saved: The checkpoint's architecture.
        own: The architecture of the user's model.

    Yields:
        What differs, such as ``layer 'dense': `activation` ``, and how.
    """
    if saved.get("class_name") == own.get("class_name"):
        yield from _of_layers(saved, own)


def _of_layers(saved: _Description, own: _Description) -> Iterator[tuple[str, str]]:
    before, now = saved["config"], own["config"]
    label = f"layer {now['name']!r}" if "name" in now else "model"  # of the user's own class
    if saved["class_name"] != own["class_name"]:
        yield f"{label}", f"was a {saved['class_name']} and is a {own['class_name']}"
        return
    for key in {**before, **now}:
        ignored = key.endswith(_IGNORED_ENDS) and key != "activity_regularizer"
        if not ignored and key not in _IGNORED:
            yield from _of_values(f"{label}: `{key}`", before.get(key), now.get(key))


def _of_values(what: str, saved: Any, own: Any) -> Iterator[tuple[str, str]]:
    if _is_layer(saved) and _is_layer(own):
        yield from _of_layers(saved, own)
    elif isinstance(saved, list) and isinstance(own, list) and any(map(_is_layer, saved + own)):
        for before, now in zip_longest(saved, own):
            yield from _of_values(what, before, now)
    elif saved != own:
        yield what, f"was {_text(saved)} and is {_text(own)}"


def _is_layer(value: Any) -> bool:
    if not isinstance(value, Mapping) or "class_name" not in value:
        return False
    config = value.get("config")
    if not isinstance(config, Mapping) or "name" not in config:
        return False
    # Some give no dtype (Keras's `Pipeline`), and ones that are not built have no `build_config`.
    return "dtype" in config or "build_config" in value or value.get("module") == "keras.layers"


def _text(value: Any) -> str:
    return f"layer {value['config']['name']!r}" if _is_layer(value) else plain.text(value)
