"""Reads architectures, and compares them layer by layer. Needs no Keras."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.diff import ArchitectureDifference
from mlflow_ckpt._format.untrusted import json_text, regular_file
from mlflow_ckpt.errors import IntegrityError

Tree = Mapping[str, Any]
Key = tuple[str | int, ...]
Pairs = list[tuple[Tree | None, Tree | None]]
# Layers with their positions in the model.
Indexed = Sequence[tuple[int, Tree]]
_ABSENT = object()
# Keys under which a model refers to its layers by name.
_CONNECTIONS = {"inbound_nodes", "input_layers", "output_layers"}


def parse_architecture(text: str | bytes) -> dict[str, Any]:
    """Parse the text of `architecture.json`.

    Raises:
        IntegrityError: If it is not a JSON object.
    """
    try:
        architecture = json_text.parse(text)
    except ValueError as error:
        raise IntegrityError(f"architecture.json is not JSON: {str(error).rstrip('.')}.") from error
    if not isinstance(architecture, dict):
        raise IntegrityError("architecture.json holds no architecture. Expected an object.")
    return architecture


def read_architecture(directory: Path) -> dict[str, Any]:
    """Read `architecture.json` in a checkpoint's directory.

    Raises:
        IntegrityError: If it is not a JSON object.
        OSError: If the file cannot be read.
    """
    return parse_architecture(regular_file.read(directory / layout.ARCHITECTURE_JSON))


def diff_architectures(a: Tree, b: Tree) -> tuple[ArchitectureDifference, ...]:
    """Compare two architectures, as `architecture.json` holds them, layer by layer.

    Layers that the user named are matched by name. Names that Keras generated depend on what the
    process built before, so those layers are matched by settings, then by class, in their order.
    """
    return tuple(_diff_layer(a, b, "", {}))


def _diff_layer(
    a: Tree, b: Tree, path: str, renamed: Mapping[str, str]
) -> Iterator[ArchitectureDifference]:
    """Yield the differences of a layer or model, then those of its layers.

    Args:
        a: Its entry in the first architecture.
        b: Its entry in the second.
        path: Its name, prefixed by the models that contain it.
        renamed: New names of connected layers, by their old names.
    """
    pairs = _pair(_layers(a), _layers(b))
    matched = [(x, y) for x, y in pairs if x is not None and y is not None]
    inner = {_name(x): _name(y) for x, y in matched}
    before, after = _values(a, {**renamed, **inner}), _values(b, {})
    yield from _diff_values(dict(before), dict(after), path)
    kept = [_name(y) for _, y in matched]
    order = [_name(layer) for layer in _layers(b) if _name(layer) in kept]
    if order != kept:  # no difference of a single layer shows this
        yield ArchitectureDifference(path, "changed", "config.layers", kept, order)
    for x, y in pairs:
        inside = "/".join(filter(None, (path, _name(x or y))))
        if x is not None and y is not None:
            yield from _diff_layer(x, y, inside, inner)
        else:
            kind = "layer added" if x is None else "layer removed"
            yield ArchitectureDifference(inside, kind, "", _class(x), _class(y))


def _diff_values(
    before: Mapping[Key, Any], after: Mapping[Key, Any], path: str
) -> Iterator[ArchitectureDifference]:
    for key in {**before, **after}:
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if old is _ABSENT:
            yield ArchitectureDifference(path, "added", _dotted(key), None, new)
        elif new is _ABSENT:
            yield ArchitectureDifference(path, "removed", _dotted(key), old, None)
        # Compared as JSON, like the digests: 1, 1.0 and true differ.
        elif json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
            yield ArchitectureDifference(path, "changed", _dotted(key), old, new)


def _pair(a: Sequence[Tree], b: Sequence[Tree]) -> Pairs:
    """Pair the layers of two models, in the order of the first; None for a missing partner."""
    named_a, unnamed_a = _split_by_naming(a)
    named_b, unnamed_b = _split_by_naming(b)
    partners = {named_a[name]: named_b[name] for name in named_a.keys() & named_b.keys()}
    partners |= _match_by_order(unnamed_a, unnamed_b)
    pairs: Pairs = [(x, b[partners[i]] if i in partners else None) for i, x in enumerate(a)]
    matched = set(partners.values())
    return [*pairs, *((None, y) for i, y in enumerate(b) if i not in matched)]


def _split_by_naming(layers: Sequence[Tree]) -> tuple[dict[str, int], Indexed]:
    """Return the positions of the layers that the user named, and the layers that Keras named."""
    named: dict[str, int] = {}
    unnamed: list[tuple[int, Tree]] = []
    for i, layer in enumerate(layers):
        if _is_named_by_keras(layer):
            unnamed.append((i, layer))
        else:
            named[_name(layer)] = i
    return named, unnamed


def _match_by_order(a: Indexed, b: Indexed) -> dict[int, int]:
    """Match layers by settings, then by class between those; positions in `b` by those in `a`."""
    matches: dict[int, int] = {}
    for equal, block_a, block_b in _blocks(a, b, _settings):
        # A layer whose settings changed still has its class.
        blocks = [(True, block_a, block_b)] if equal else _blocks(block_a, block_b, _class)
        for alike, layers_a, layers_b in blocks:
            if alike:
                matches |= {i: j for (i, _), (j, _) in zip(layers_a, layers_b, strict=True)}
    return matches


def _blocks(
    a: Indexed, b: Indexed, key: Callable[[Tree], Any]
) -> Iterator[tuple[bool, Indexed, Indexed]]:
    """Align two sequences of layers by a key; yield blocks in order, and whether they are equal."""
    keys_a, keys_b = [key(layer) for _, layer in a], [key(layer) for _, layer in b]
    matcher = difflib.SequenceMatcher(None, keys_a, keys_b, autojunk=False)
    for tag, start_a, end_a, start_b, end_b in matcher.get_opcodes():
        yield tag == "equal", a[start_a:end_a], b[start_b:end_b]


def _layers(entry: Tree) -> list[Tree]:
    config = entry.get("config")
    layers = config.get("layers") if isinstance(config, dict) else None
    whole = isinstance(layers, list) and all(
        isinstance(layer, dict) and isinstance(layer.get("config"), dict) and _name(layer)
        for layer in layers
    )
    return list(layers) if whole and layers else []


def _name(entry: Tree | None) -> str:
    config = None if entry is None else entry.get("config")
    return str(config.get("name") or "") if isinstance(config, dict) else ""


def _class(entry: Tree | None) -> str | None:
    return None if entry is None else str(entry.get("class_name"))


def _settings(entry: Tree) -> str:
    config = {key: value for key, value in entry["config"].items() if key != "name"}
    return json.dumps([_class(entry), config], sort_keys=True)


def _is_named_by_keras(entry: Tree) -> bool:
    """Whether Keras generated the layer's name from its class: `conv2d`, `conv2d_3`."""
    snake = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", str(_class(entry)))
    snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", snake).lower()
    return re.fullmatch(rf"{re.escape(snake)}(_\d+)?", _name(entry)) is not None


def _values(entry: Tree, renamed: Mapping[str, str]) -> Iterator[tuple[Key, Any]]:
    """Yield the paths and values in a layer's entry, without those of its own layers."""
    layers = bool(_layers(entry))
    for key, value in entry.items():
        if key == "name" and value == _name(entry):
            continue  # the layer's configuration has it too
        for path, leaf in _leaves(value, (key,), renamed):
            if not (layers and path[:2] == ("config", "layers")):
                yield path, leaf


def _leaves(value: Any, path: Key, renamed: Mapping[str, str]) -> Iterator[tuple[Key, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key), renamed)
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for i, item in enumerate(value):
            yield from _leaves(item, (*path, i), renamed)
    elif _CONNECTIONS.intersection(map(str, path)):
        yield path, _with_new_names(value, renamed)
    else:
        yield path, value


def _with_new_names(value: Any, renamed: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_with_new_names(item, renamed) for item in value]
    return renamed.get(value, value) if isinstance(value, str) else value


def _dotted(key: Key) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")
