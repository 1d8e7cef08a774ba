"""Selectors (`latest`, `best`, `epoch:3`), and references such as `ckpt:/<run_id>/<selector>`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import SupportsIndex

from mlflow_ckpt._format.layout import CHECKPOINTS_DIR, CheckpointName
from mlflow_ckpt.errors import SelectorError

SCHEME = "ckpt:"
RUNS_SCHEME = "runs:"
_EXPECTED = "Expected 'latest', 'best', an epoch such as '3' or 'epoch:3', or a step: 'step:1500'"
# MLflow's commands interpret a colon in the last part of a URI as a drive letter or a port, so a
# dash may replace it, and directory names are accepted too.
_NUMBERED = re.compile(r"(?:(?P<unit>epoch|step)[:\-_])?(?P<number>\d{1,18})", re.ASCII)


def uri_of(run_id: str, checkpoint: object) -> str:
    """Return the `ckpt:` URI of a checkpoint, given its name or a selector."""
    return f"{SCHEME}/{run_id}/{checkpoint}"


@dataclass(frozen=True)
class Selector:
    """Selects a checkpoint of a run.

    Attributes:
        kind: `"latest"`, `"best"`, `"epoch"` or `"step"`.
        number: The epoch or step; None for `latest` and `best`.
    """

    kind: str
    number: int | None = None

    def __str__(self) -> str:
        """Return the selector as text, such as `epoch:3`."""
        return self.kind if self.number is None else f"{self.kind}:{self.number}"

    @property
    def name(self) -> CheckpointName | None:
        """The checkpoint's name; None for `latest` and `best`, which depend on the run."""
        return None if self.number is None else CheckpointName(self.kind, self.number)

    @classmethod
    def parse(cls, text: str | int) -> Selector:
        """Parse a selector.

        Args:
            text: `latest`, `best`, `3` (also as an int), `epoch:3`, `step:1500`; `-` or `_` may
                replace the colon.

        Raises:
            SelectorError: If it is anything else.
        """
        # Not `int`: NumPy's integers are allowed too.
        if isinstance(text, bool) or not isinstance(text, (str, SupportsIndex)):
            raise SelectorError(
                f"The checkpoint selector is not text or a number. {_EXPECTED}. Received: {text!r}",
                received=repr(text),
            )
        # Python refuses to convert an int of thousands of digits to text.
        received = text if isinstance(text, str) else str(min(index(text), 10**18))
        selector = received.strip()
        if selector in ("latest", "best"):
            return cls(selector)
        match = _NUMBERED.fullmatch(selector)
        if match is None:
            raise SelectorError(
                f"The checkpoint selector {received!r} was not understood. {_EXPECTED}.",
                received=received,
            )
        return cls(match["unit"] or "epoch", int(match["number"]))


@dataclass(frozen=True)
class Query:
    """The arguments that name one checkpoint of a run, not yet parsed.

    Attributes:
        run: A run id, or a URI: `ckpt:/…`, `runs:/…` or `models:/…`.
        checkpoint: A selector: `latest`, `best`, an epoch (`3`, `epoch:3`) or a step (`step:1500`).
        monitor: The metric that defines `best`; the recorded one if None.
        mode: `"min"` or `"max"`, for `best`; recorded, or inferred from the metric's name, if None.
        tracking_uri: The tracking server; MLflow's current one if None.
        signed_by: The signers of which one must have signed the checkpoint; nobody if empty.
    """

    run: str
    checkpoint: str | int = "latest"
    monitor: str | None = None
    mode: str | None = None
    tracking_uri: str | None = None
    signed_by: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = ()


@dataclass(frozen=True)
class Reference:
    """A run, and a selector of one of its checkpoints."""

    run_id: str
    selector: Selector

    def __str__(self) -> str:
        """Return the reference as a `ckpt:` URI."""
        return uri_of(self.run_id, self.selector)

    @classmethod
    def parse(cls, run: str, checkpoint: str | int = "latest") -> Reference:
        """Parse a run id and a selector, or a URI.

        Args:
            run: A run id, `ckpt:/<run_id>/<selector>` (the selector is optional), or
                `runs:/<run_id>/checkpoints/<name>`.
            checkpoint: A selector; if `run` is a URI with a selector, the same one or the default.

        Raises:
            SelectorError: If `run` or `checkpoint` is malformed, or they name different
                checkpoints.
        """
        if not isinstance(run, str) or not run.strip():
            raise SelectorError(
                f"Expected a run id or a URI such as ckpt:/<run_id>/latest. Received: {run!r}",
                received=repr(run),
            )
        run = run.strip()
        selector = Selector.parse(checkpoint)
        if run.startswith(SCHEME):
            run_id, uri_selector = _of_ckpt_uri(run)
        elif run.startswith(RUNS_SCHEME):
            run_id, uri_selector = _of_runs_uri(run)
        elif "/" in run or ":" in run:
            raise SelectorError(
                f"{run!r} is neither a run id nor a checkpoint URI. Expected a run id such as "
                "0a1b2c…, ckpt:/<run_id>/<selector>, runs:/<run_id>/checkpoints/<name>, or "
                "models:/<name>@<alias>.",
                received=run,
            )
        else:
            run_id, uri_selector = run, None
        if uri_selector is None:
            return cls(run_id, selector)
        return cls(run_id, uri_selector).beside(selector, run)

    def beside(self, selector: Selector, uri: str) -> Reference:
        """Return this reference, parsed from `uri`, unless the separate selector contradicts it.

        Raises:
            SelectorError: If the selector is neither the default nor that of the URI.
        """
        if selector not in (self.selector, Selector("latest")):
            raise SelectorError(
                f"Two checkpoints were named: {self.selector} in {uri!r}, and {selector} "
                "separately. Name only one.",
                received=uri,
            )
        return self


@dataclass(frozen=True)
class ArtifactReference:
    """An artifact of a run, or a LoggedModel, that may be a model saved without this package.

    Attributes:
        uri: The URI that names it.
        run_id: Its run; empty for a LoggedModel without a known run.
        path: Run-relative path, without leading or trailing slashes; empty for a LoggedModel.
        model_id: Id of the LoggedModel; empty for an artifact of a run.
    """

    uri: str
    run_id: str = ""
    path: str = ""
    model_id: str = ""

    @classmethod
    def of_runs_uri(cls, uri: str) -> ArtifactReference | None:
        """Parse `runs:/<run_id>/<path>`; None for any other text."""
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
