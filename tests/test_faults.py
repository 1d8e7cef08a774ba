"""Servers and stores that fail while a model trains: cells of the table in docs/saving.md.

In no cell does a step wait, is anything lost, or is anything said more than twice.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow.exceptions import MlflowException

import mlflow_ckpt
from devtools.stores import Store, current, free_port
from mlflow_ckpt.errors import TrackingUnavailableError
from tests.support import cli, shared
from tests.support.checkpoints import put_checkpoint
from tests.support.faults import WHENS, Course, figures_of, require_all, send_the_rest, train
from tests.support.proxy import Proxy, proxied
from tests.support.training import fit, new_run, small_model
from tests.support.waiting import wait_for

BUCKET = "checkpoints"
# Of MLflow's and boto3's own attempts, which their users set by these.
FEW_ATTEMPTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "AWS_MAX_ATTEMPTS": "1",
}
S3 = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
}

WHATS = ("everything", "artifacts", "metadata", "S3")
HOWS = ("refuse", "hang", "deny", "fail", "slow", "half")
# One of each in the default run.
DAILY = {
    ("everything", "step", "refuse"),
    ("artifacts", "start", "hang"),
    ("metadata", "validation", "deny"),
    ("S3", "start", "fail"),
    ("everything", "end", "half"),
}


@pytest.fixture(scope="session")
def s3_server(session_directory: Path) -> str:
    """The URI of a real S3 API, in a process of its own that all workers share."""

    def start() -> dict[str, Any]:
        port = free_port()
        with (session_directory / "s3.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process.returncode = 0  # it outlives this process, which need not wait for it
        uri = f"http://127.0.0.1:{port}"

        def made() -> bool:
            try:
                return requests.put(f"{uri}/{BUCKET}", timeout=5).ok
            except requests.ConnectionError:
                return False

        wait_for(made, "the S3 API answers", pause=0.2)
        return {"group": process.pid, "uri": uri}

    return str(shared.started_once(session_directory, "s3", start)["uri"])


@dataclass
class Fault:
    """What fails, when, and how."""

    proxy: Proxy
    when: str
    how: str

    def begin(self) -> None:
        self.proxy.mode = "hang" if self.how == "slow" else self.how

    def meet(self) -> None:
        """Wait until it is met, and end it if it is only slow."""
        wait_for(self.proxy.failed.is_set, "the fault is met")
        if self.how == "slow":
            self.proxy.release()


@pytest.fixture
def fault(
    request: pytest.FixtureRequest, server: Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fault]:
    """A fault of the current store, which has not begun."""
    what, when, how = request.param
    for name, value in {**FEW_ATTEMPTS, **S3}.items():
        monkeypatch.setenv(name, value)
    # What a training waits at its start, which are ten seconds and five.
    monkeypatch.setattr("mlflow_ckpt._saving.limited._SECONDS", 1.0)
    monkeypatch.setattr("mlflow_ckpt._tracking.store._PROBE_SECONDS", 0.5)
    in_s3 = what == "S3"
    proxy = Proxy(request.getfixturevalue("s3_server") if in_s3 else server.uri)
    proxy.only = what if what in ("artifacts", "metadata") else ""
    if in_s3:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", proxy.uri)
        store = Store(server.uri, server.artifacts, _experiment_in_s3(server.uri))
    else:
        store = Store(proxy.uri, server.artifacts, server.experiment_id)
    try:
        with current(store):
            yield Fault(proxy, when, how)
            proxy.release()
    finally:
        proxy.close()


def _experiment_in_s3(uri: str) -> str:
    name = f"in S3 {os.environ.get('PYTEST_XDIST_WORKER', '')}"
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    return str(client.create_experiment(name, artifact_location=f"s3://{BUCKET}/{name[6:]}"))


def cells() -> list[Any]:
    return [
        pytest.param(
            (what, when, how),
            marks=() if (what, when, how) in DAILY else pytest.mark.long,
            id=f"{what}-{when}-{how}",
        )
        for what in WHATS
        for when in WHENS
        for how in HOWS
    ]


@pytest.mark.parametrize("fault", cells(), indirect=True)
def test_training_goes_on(fault: Fault, record_property: Callable[[str, object], None]) -> None:
    run_id = new_run()
    patience = 60.0 if fault.how == "slow" else 0.5
    ours = mlflow_ckpt.MlflowCheckpoint("loss", run_id=run_id, drain_timeout=patience)
    counted = train(Course(fault.when, fault.begin, fault.meet), ours)
    fault.proxy.release()
    send_the_rest(run_id)
    require_all(run_id)
    counted.require_that_training_went_on()
    record_property("counted", counted.figures())


@pytest.mark.parametrize("how", ["refuse", "hang", "fail"])
def test_a_run_that_only_the_server_can_start(
    how: str, server: Store, record_property: Callable[[str, object], None]
) -> None:
    model = small_model()
    with proxied(server) as proxy:
        proxy.mode = how
        with pytest.raises(TrackingUnavailableError) as caught:
            fit(model, mlflow_ckpt.MlflowCheckpoint())
    assert str(caught.value) == (
        f"The tracking server at {proxy.uri} does not answer. Only the server can start a run to "
        "save to. Start the server, or pass the run_id of a run that it has: such a training goes "
        "on without the server."
    )
    assert int(model.optimizer.iterations.numpy()) == 0
    record_property("counted", figures_of(str(caught.value)))


def test_a_run_that_only_credentials_can_start(
    server: Store, record_property: Callable[[str, object], None]
) -> None:
    model = small_model()
    with proxied(server) as proxy:
        proxy.mode, proxy.only = "deny", "metadata"
        with pytest.raises(MlflowException) as caught:
            fit(model, mlflow_ckpt.MlflowCheckpoint())
    assert int(model.optimizer.iterations.numpy()) == 0
    record_property("counted", figures_of(str(caught.value)))


def test_nothing_is_asked_of_the_artifact_store_before_training(
    server: Store, record_property: Callable[[str, object], None]
) -> None:
    with proxied(server) as proxy:
        proxy.mode, proxy.only = "refuse", "artifacts"
        with mlflow.start_run():
            mlflow_ckpt.MlflowCheckpoint()
    assert not proxy.failed.is_set()
    record_property("counted", figures_of(""))


def after(how: str, what: str) -> Any:
    daily = (what, how) in {("artifacts", "deny"), ("everything", "hang")}
    marks = () if daily else pytest.mark.long
    return pytest.param((what, "after", how), marks=marks, id=f"{what}-{how}")


@pytest.mark.parametrize(
    "fault", [after(how, what) for what in WHATS for how in HOWS if how != "slow"], indirect=True
)
def test_what_is_sent_after_the_process(
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    run_id = new_run()
    entry = put_checkpoint(run_id, mlflow.get_tracking_uri())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fault.begin()
    left = cli.run("flush", run_id)
    assert left.exit_code == 7, left.output
    assert left.stdout.startswith(f"Left epoch_0001 of run {run_id} in {entry.path}: ")
    assert left.stdout.count("\n") == 1
    assert left.stderr.endswith(
        "Nothing is lost: run the same command again once the cause is gone.\n"
    )
    assert entry.path.exists()
    fault.proxy.release()
    sent = cli.run("flush", run_id)
    assert sent.exit_code == 0, sent.output
    assert mlflow_ckpt.verify(run_id, 1).ok
    assert not entry.path.exists()
    record_property("counted", figures_of(left.stdout))
