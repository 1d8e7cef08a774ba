"""Parses epoch and metrics from file names, as Keras's `ModelCheckpoint` writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from string import Formatter

from mlflow_ckpt.errors import InvalidArgumentError

# Longest first: the name of a weights file ends in `.h5` too.
ENDINGS = (".weights.h5", ".keras", ".h5")
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|nan|inf)"
# A number in a name, and the word before it, which names the number.
_WORD = re.compile(r"([A-Za-z][A-Za-z_]*?)?([-_=.: ]*)(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)")
_EPOCH_WORDS = ("epoch", "epochs", "ep", "e")
_STEP_WORDS = ("step", "steps", "batch", "iter", "iteration")
_ADVICE = (
    "Pass the pattern that ModelCheckpoint used: --pattern 'model.{epoch:02d}-{val_loss:.2f}.keras'"
)


@dataclass(frozen=True)
class FileName:
    """A file's name and what it contains.

    Attributes:
        name: The name.
        epoch: Number of completed epochs, as `ModelCheckpoint` counts them.
        metrics: Values of metrics by name.
    """

    name: str
    epoch: int
    metrics: dict[str, float] = field(default_factory=dict)


def read_names(names: Sequence[str], pattern: str | None = None) -> list[FileName]:
    """Parse epoch and metrics from the names of files.

    Args:
        names: The names, all of the same pattern.
        pattern: The pattern, as given to `ModelCheckpoint`:
            `"m.{epoch:02d}-{val_loss:.2f}.keras"`; guessed from the names if None.

    Returns:
        The parsed names, ordered by epoch. Names that do not match the pattern are left out.

    Raises:
        InvalidArgumentError: If the pattern is invalid, if epoch or metrics cannot be guessed from
            a name, or if two names have the same epoch.
    """
    parsed = [_guess(n) for n in names] if pattern is None else _by_pattern(names, pattern)
    ordered = sorted(parsed, key=lambda file_name: file_name.epoch)
    for a, b in pairwise(ordered):
        if a.epoch == b.epoch:
            raise InvalidArgumentError(
                f"Two files have epoch {a.epoch}: {a.name} and {b.name}. Expected one file per "
                f"epoch. Move one away. {_ADVICE}"
            )
    return ordered


def _by_pattern(names: Sequence[str], pattern: str) -> list[FileName]:
    expression = re.compile(_expression(pattern))
    fields = list(expression.groupindex)
    parsed = []
    for name in names:
        match = expression.fullmatch(name)
        if match is not None:
            values = {key: float(match[key]) for key in fields}
            parsed.append(FileName(name, int(values.pop("epoch")), values))
    return parsed


def _expression(pattern: str) -> str:
    """Return a regular expression for the results of a `str.format` template."""
    parts: list[str] = []
    seen: set[str] = set()
    try:
        fields = list(Formatter().parse(pattern))
    except ValueError as error:
        raise InvalidArgumentError(
            f"The pattern {pattern!r} was not understood: {error}. {_ADVICE}"
        ) from error
    for literal, name, _, _ in fields:
        parts.append(re.escape(literal))
        if name is None:
            continue
        if not name.isidentifier():
            raise InvalidArgumentError(
                f"The pattern {pattern!r} was not understood: {{{name}}} is not a field. {_ADVICE}"
            )
        parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{_NUMBER})")
        seen.add(name)
    if "epoch" not in seen:
        raise InvalidArgumentError(
            f"The pattern {pattern!r} has no {{epoch}}, which names the checkpoint. {_ADVICE}"
        )
    return "".join(parts)


def _guess(name: str) -> FileName:
    """Guess epoch and metrics from a name, without a pattern."""
    stem = next(name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending))
    epoch, metrics, unnamed = _numbers(stem)
    integers = [number for number in unnamed if number.isdigit()]
    if epoch is None and len(integers) == 1:
        # A single integer without a name is the epoch: `model.03.keras`, `m.03-val_loss0.45.keras`.
        epoch = int(integers[0])
        unnamed.remove(integers[0])
    if epoch is None or unnamed:
        what = "which number is the epoch" if epoch is None else f"what {unnamed[0]} is"
        raise InvalidArgumentError(f"The name {name} does not show {what}. {_ADVICE}")
    return FileName(name, epoch, metrics)


def _numbers(stem: str) -> tuple[int | None, dict[str, float], list[str]]:
    """Return the epoch, the metrics, and the numbers without a name."""
    epoch: int | None = None
    metrics: dict[str, float] = {}
    unnamed: list[str] = []
    for match in _WORD.finditer(stem):
        word, number = (match[1] or "").strip("_").lower(), match[3]
        if word in _EPOCH_WORDS and number.isdigit():
            epoch = int(number)
        elif word in _STEP_WORDS or (word and number.isdigit() and not match[2]):
            continue  # a step, or part of a word, as in `resnet50`
        elif word and not number.isdigit():
            metrics[word] = float(number)
        else:
            unnamed.append(number)
    return epoch, metrics, unnamed
