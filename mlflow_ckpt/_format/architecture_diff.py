"""What differs between two architectures, layer by layer. Needs no Keras."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlflow_ckpt._format.diff import ArchitectureDifference

Tree = Mapping[str, Any]
Key = tuple[str | int, ...]
Pairs = list[tuple[Tree | None, Tree | None]]
_ABSENT = object()
# Where a model says how its layers are connected, by their names.
_CONNECTIONS = {"inbound_nodes", "input_layers", "output_layers"}


def diff_architectures(a: Tree, b: Tree) -> tuple[ArchitectureDifference, ...]:
    """Compare two architectures, as `architecture.json` holds them, layer by layer.

    Layers meet by the names that a person gave them. Those that Keras named, which depend on what
    the process had built before, meet by their settings, then by their classes, in their order.
    """
    return tuple(_diff_layer(a, b, "", {}))


def _diff_layer(
    a: Tree, b: Tree, path: str, renamed: Mapping[str, str]
) -> Iterator[ArchitectureDifference]:
    """Yield the differences of a layer or model, then those of its layers.

    Args:
        a: Its entry in the first architecture.
        b: Its entry in the second.
        path: Its name, with the models that it is in.
        renamed: New names by old ones, of layers that are connected to it.
    """
    pairs = _pair(_layers(a), _layers(b))
    inner = {_name(x): _name(y) for x, y in pairs if x is not None and y is not None}
    before = dict(_values(a, {**renamed, **inner}))
    after = dict(_values(b, {}))
    for key in {**before, **after}:
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        # As JSON: 1, 1.0 and true are three values, which have digests of their own.
        if old is _ABSENT:
            yield ArchitectureDifference(path, "added", _dotted(key), None, new)
        elif new is _ABSENT:
            yield ArchitectureDifference(path, "removed", _dotted(key), old, None)
        elif json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
            yield ArchitectureDifference(path, "changed", _dotted(key), old, new)
    kept = [_name(y) for x, y in pairs if x is not None and y is not None]
    order = [_name(y) for y in _layers(b) if _name(y) in kept]
    if order != kept:  # what is told of single layers does not tell this
        yield ArchitectureDifference(path, "changed", "config.layers", kept, order)
    for x, y in pairs:
        inside = "/".join(filter(None, (path, _name(x or y))))
        if x is not None and y is not None:
            yield from _diff_layer(x, y, inside, inner)
        else:
            kind = "layer added" if x is None else "layer removed"
            yield ArchitectureDifference(inside, kind, "", _class(x), _class(y))


def _pair(a: Sequence[Tree], b: Sequence[Tree]) -> Pairs:
    """Pair the layers of two models, in the order of the first; None where there is no other."""
    partners = {}
    ours = {_name(x): i for i, x in enumerate(a) if not _is_named_by_keras(x)}
    theirs = {_name(y): i for i, y in enumerate(b) if not _is_named_by_keras(y)}
    for name in ours.keys() & theirs.keys():
        partners[ours[name]] = theirs[name]
    rest_a = [i for i, x in enumerate(a) if i not in partners and _is_named_by_keras(x)]
    taken = set(partners.values())
    rest_b = [i for i, y in enumerate(b) if i not in taken and _is_named_by_keras(y)]
    settings_a, settings_b = [_settings(a[i]) for i in rest_a], [_settings(b[i]) for i in rest_b]
    for same, at_a, at_b in _blocks(settings_a, settings_b):
        gap_a, gap_b = rest_a[at_a], rest_b[at_b]
        if same:
            partners.update(zip(gap_a, gap_b, strict=True))
            continue
        # What changed its settings is at least of the same class.
        for alike, in_a, in_b in _blocks(
            [_class(a[i]) for i in gap_a], [_class(b[i]) for i in gap_b]
        ):
            if alike:
                partners.update(zip(gap_a[in_a], gap_b[in_b], strict=True))
    pairs: Pairs = [(x, b[partners[i]] if i in partners else None) for i, x in enumerate(a)]
    taken = set(partners.values())
    return [*pairs, *((None, y) for i, y in enumerate(b) if i not in taken)]


def _blocks(a: Sequence[Any], b: Sequence[Any]) -> Iterator[tuple[bool, slice, slice]]:
    """Yield stretches of two sequences in their order, and whether they are equal."""
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    for tag, start_a, end_a, start_b, end_b in matcher.get_opcodes():
        yield tag == "equal", slice(start_a, end_a), slice(start_b, end_b)


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
    """Whether a layer has the name that Keras makes of its class: `conv2d`, `conv2d_3`."""
    snake = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", str(_class(entry)))
    snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", snake).lower()
    return re.fullmatch(rf"{re.escape(snake)}(_\d+)?", _name(entry)) is not None


def _values(entry: Tree, renamed: Mapping[str, str]) -> Iterator[tuple[Key, Any]]:
    """Yield the values of a layer's entry by their paths, those of its layers left out."""
    layers = bool(_layers(entry))
    for key, value in entry.items():
        if key == "name" and value == _name(entry):
            continue  # the layer's configuration says it too
        for path, leaf in _leaves(value, (key,), renamed):
            if not (layers and path[:2] == ("config", "layers")):
                yield path, leaf


def _leaves(value: Any, path: Key, renamed: Mapping[str, str]) -> Iterator[tuple[Key, Any]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _leaves(each, (*path, key), renamed)
    elif isinstance(value, list) and any(isinstance(each, (dict, list)) for each in value):
        for i, each in enumerate(value):
            yield from _leaves(each, (*path, i), renamed)
    elif _CONNECTIONS.intersection(map(str, path)):
        yield path, _with_new_names(value, renamed)
    else:
        yield path, value


def _with_new_names(value: Any, renamed: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_with_new_names(each, renamed) for each in value]
    return renamed.get(value, value) if isinstance(value, str) else value


def _dotted(key: Key) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")
