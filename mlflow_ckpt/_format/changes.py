"""Describes what changed between a saved training and the one that resumes it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

_ABSENT = object()
# Longer values are truncated.
_LONGEST = 60


def changed_versions(saved: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Describe packages whose versions differ, and those that were added or removed."""
    for name in {**saved, **now}:
        # This package reads checkpoints; it does not affect how a model computes.
        if name != "mlflow_ckpt" and saved.get(name) != now.get(name):
            yield f"{name} was {saved.get(name, 'absent')} and is now {now.get(name, 'absent')}"


def changed_code(saved: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Describe the classes and functions whose source changed, by their digests."""
    for name, digest in saved.items():
        if name in now and now[name] != digest:
            yield f"the source of {name} was {digest[:19]} and is now {now[name][:19]}"


def changed_values(what: str, saved: Any, now: Any, ignored: Collection[str] = ()) -> Iterator[str]:
    """Describe the values that differ between two trees of mappings and lists.

    Args:
        what: What the trees describe, such as `"optimizer"`.
        saved: The saved tree.
        now: The tree of the resumed training.
        ignored: Paths of values that may differ, such as `"optimizer.name"`.
    """
    before, after = dict(leaves(saved, what)), dict(leaves(now, what))
    for name in (name for name in {**before, **after} if name not in ignored):
        old, new = before.get(name, _ABSENT), after.get(name, _ABSENT)
        if old is _ABSENT:
            yield f"{name} was absent and is now {_shown(new)}"
        elif new is _ABSENT:
            yield f"{name} was {_shown(old)} and is now absent"
        elif old != new:
            yield f"{name} was {_shown(old)} and is now {_shown(new)}"


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the values in a tree of mappings and lists, by their paths below a path."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            # Keras wraps an object's settings in "config", which adds nothing to the path.
            yield from leaves(item, path if key == "config" else f"{path}.{key}")
    elif isinstance(value, (list, tuple)) and value:
        for i, item in enumerate(value):
            yield from leaves(item, f"{path}[{i}]")
    else:
        yield path, value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
