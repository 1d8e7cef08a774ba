"""The proof of test_resuming_exactly.py on Keras's other backends, where they are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import mlflow_ckpt
from devtools.stores import Store
from tests.support import data_jobs
from tests.support.jobs import JOBS, Done
from tests.support.training import names

EPOCHS = 4
# The middle of a training of four epochs, and of the second epoch.
FROM = {
    "saved inside epochs": "step:20",
    "saved inside epochs, several steps at once": "step:19",
}
# Packages by words in the names of jobs.
PACKAGES = {"DataLoader": "torch", "Grain": "grain", "tf.data": "tensorflow"}
# Keras offers no steps_per_execution on PyTorch.
LEFT_OUT: dict[str, set[str]] = {
    "jax": set(),
    "torch": {name for name in JOBS if "at once" in name},
}


def do(
    jobs: list[list[Any]],
    backend: str,
    store: Store,
    spool: Path,
    module: str = "tests.support.jobs",
) -> list[Done]:
    """Do jobs, one after another, in a process of their own."""
    ended = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(jobs),
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "MLFLOW_TRACKING_URI": store.uri,
            "MLFLOW_EXPERIMENT_ID": store.experiment_id,
            "MLFLOW_CKPT_SPOOL": str(spool),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=1200,
    )
    return [Done(**training) for training in json.loads(ended.stdout.splitlines()[-1])]


@pytest.mark.long
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_resumed_training_is_the_one_that_never_stopped(
    local_store: Store, spool: Path, backend: str, record_property: Callable[[str, object], None]
) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    names = [name for name in JOBS if name not in LEFT_OUT[backend]]
    began = do(
        [[name, epochs] for name in names for epochs in (EPOCHS, 2)], backend, local_store, spool
    )
    whole = dict(zip(names, began[::2], strict=True))
    half = dict(zip(names, began[1::2], strict=True))
    arguments = [[name, EPOCHS, half[name].run_id, FROM.get(name, "latest")] for name in names]
    resumed = do(arguments, backend, local_store, spool)
    for name, done in zip(names, resumed, strict=True):
        difference = mlflow_ckpt.diff(whole[name].run_id, done.run_id)
        assert difference.identical, (name, difference)
        assert done.weights == whole[name].weights, name
        metrics = [
            mlflow_ckpt.get_checkpoint(training.run_id).manifest.metrics
            for training in (whole[name], done)
        ]
        assert metrics[0] == metrics[1], name
        assert done.warned == [], name
    record_property("counted", f"{len(names)} trainings resumed bit for bit")


def needed(name: str) -> str:
    """Return the package that a job's data need besides the backend."""
    if "StatefulDataLoader" in name:
        return "torchdata"
    return next((package for word, package in PACKAGES.items() if word in name), "keras")


@pytest.mark.kinds
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_all_kinds_of_data_continue(
    local_store: Store,
    spool: Path,
    backend: str,
    part: int,
    record_property: Callable[[str, object], None],
) -> None:
    if find_spec(backend) is None or find_spec("torch") is None:
        pytest.skip("the other backends are not installed")
    kinds = [
        name
        for name in data_jobs.JOBS
        if find_spec(needed(name)) is not None
        and not (backend == "torch" and "at once" in name)
        # On TensorFlow, test_data_resumed.py has the others.
        and not (backend == "tensorflow" and needed(name) in ("keras", "tensorflow"))
    ][part::4]
    module = "tests.support.data_jobs"
    whole = do([[name, 3] for name in kinds], backend, local_store, spool, module)
    positions = [
        (done, [name, 3, done.run_id, f"step:{int(at.split('_')[1])}"])
        for name, done in zip(kinds, whole, strict=True)
        # At the second one, data may have run out: Keras's fit on JAX fails if no batch is left.
        for at in names(done.run_id)[: 1 if backend == "jax" and data_jobs.JOBS[name].second else 2]
    ]
    again = [arguments for _, arguments in positions]
    resumed = do(again, backend, local_store, spool, module)
    for done, (expected, arguments) in zip(resumed, positions, strict=True):
        assert done.warned == [], arguments
        assert done.weights == expected.weights, arguments
        assert mlflow_ckpt.diff(expected.run_id, done.run_id).identical, arguments
    record_property("counted", f"{len(resumed)} trainings on {len(kinds)} kinds of data continued")
