"""What changed between the training that was saved and the one that goes on, by name and value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_ABSENT = object()
# A value longer than this is cut: the name tells where to look.
_LONGEST = 60


def changed_versions(saved: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Yield the packages whose versions differ, and those that are new or gone."""
    for name in {**saved, **now}:
        # What reads a checkpoint says nothing of how its model was computed.
        if name != "mlflow_ckpt" and saved.get(name) != now.get(name):
            yield f"{name} was {saved.get(name, 'absent')}, and is {now.get(name, 'absent')}"


def changed_code(saved: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Yield the classes and functions whose source is another one, by their digests."""
    for name, digest in saved.items():
        if name in now and now[name] != digest:
            yield f"the source of {name} was {digest[:19]}, and is {now[name][:19]}"


def changed_values(what: str, saved: Any, now: Any) -> Iterator[str]:
    """Yield the values that differ in two trees of mappings and lists.

    Args:
        what: What the trees describe, such as `"optimizer"`.
        saved: The one that was saved.
        now: The one of the training that goes on.
    """
    before, after = dict(_leaves(saved, what)), dict(_leaves(now, what))
    for name in {**before, **after}:
        old, new = before.get(name, _ABSENT), after.get(name, _ABSENT)
        if old is _ABSENT:
            yield f"{name} is {_shown(new)}, and was not there"
        elif new is _ABSENT:
            yield f"{name} was {_shown(old)}, and is not there"
        elif old != new:
            yield f"{name} was {_shown(old)}, and is {_shown(new)}"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            # Where Keras says how to build an object, the rest of the path says which.
            yield from _leaves(each, path if key == "config" else f"{path}.{key}")
    elif isinstance(value, (list, tuple)) and value:
        for i, each in enumerate(value):
            yield from _leaves(each, f"{path}[{i}]")
    else:
        yield path, value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
