"""Compares the layers of a user's model with those of a checkpoint, by their configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
_Difference = tuple[str, str]


def differences(saved: _Description, own: _Description) -> Iterator[_Difference]:
    """Yield how the layers of two models of one class differ.

    Args:
        saved: The checkpoint's architecture.
        own: The architecture of the user's model.

    Yields:
        What differs, such as ``layer 'dense': `activation` ``, and how.
    """
    if saved.get("class_name") == own.get("class_name"):
        yield from _of_layers(saved, own)


def _of_layers(saved: _Description, own: _Description) -> Iterator[_Difference]:
    before, now = saved["config"], own["config"]
    name = _name(own)
    label = "model" if name is None else f"layer {name!r}"  # one of the user's own class
    if saved["class_name"] != own["class_name"]:
        yield f"{label}", f"was a {saved['class_name']} and is a {own['class_name']}"
        return
    for key in {**before, **now}:
        ignored = key.endswith(_IGNORED_ENDS) and key != "activity_regularizer"
        if not ignored and key not in _IGNORED:
            yield from _of_values(f"{label}: `{key}`", before.get(key), now.get(key))
    yield from _of_connections(label, before, now)


def _of_connections(label: str, saved: _Description, own: _Description) -> Iterator[_Difference]:
    """Compare what the layers of two functional models are called on, and what they return."""
    before, now = _Graph(saved), _Graph(own)
    if len(before.names) != len(now.names):
        return  # which layers differ is said
    for at, name in enumerate(now.names):
        if before.calls[at] != now.calls[at]:
            was, is_ = before.text(before.calls[at]), now.text(now.calls[at])
            yield f"layer {name!r}: inputs", f"were {was} and are {is_}"
    for key in ("input_layers", "output_layers"):
        first, second = before.ends(key), now.ends(key)
        if first != second:
            was, is_ = before.text(first), now.text(second)
            yield f"{label}: `{key}`", f"were {was} and are {is_}"


@dataclass(frozen=True)
class _Tensor:
    """A tensor of a functional model: the place of the layer that returned it, and which it is."""

    layer: int
    which: tuple[int, ...]


class _Graph:
    """How the layers of a functional model are called, without names, which Keras counts up.

    Attributes:
        names: The layers; empty for a model of another class.
        calls: What each is called with.
    """

    def __init__(self, config: _Description) -> None:
        layers = config.get("layers")
        if not isinstance(layers, list) or not all(map(_is_node, layers)):
            layers = []
        self.names = [layer["name"] for layer in layers]
        self._place = {name: at for at, name in enumerate(self.names)}
        self._config = config
        self.calls = [self._placed(layer["inbound_nodes"]) for layer in layers]

    def ends(self, key: str) -> Any:
        """Return the tensors that a model is called on, or that it returns."""
        return self._placed(self._config.get(key)) if self.names else None

    def text(self, value: Any) -> str:
        """Return the layers that returned what is described."""
        return plain.text([self.names[tensor.layer] for tensor in _tensors(value)])

    def _placed(self, value: Any) -> Any:
        if isinstance(value, list):
            if len(value) == 3 and isinstance(value[0], str) and value[0] in self._place:
                return _Tensor(self._place[value[0]], tuple(value[1:]))
            return [self._placed(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        if value.get("class_name") == "__keras_tensor__":
            return self._placed(value["config"]["keras_history"])
        return {key: self._placed(item) for key, item in value.items() if key != "shared_object_id"}


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and "inbound_nodes" in value and "name" in value


def _tensors(value: Any) -> Iterator[_Tensor]:
    if isinstance(value, _Tensor):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _of_values(what: str, saved: Any, own: Any) -> Iterator[_Difference]:
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
    if not isinstance(config, Mapping):
        return False
    if "inbound_nodes" in value or "build_config" in value:  # operations too, of a functional model
        return True
    # Some give no dtype, such as Keras's `Pipeline`.
    return "name" in config and ("dtype" in config or value.get("module") == "keras.layers")


def _name(layer: _Description) -> Any:
    """Return the name of a layer; one of the user's own may have none in its configuration."""
    return layer["config"].get("name", layer.get("name"))


def _text(value: Any) -> str:
    return f"layer {_name(value)!r}" if _is_layer(value) else plain.text(value)
