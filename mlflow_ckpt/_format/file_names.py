"""What the names of saved files tell: Keras's `ModelCheckpoint` writes epoch and metrics there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from string import Formatter

from mlflow_ckpt.errors import InvalidArgumentError

# The longest first: a weights file ends with `.h5` as well.
ENDINGS = (".weights.h5", ".keras", ".h5")
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|nan|inf)"
# A number in a name: what stands before it tells what it is.
_WORD = re.compile(r"([A-Za-z][A-Za-z_]*?)?([-_=.: ]*)(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)")
_EPOCH_WORDS = ("epoch", "epochs", "ep", "e")
_STEP_WORDS = ("step", "steps", "batch", "iter", "iteration")
_ADVICE = (
    "Say how the names are made, as ModelCheckpoint was told: --pattern "
    "'model.{epoch:02d}-{val_loss:.2f}.keras'"
)


@dataclass(frozen=True)
class FileName:
    """What a file's name tells.

    Attributes:
        name: The name.
        epoch: Number of completed epochs, as `ModelCheckpoint` counts them.
        metrics: Values by name.
    """

    name: str
    epoch: int
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def is_weights(self) -> bool:
        """Whether the file holds weights alone."""
        return self.name.endswith(ENDINGS[0])


def read_names(names: Sequence[str], pattern: str | None = None) -> list[FileName]:
    """Read epoch and metrics from the names of files.

    Args:
        names: The names, all made in the same way.
        pattern: How, as `ModelCheckpoint` was told, such as `"m.{epoch:02d}-{val_loss:.2f}.keras"`;
            guessed from the names if None.

    Returns:
        What the names tell, by epoch. With a pattern, names that do not fit are left out.

    Raises:
        InvalidArgumentError: If the pattern is none, the names do not tell, or two tell the same
            epoch.
    """
    found = _by_pattern(names, pattern) if pattern is not None else [_guess(n) for n in names]
    ordered = sorted(found, key=lambda each: each.epoch)
    for a, b in pairwise(ordered):
        if a.epoch == b.epoch:
            raise InvalidArgumentError(
                f"Two files are of epoch {a.epoch}: {a.name} and {b.name}. Expected one file an "
                f"epoch. Move one away, or tell them apart. {_ADVICE}"
            )
    return ordered


def _by_pattern(names: Sequence[str], pattern: str) -> list[FileName]:
    expression = re.compile(_expression(pattern))
    fields = list(expression.groupindex)
    found = []
    for name in names:
        match = expression.fullmatch(name)
        if match is not None:
            values = {key: float(match[key]) for key in fields}
            found.append(FileName(name, int(values.pop("epoch")), values))
    return found


def _expression(pattern: str) -> str:
    """Return a regular expression for what a template of Python's `str.format` makes."""
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
                f"The pattern {pattern!r} was not understood: {{{name}}} names nothing. {_ADVICE}"
            )
        parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{_NUMBER})")
        seen.add(name)
    if "epoch" not in seen:
        raise InvalidArgumentError(
            f"The pattern {pattern!r} has no {{epoch}}, which names the checkpoint. {_ADVICE}"
        )
    return "".join(parts)


def _guess(name: str) -> FileName:
    stem = next(name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending))
    epoch: int | None = None
    metrics: dict[str, float] = {}
    nameless: list[str] = []
    for match in _WORD.finditer(stem):
        word, number = (match[1] or "").strip("_").lower(), match[3]
        if word in _EPOCH_WORDS and number.isdigit():
            epoch = int(number)
        elif word in _STEP_WORDS or (word and number.isdigit() and not match[2]):
            continue  # or a part of a word, as in `resnet50`
        elif word and not number.isdigit():
            metrics[word] = float(number)
        else:
            nameless.append(number)
    whole = [number for number in nameless if number.isdigit()]
    if epoch is None and len(whole) == 1:
        # `model.03.keras`, or `weights.03-val_loss0.45.keras`: a whole number alone is the epoch.
        epoch = int(whole[0])
        nameless.remove(whole[0])
    if epoch is None or nameless:
        what = "which number is the epoch" if epoch is None else f"what {nameless[0]} is"
        raise InvalidArgumentError(f"The name {name} does not tell {what}. {_ADVICE}")
    return FileName(name, epoch, metrics)
