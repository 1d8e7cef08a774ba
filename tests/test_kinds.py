"""Kinds of models, trainings and data, resumed in a new process: none silently wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from devtools.stores import Store
from tests.support.processes import ROOT, run_python

# A kind of each sort is enough for every day; all of them stand behind the marker `kinds`.
DAILY = (
    "AdamW, biases excluded from decay",
    "Dropout, stopped inside an epoch",
    "a stateful LSTM",
    "LoRA on Dense",
    "a plain tf.Variable in a layer",
    "a count in an attribute of the class",
    "a metric that lasts",
    "a loss that is a lambda",
    "a rate of Dropout changed, restored",
    "another callback raises in on_train_batch_end",
    "arrays, shuffled",
)
PROGRAM = "from tests.support.kinds import program; import sys; program.main({!r}, sys.argv[1:])"

Outcomes = dict[str, dict[str, Any]]


def environment(store: Store, spool: Path, backend: str) -> dict[str, str]:
    return {
        **os.environ,
        "KERAS_BACKEND": backend,
        "MLFLOW_TRACKING_URI": store.uri,
        "MLFLOW_EXPERIMENT_ID": store.experiment_id,
        "MLFLOW_CKPT_SPOOL": str(spool),
    }


def run_here(directory: Path, names: tuple[str, ...], settings: dict[str, str]) -> Outcomes:
    """Train in a process, and resume in another; both start immediately (TensorFlow only)."""
    for what in ("train", "resume"):
        ended = run_python(PROGRAM.format(what), directory, *names, cwd=ROOT, env=settings)
        assert ended.returncode == 0, ended.stderr[-3000:]
    return dict(json.loads((directory / "outcomes.json").read_text()))


def run_there(directory: Path, settings: dict[str, str]) -> Outcomes:
    """Train all kinds in a Python of its own, and resume them in another."""
    for what in ("train", "resume"):
        program = [sys.executable, "-m", "tests.support.kinds.program", what, str(directory)]
        ended = subprocess.run(
            program, env=settings, cwd=ROOT, capture_output=True, text=True, timeout=3000
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
    return dict(json.loads((directory / "outcomes.json").read_text()))


def judge(outcomes: Outcomes) -> list[str]:
    """Return a line for each kind that is not as expected."""
    wrong = []
    for name, record in outcomes.items():
        if not record["as expected"]:
            said = [*record["said at save"], *record["said"], record.get("error", "")]
            wrong.append(
                f"{name}: {record['outcome']}, expected {record['expected']} {record['text']}. "
                f"Differs: {record.get('differs', [])[:3]}. Said: {said}"
            )
    return wrong


def counted(outcomes: Outcomes, backend: str) -> str:
    counts = Counter(record["outcome"] for record in outcomes.values())
    parts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    return f"{len(outcomes)} kinds on {backend}: {parts}"


def test_some_kinds(local_store: Store, spool: Path, tmp_path: Path) -> None:
    outcomes = run_here(tmp_path, DAILY, environment(local_store, spool, "tensorflow"))
    assert len(outcomes) == len(DAILY)
    assert judge(outcomes) == []


@pytest.mark.kinds
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_no_kind_is_silently_wrong(
    local_store: Store,
    spool: Path,
    tmp_path: Path,
    backend: str,
    record_property: Callable[[str, object], None],
) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    outcomes = run_there(tmp_path, environment(local_store, spool, backend))
    record_property("counted", counted(outcomes, backend))
    assert len(outcomes) >= 200
    assert judge(outcomes) == []
