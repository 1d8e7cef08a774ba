"""Tries hostile inputs on entry points, in a child process with limits of memory and time.

A corpus is a module with `CASES`, a list of `Case`, and `ENTRY_POINTS`, functions by name. The
child serves one input after another, and is replaced if it dies or has to be killed.
"""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from devtools.stores import Store, current
from mlflow_ckpt.errors import MlflowCkptError
from tests.hostile.world import Target, World
from tests.support.children import Child, Talk

REFUSED, HARMLESS, HOLE = "refused", "harmless", "HOLE"
# What an honest checkpoint of the corpus needs is far below both.
MOST_SECONDS = 40.0
MOST_BYTES = 700 << 20
# Ends what would otherwise end the machine's other processes.
_HARD_BYTES = 4 << 30
_LONGEST_MESSAGE = 2000
_POLL_SECONDS = 0.02

EntryPoint = Callable[[World, Target], str]


@dataclass(frozen=True)
class Case:
    """A hostile input.

    Attributes:
        name: What it does.
        make: Makes it.
        entry_points: Names of the entry points that it is tried on.
        says: Words of which one must be in the message. Without any, it may be harmless.
    """

    name: str
    make: Callable[[World], Target]
    entry_points: tuple[str, ...]
    says: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What an entry point did with an input.

    Attributes:
        case: The input's name.
        entry_point: The entry point's name.
        verdict: `REFUSED`, `HARMLESS` or `HOLE`.
        text: The message, or why it is a hole.
        seconds: How long it took.
        megabytes: By how much the process grew meanwhile.
    """

    case: str
    entry_point: str
    verdict: str
    text: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0

    def __str__(self) -> str:
        """Return a row of the table."""
        text = " ".join(self.text.split())[:150]
        numbers = f"{self.seconds:5.1f} s {self.megabytes:5.0f} MB"
        return f"{self.verdict:8} {self.case:44} {self.entry_point:18} {numbers}  {text}"


class CommandRefusedError(MlflowCkptError):
    """A command of `mlflow-ckpt` ended with an error message."""


def try_all(
    corpus: str, pairs: Sequence[tuple[str, str]], store: Store, directory: Path
) -> list[Outcome]:
    """Try inputs on entry points.

    Args:
        corpus: Name of the module with the cases and the entry points.
        pairs: Names of inputs and entry points.
        store: The store that they are tried in.
        directory: An empty directory.
    """
    outcomes = []
    child: Child | None = None
    for number, (case, entry_point) in enumerate(pairs):
        if child is None:
            place = directory / f"child_{number}"
            (place / "spool").mkdir(parents=True)
            child = Child(serve, corpus, store, str(place), store=store, spool=place / "spool")
            child.receive("ready")
        outcome, child = _try(child, case, entry_point)
        outcomes.append(outcome)
    if child is not None:
        child.send(None)
        child.join()
    return outcomes


def pairs_of(cases: Iterable[Case]) -> list[tuple[str, str]]:
    """Return the names of all inputs with all of their entry points."""
    return [(case.name, entry_point) for case in cases for entry_point in case.entry_points]


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the outcomes as lines, holes last, and their numbers."""
    rows = sorted(outcomes, key=lambda outcome: outcome.verdict == HOLE)
    counts = {
        verdict: sum(outcome.verdict == verdict for outcome in rows)
        for verdict in (REFUSED, HARMLESS, HOLE)
    }
    return "\n".join(
        [*map(str, rows), ", ".join(f"{n} {verdict}" for verdict, n in counts.items())]
    )


def _try(child: Child, case: str, entry_point: str) -> tuple[Outcome, Child | None]:
    """Try one input; return the outcome, and the child unless it is gone."""
    child.send((case, entry_point))
    child.receive("made")
    before, began = child.resident(), time.monotonic()
    problem = ""
    while not problem and not child.poll(_POLL_SECONDS):
        if time.monotonic() - began > MOST_SECONDS:
            problem = f"hangs for {MOST_SECONDS:.0f} s"
        elif child.resident() - before > MOST_BYTES:
            problem = "eats memory"
    seconds = time.monotonic() - began
    try:
        outcome: Outcome = child.receive("outcome") if not problem else _hole(problem)
    except AssertionError as error:
        with suppress(ValueError):  # it was waited for
            child.kill_if_running()
        return Outcome(case, entry_point, HOLE, f"ends the process: {error}", seconds), None
    if problem:
        child.kill_if_running()
        return Outcome(case, entry_point, HOLE, problem, seconds), None
    return outcome, child


def _hole(text: str) -> Outcome:
    return Outcome("", "", HOLE, text)


def serve(talk: Talk, corpus: str, store: Store, directory: str) -> None:
    """Try the inputs that the parent names, until it sends None."""
    data = _memory("VmData") + _HARD_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    module: Any = import_module(corpus)
    cases = {case.name: case for case in module.CASES}
    warnings.simplefilter("ignore")
    with current(store):
        world = World(Path(directory), store)
        talk("ready")
        while (pair := talk.receive()) is not None:
            name, entry_point = pair
            target = cases[name].make(world)
            talk("made")
            call = partial(module.ENTRY_POINTS[entry_point], world, target)
            talk("outcome", _outcome(world, cases[name], entry_point, target, call))


def _outcome(
    world: World, case: Case, entry_point: str, target: Target, call: Callable[[], str]
) -> Outcome:
    with suppress(OSError):  # resets the highest memory use, where the system allows it
        Path("/proc/self/clear_refs").write_text("5")
    before, began = _memory("VmRSS"), time.monotonic()
    verdict, text = _called(call)
    seconds, grown = time.monotonic() - began, _memory("VmHWM") - before
    if grown > MOST_BYTES:
        verdict, text = HOLE, f"eats memory; {text}"
    if world.canary.exists():
        world.canary.unlink()
        verdict, text = HOLE, f"ran code; {text}"
    if world.leaks(text, *target.watched):
        verdict, text = HOLE, f"reads the secret; {text}"
    said = verdict == REFUSED and any(word in text for word in case.says)
    if verdict != HOLE and case.says and not said:
        verdict, text = HOLE, f"is not refused with {case.says}: {text}"
    return Outcome(case.name, entry_point, verdict, text, seconds, grown / 1e6)


def _called(call: Callable[[], str]) -> tuple[str, str]:
    try:
        return HARMLESS, call()
    except MlflowCkptError as error:
        text = str(error)
        if "Traceback" in text or len(text) > _LONGEST_MESSAGE or not text:
            return HOLE, f"no clear message: {text[:_LONGEST_MESSAGE]}"
        return REFUSED, f"{type(error).__name__}: {text}"
    except BaseException as error:  # noqa: BLE001 - what is to be found
        return HOLE, f"traceback: {type(error).__name__}: {str(error)[:300]}"


def _memory(key: str) -> int:
    """Return a number of `/proc/self/status` in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))
