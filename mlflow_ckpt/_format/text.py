"""Texts that messages share: shapes, lists of names, the first line of an error."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def shape_text(shape: Iterable[int | None]) -> str:
    """Return a shape such as `32x32x3`, with `?` for a free axis; `scalar` if it has no axes."""
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


def counted(number: int, noun: str) -> str:
    """Return a number of things: `1 file`, `2 files`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(names: Collection[str], most: int = 5, separator: str = ", ") -> str:
    """Return the first `most` names and the number of the rest: `a, b and 3 more`."""
    shown = list(names)[:most]
    more = len(names) - len(shown)
    joint = " " if separator == ", " else separator
    return separator.join(shown) + (f"{joint}and {more} more" if more else "")


def abridged(names: Sequence[str]) -> str:
    """Return the names, or the first and last three of more than eight: `a, b, c … x, y, z`."""
    if len(names) <= 8:
        return ", ".join(names)
    return f"{', '.join(names[:3])} … {', '.join(names[-3:])}"


def first_line(error: Exception | str) -> str:
    """Return the first line of an error's text that is not blank, ending in a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return line if line.endswith((".", "!", "?")) else f"{line.rstrip(':')}."


def first_sentence(error: Exception | str) -> str:
    """Return the first sentence of an error's text, whose lines may be wrapped."""
    paragraph = str(error).strip().partition("\n\n")[0]
    sentence, ends, _ = " ".join(paragraph.split()).partition(". ")
    return f"{sentence}." if ends else first_line(sentence or error)
