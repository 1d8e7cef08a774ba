"""Selectors such as `latest`, `best`, `epoch:3`, and references: `ckpt:/<run_id>/<selector>`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from operator import index
from typing import SupportsIndex

from mlflow_ckpt._format.layout import CHECKPOINTS_DIR, CheckpointName
from mlflow_ckpt.errors import SelectorError

SCHEME = "ckpt:"
RUNS_SCHEME = "runs:"
_EXPECTED = "Expected 'latest', 'best', an epoch such as '3' or 'epoch:3', or a step: 'step:1500'"
# A dash may stand for the colon, and a directory's name is a selector too: MLflow's own commands
# treat a colon in a URI's last part as a drive letter or a port.
_NUMBERED = re.compile(r"(?:(?P<unit>epoch|step)[:\-_])?(?P<number>\d{1,18})", re.ASCII)


@dataclass(frozen=True)
class Selector:
    """Which checkpoint of a run is meant.

    Attributes:
        kind: `"latest"`, `"best"`, `"epoch"` or `"step"`.
        number: The epoch or step; None for `latest` and `best`.
    """

    kind: str
    number: int | None = None

    def __str__(self) -> str:
        """Return the selector as a user would type it."""
        return self.kind if self.number is None else f"{self.kind}:{self.number}"

    @property
    def name(self) -> CheckpointName | None:
        """The checkpoint's name where the selector itself tells it, else None."""
        return None if self.number is None else CheckpointName(self.kind, self.number)

    @classmethod
    def parse(cls, text: str | int) -> Selector:
        """Parse a selector.

        Args:
            text: `latest`, `best`, `3` (also as an int), `epoch:3`, `step:1500`; `-` or `_` may
                stand for the colon.

        Raises:
            SelectorError: If it is none of these.
        """
        # NumPy's integers are meant as well, so not `int`.
        if isinstance(text, bool) or not isinstance(text, (str, SupportsIndex)):
            raise SelectorError(
                f"The checkpoint selector is not text or a number. {_EXPECTED}. Received: {text!r}",
                received=repr(text),
            )
        # Python refuses to print an int of thousands of digits.
        given = text if isinstance(text, str) else str(min(index(text), 10**18))
        cleaned = given.strip()
        if cleaned in ("latest", "best"):
            return cls(cleaned)
        match = _NUMBERED.fullmatch(cleaned)
        if match is None:
            raise SelectorError(
                f"The checkpoint selector {given!r} was not understood. {_EXPECTED}.",
                received=given,
            )
        return cls(match["unit"] or "epoch", int(match["number"]))


@dataclass(frozen=True)
class Reference:
    """A run and the checkpoint of it that is meant."""

    run_id: str
    selector: Selector

    def __str__(self) -> str:
        """Return the reference as a `ckpt:` URI."""
        return f"{SCHEME}/{self.run_id}/{self.selector}"

    @classmethod
    def parse(cls, run: str, checkpoint: str | int = "latest") -> Reference:
        """Parse a run id with a selector beside it, or a URI.

        Args:
            run: A run id, `ckpt:/<run_id>/<selector>` (the selector may be left out), or
                `runs:/<run_id>/checkpoints/<name>`.
            checkpoint: A selector. Beside a URI that has its own, that one counts, and this must
                be the same or the default.

        Raises:
            SelectorError: If either does not parse, or both name a checkpoint and disagree.
        """
        if not isinstance(run, str) or not run.strip():
            raise SelectorError(
                f"Expected a run id or a URI such as ckpt:/<run_id>/latest. Received: {run!r}",
                received=repr(run),
            )
        run = run.strip()
        given = Selector.parse(checkpoint)
        if run.startswith(SCHEME):
            run_id, own = _of_ckpt_uri(run)
        elif run.startswith(RUNS_SCHEME):
            run_id, own = _of_runs_uri(run)
        elif "/" in run or ":" in run:
            raise SelectorError(
                f"{run!r} is neither a run id nor a checkpoint URI. Expected a run id such as "
                "0a1b2c…, ckpt:/<run_id>/<selector>, runs:/<run_id>/checkpoints/<name>, or "
                "models:/<name>@<alias>.",
                received=run,
            )
        else:
            run_id, own = run, None
        if own is None:
            return cls(run_id, given)
        return cls(run_id, own).beside(given, run)

    def beside(self, given: Selector, uri: str) -> Reference:
        """Return this reference, which a URI names, unless a selector beside it contradicts.

        Raises:
            SelectorError: If it does.
        """
        if given not in (self.selector, Selector("latest")):
            raise SelectorError(
                f"Two checkpoints were named: {self.selector} in {uri!r}, and {given} beside it. "
                "Name one.",
                received=uri,
            )
        return self


@dataclass(frozen=True)
class Place:
    """Where something lies that is no checkpoint of this package's, but may be a model.

    Attributes:
        uri: What names it.
        run_id: The run; empty if only the server knows it.
        path: Run-relative path, without slashes at its ends; empty for a LoggedModel.
        model_id: Id of a LoggedModel; empty for an artifact of a run.
    """

    uri: str
    run_id: str = ""
    path: str = ""
    model_id: str = ""

    @classmethod
    def of_runs_uri(cls, uri: str) -> Place | None:
        """Return the place that `runs:/<run_id>/<path>` names; None for any other text."""
        run_id, _, path = uri.removeprefix(RUNS_SCHEME).strip("/").partition("/")
        inside = path.strip("/")
        if not uri.startswith(RUNS_SCHEME) or not run_id or not inside:
            return None
        return None if ".." in inside.split("/") else cls(uri, run_id, inside)


def _of_ckpt_uri(uri: str) -> tuple[str, Selector | None]:
    parts = uri.removeprefix(SCHEME).strip("/").split("/")
    if not parts[0] or len(parts) > 2:
        raise SelectorError(
            f"The checkpoint URI {uri!r} was not understood. "
            "Expected ckpt:/<run_id>/<selector>, such as ckpt:/0a1b2c…/best.",
            received=uri,
        )
    return parts[0], Selector.parse(parts[1]) if len(parts) == 2 else None


def _of_runs_uri(uri: str) -> tuple[str, Selector | None]:
    run_id, *path = uri.removeprefix(RUNS_SCHEME).strip("/").split("/")
    name = CheckpointName.parse(path[1]) if path[:1] == [CHECKPOINTS_DIR] and path[1:] else None
    if run_id and path in ([], [CHECKPOINTS_DIR]):
        return run_id, None
    if not run_id or name is None or len(path) != 2:
        raise SelectorError(
            f"The URI {uri!r} names no checkpoint. "
            "Expected runs:/<run_id>/checkpoints/<name>, such as "
            "runs:/0a1b2c…/checkpoints/epoch_0003.",
            received=uri,
        )
    return run_id, Selector(name.unit, name.number)
