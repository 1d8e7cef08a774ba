"""A training that breaks off: its last whole state is saved, marked, sent or kept, and loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Server, current, open_server
from mlflow_ckpt import MlflowCheckpoint
from mlflow_ckpt._saving import signals
from mlflow_ckpt._tracking.spool import sending
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt.errors import TrackingUnavailableError
from tests.support.cli import run as run_command
from tests.support.processes import run_python
from tests.support.training import BATCH, BATCHES, X, Y, fit, names, new_run, small_model
from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]
State = list[np.ndarray[Any, Any]]

on_disk = pytest.mark.usefixtures("local_store")
over_http = pytest.mark.usefixtures("http_store")


class BoomError(Exception):
    """What a user's callback raises."""


class At(keras.callbacks.Callback):
    """Does something at one event, and batch, of the epoch with the same number, from 0."""

    def __init__(self, event: str, action: Callable[[], Any], epoch: int = 1) -> None:
        super().__init__()
        self._action = action
        self._wanted = epoch
        self._epoch = -1
        setattr(self, event, self._act)

    def _act(self, *arguments: Any, **logs: Any) -> None:
        # Keras gives the number of a batch or an epoch; of a validation as a whole, only logs.
        number = arguments[0] if arguments and isinstance(arguments[0], int) else self._wanted
        if (self._epoch, number) == (self._wanted, self._wanted):
            self._action()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch


class Recorder(keras.callbacks.Callback):
    """Remembers the state after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, State] = {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.states[int(self.model.optimizer.iterations.numpy())] = state_of(self.model)


def state_of(model: keras.Model) -> State:
    """Copies of the weights and of the optimizer's variables."""
    return [np.array(v.numpy()) for v in [*model.weights, *model.optimizer.variables]]


def boom() -> None:
    raise BoomError


def fit_only(model: keras.Model, *callbacks: keras.callbacks.Callback, **settings: Any) -> None:
    """Train without validation, which takes longer than the few steps."""
    fit(model, *callbacks, **{"validation_data": None, **settings})


def send_to_self(number: int) -> None:
    os.kill(os.getpid(), number)


def tag(run_id: str) -> str | None:
    return MlflowClient().get_run(run_id).data.tags.get("mlflow_ckpt.interrupted")


def require_saved(run_id: str, step: int, reason: str, expected: State, *, epoch: int) -> None:
    """Assert that the newest checkpoint is the state after `step` steps, whole and marked."""
    manifest = mlflow_ckpt.get_checkpoint(run_id).manifest
    assert (manifest.name, manifest.step) == (f"step_{step:08d}", step)
    assert (manifest.interrupted, manifest.epoch) == (reason, epoch)
    assert tag(run_id) == f"{reason} at step {step}"
    assert all(mlflow_ckpt.verify(run_id, name).ok for name in names(run_id))
    state = state_of(mlflow_ckpt.load_model(run_id))
    assert all(np.array_equal(a, b) for a, b in zip(state, expected, strict=True))
    assert Spool.default().entries(run_id) == []


# An event of the second epoch (with its second batch), and the steps and epochs done by then.
EVENTS = [
    ("on_train_batch_begin", BATCHES + 1, 1),
    ("on_train_batch_end", BATCHES + 2, 1),
    ("on_test_begin", 2 * BATCHES, 1),
    ("on_test_end", 2 * BATCHES, 1),
]


@on_disk
@pytest.mark.parametrize("order", ["before ours", "after ours"])
@pytest.mark.parametrize(("event", "step", "epoch"), EVENTS)
def test_an_exception_in_a_callback(event: str, step: int, epoch: int, order: str) -> None:
    recorder, raiser = Recorder(), At(event, boom)
    with mlflow.start_run() as run, pytest.raises(BoomError), MlflowCheckpoint() as ours:
        others = [raiser, ours] if order == "before ours" else [ours, raiser]
        fit(small_model(), recorder, *others, epochs=3)
    require_saved(run.info.run_id, step, "BoomError", recorder.states[step], epoch=epoch)
    assert names(run.info.run_id) == ["epoch_0001", f"step_{step:08d}"]


@over_http
@pytest.mark.parametrize("event", ["on_train_batch_begin", "on_train_batch_end"])
def test_an_exception_in_a_callback_of_a_compiled_training(event: str) -> None:
    recorder = Recorder()
    with mlflow.start_run() as run, pytest.raises(BoomError), MlflowCheckpoint("loss") as ours:
        fit_only(small_model(run_eagerly=False), recorder, At(event, boom), ours)
    step = max(recorder.states)
    require_saved(run.info.run_id, step, "BoomError", recorder.states[step], epoch=1)


@on_disk
def test_an_epoch_that_another_callback_ends_is_saved_as_its_last_step() -> None:
    recorder = Recorder()
    with mlflow.start_run() as run, pytest.raises(BoomError), MlflowCheckpoint("loss") as ours:
        fit_only(small_model(), recorder, At("on_epoch_end", boom), ours)
    step = 2 * BATCHES
    require_saved(run.info.run_id, step, "BoomError", recorder.states[step], epoch=1)


@on_disk
def test_what_was_just_saved_is_not_saved_again() -> None:
    with mlflow.start_run() as run, pytest.raises(BoomError), MlflowCheckpoint("loss") as ours:
        stop = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: epoch and boom())
        fit_only(small_model(), ours, stop)
    assert names(run.info.run_id) == ["epoch_0001"]
    assert mlflow_ckpt.get_checkpoint(run.info.run_id).manifest.interrupted is None
    assert tag(run.info.run_id) == f"BoomError at step {BATCHES}"


@on_disk
def test_nothing_is_saved_before_the_first_step() -> None:
    with mlflow.start_run() as run, pytest.raises(BoomError), MlflowCheckpoint("loss") as ours:
        fit_only(small_model(), ours, At("on_train_batch_begin", boom, epoch=0), batch_size=len(X))
    assert names(run.info.run_id) == []
    assert tag(run.info.run_id) == "BoomError at step 0"


@on_disk
def test_sys_exit_in_a_callback() -> None:
    recorder = Recorder()
    with mlflow.start_run() as run, pytest.raises(SystemExit), MlflowCheckpoint("loss") as ours:
        fit_only(small_model(), recorder, ours, At("on_train_batch_end", lambda: sys.exit(3)))
    step = BATCHES + 2
    require_saved(run.info.run_id, step, "SystemExit", recorder.states[step], epoch=1)


class Failing(keras.Sequential):
    """Fails in the middle of its second step."""

    def train_step(self, *arguments: Any, **settings: Any) -> Any:
        if int(self.optimizer.iterations.numpy()) == 1:
            self.layers[0].kernel.assign_add(np.ones(self.layers[0].kernel.shape, "float32"))
            raise BoomError
        return super().train_step(*arguments, **settings)


@on_disk
def test_a_step_that_fails_midway_is_not_saved_and_that_is_said() -> None:
    model = Failing([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    with (
        mlflow.start_run() as run,
        pytest.warns(UserWarning) as caught,
        pytest.raises(BoomError),
        MlflowCheckpoint("loss") as ours,
    ):
        fit_only(model, ours)
    (message,) = [str(w.message) for w in caught if w.category is UserWarning]
    assert message == (
        "Training was interrupted inside a step (BoomError), which may have left the model half "
        "updated, so its state was not saved. Checkpoints are intact."
    )
    assert names(run.info.run_id) == []


def batches(fails_at: int) -> Iterator[tuple[Any, Any]]:
    for index in range(100):
        if index == fails_at:
            raise BoomError("the data is gone")
        start = (index % BATCHES) * BATCH
        yield X[start : start + BATCH], Y[start : start + BATCH]


@on_disk
def test_data_that_fails_leaves_the_model_of_an_eager_step_whole() -> None:
    recorder = Recorder()
    model = small_model()
    with (
        mlflow.start_run() as run,
        pytest.raises(Exception, match="the data is gone"),
        MlflowCheckpoint("loss") as ours,
    ):
        model.fit(
            batches(6),
            steps_per_epoch=4,
            epochs=3,
            verbose=0,
            shuffle=False,
            callbacks=[recorder, ours],
        )
    manifest = mlflow_ckpt.get_checkpoint(run.info.run_id).manifest
    # Keras looks at some data before it trains.
    step = max(recorder.states)
    assert (manifest.step, manifest.epoch) == (step, 1)
    state = state_of(mlflow_ckpt.load_model(run.info.run_id))
    assert all(np.array_equal(a, b) for a, b in zip(state, recorder.states[step], strict=True))


@on_disk
def test_a_validation_that_fails_after_data_of_unknown_length() -> None:
    recorder = Recorder()

    def data() -> Iterator[tuple[Any, Any]]:
        yield from (next(source) for _ in range(4))

    source = batches(-1)
    with (
        mlflow.start_run() as run,
        pytest.raises(BoomError),
        # Keras warns that the data ended early.
        pytest.warns(UserWarning, match="ran out of data"),
        MlflowCheckpoint() as ours,
    ):
        small_model().fit(
            data(),
            validation_data=(X, Y),
            verbose=0,
            shuffle=False,
            callbacks=[recorder, ours, At("on_test_batch_begin", boom, epoch=0)],
        )
    require_saved(run.info.run_id, 4, "BoomError", recorder.states[4], epoch=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("event", ["on_train_batch_end", "on_test_batch_begin"])
@on_disk
@pytest.mark.parametrize("as_context", [True, False])
def test_a_signal_ends_training_between_two_batches(
    number: signal.Signals, event: str, as_context: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder, ours = Recorder(), MlflowCheckpoint("loss")
    train = fit if "test" in event else fit_only
    sender = At(event, lambda: send_to_self(number), epoch=0 if "test" in event else 1)
    ending: type[BaseException] = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    with mlflow.start_run() as run, pytest.raises(ending) as caught:
        if as_context:
            with ours:
                train(small_model(), recorder, sender, ours)
        else:
            train(small_model(), recorder, sender, ours)
    if number == signal.SIGTERM:
        assert caught.value.code == 143
    step = BATCHES if "test" in event else BATCHES + 2
    require_saved(
        run.info.run_id, step, number.name, recorder.states[step], epoch=step // (BATCHES + 1)
    )
    assert capsys.readouterr().err == (
        f"\n{number.name}: training stops. Saving its state and finishing uploads takes at "
        f"most 30 s; a second {number.name} stops it immediately.\n"
    )


@on_disk
def test_training_goes_on_from_where_it_broke_off() -> None:
    with mlflow.start_run() as run, pytest.raises(BoomError), MlflowCheckpoint("loss") as ours:
        fit_only(small_model(), ours, At("on_train_batch_end", boom), epochs=3)
    run_id = run.info.run_id
    model = mlflow_ckpt.load_model(run_id)
    epoch = mlflow_ckpt.get_checkpoint(run_id).manifest.epoch
    with MlflowCheckpoint("loss", run_id=run_id) as ours:
        fit_only(model, ours, initial_epoch=epoch, epochs=3)
    assert names(run_id) == ["epoch_0001", f"step_{BATCHES + 2:08d}", "epoch_0002", "epoch_0003"]
    assert mlflow_ckpt.get_checkpoint(run_id).manifest.step == BATCHES + 2 + 2 * BATCHES


@on_disk
def test_the_users_own_handlers_are_put_back() -> None:
    received: list[int] = []

    def theirs(number: int, frame: Any) -> None:
        received.append(number)

    before = {number: signal.signal(number, theirs) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with mlflow.start_run():
            fit_only(small_model(), MlflowCheckpoint("loss"), epochs=1)
        for number in before:
            assert signal.getsignal(number) is theirs
            send_to_self(number)
        assert received == list(before)
        with mlflow.start_run(), pytest.raises(KeyboardInterrupt):
            fit_only(
                small_model(),
                MlflowCheckpoint("loss"),
                At("on_train_batch_end", lambda: send_to_self(signal.SIGINT)),
            )
        assert signal.getsignal(signal.SIGINT) is theirs
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@on_disk
def test_a_signal_after_a_training_that_broke_off_acts_as_usual() -> None:
    ours = MlflowCheckpoint("loss")
    with mlflow.start_run():
        with pytest.raises(BoomError):
            fit_only(small_model(), ours, At("on_train_batch_begin", boom))
        with pytest.raises(KeyboardInterrupt):
            send_to_self(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is not signals._handle
        with ours:
            pass  # a way to be done with it


@on_disk
def test_a_signal_at_the_very_end_of_training_is_not_lost() -> None:
    with mlflow.start_run() as run, pytest.raises(SystemExit) as caught:
        fit_only(
            small_model(),
            MlflowCheckpoint("loss"),
            At("on_epoch_end", lambda: send_to_self(signal.SIGTERM)),
        )
    assert caught.value.code == 143
    assert names(run.info.run_id) == ["epoch_0001", "epoch_0002"]


@over_http
def test_a_signal_while_the_rest_is_sent_limits_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def send_for_ever(*arguments: Any, **settings: Any) -> None:
        # As long as there is progress, the end of a training waits.
        while not over.wait(0.05):
            arguments[3](1)
        raise TrackingUnavailableError("the test is over")

    monkeypatch.setattr(sending, "send", send_for_ever)
    signalling = threading.Timer(1.0, lambda: send_to_self(signal.SIGTERM))
    giving_up = threading.Timer(PATIENCE_SECONDS, over.set)
    with mlflow.start_run() as run, pytest.raises(SystemExit) as caught:
        giving_up.start()
        with pytest.warns(UserWarning, match=f"mlflow-ckpt flush {run.info.run_id}"):
            fit_only(
                small_model(),
                At("on_train_end", signalling.start, epoch=0),
                MlflowCheckpoint("loss", drain_timeout=1.0),
                epochs=1,
            )
    assert not over.is_set(), "it waited until the sending ended"
    assert caught.value.code == 143
    giving_up.cancel()
    over.set()


@on_disk
def test_training_in_another_thread() -> None:
    failures: list[BaseException] = []
    run_id = new_run()

    def train() -> None:
        try:
            fit_only(small_model(), MlflowCheckpoint("loss", run_id=run_id))
        except BaseException as error:  # noqa: BLE001 - asserted on below
            failures.append(error)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert failures == []
    assert signal.getsignal(signal.SIGTERM) == before
    assert names(run_id) == ["epoch_0001", "epoch_0002"]


@on_disk
def test_a_new_training_with_the_same_callback_after_one_that_broke_off() -> None:
    ours = MlflowCheckpoint("loss")
    runs = []
    for action in (boom, lambda: None):
        with mlflow.start_run() as run:
            runs.append(run.info.run_id)
            try:
                fit_only(small_model(), ours, At("on_train_batch_end", action))
            except BoomError:
                continue
    # Nothing marked the first training as over: its model stayed as it broke off.
    assert names(runs[0]) == ["epoch_0001"]
    assert names(runs[1]) == ["epoch_0001", "epoch_0002"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@on_disk
def test_two_trainings_in_one_context() -> None:
    with mlflow.start_run() as run, MlflowCheckpoint("loss") as ours:
        model = small_model()
        fit_only(model, ours, epochs=1)
        assert names(run.info.run_id) == ["epoch_0001"]
        with pytest.raises(BoomError):
            fit_only(model, ours, At("on_train_batch_end", boom), initial_epoch=1)
        fit_only(model, ours, initial_epoch=1)
    assert names(run.info.run_id) == ["epoch_0001", "epoch_0002"]


@over_http
@pytest.mark.parametrize(
    ("action", "status"), [(boom, "FAILED"), (lambda: send_to_self(signal.SIGTERM), "KILLED")]
)
def test_an_own_run_ends_as_what_happened_to_it(action: Callable[[], Any], status: str) -> None:
    client = MlflowClient()
    before = {run.info.run_id for run in mlflow.search_runs(output_format="list")}
    with pytest.raises((BoomError, SystemExit)), MlflowCheckpoint("loss") as ours:
        fit_only(small_model(), ours, At("on_train_batch_end", action, epoch=0))
    assert mlflow.active_run() is None
    (new,) = {run.info.run_id for run in mlflow.search_runs(output_format="list")} - before
    assert client.get_run(new).info.status == status
    assert client.get_run(new).info.end_time is not None


# The same in processes of their own, which end without a context manager to help.
SCRIPT = """
import os, signal, sys, time
import mlflow, mlflow_ckpt
from tests.support.training import small_model
from tests.test_interruption import At, BoomError, boom, fit_only

def forked():
    time.sleep(20)
    os._exit(0)

def fork_and_terminate():
    codes = set()
    for _ in range(8):
        child = os.fork() or forked()
        os.kill(child, signal.SIGTERM)  # often before Python is ready in the child
        codes.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print("children ended by", codes)

drain_timeout = float(sys.argv[3])
ours = mlflow_ckpt.MlflowCheckpoint(
    "loss", drain_timeout=drain_timeout, run_id=sys.argv[2] or None
)
kill = lambda number: os.kill(os.getpid(), number)

def twice():
    kill(signal.SIGINT)
    kill(signal.SIGINT)

actions = {
    "raise": boom,
    "exit": lambda: sys.exit(3),
    "SIGTERM": lambda: kill(signal.SIGTERM),
    "SIGINT": lambda: kill(signal.SIGINT),
    "SIGINT twice": twice,
    "fork": fork_and_terminate,
}
action = actions[sys.argv[1]]
model = small_model(run_eagerly=False)
fit_only(model, ours, At("on_train_batch_end", action), shuffle=False)
"""


@pytest.fixture(scope="module")
def uninterrupted() -> dict[int, State]:
    """The state after every step of the same training without an interruption."""
    recorder = Recorder()
    fit_only(small_model(run_eagerly=False), recorder, shuffle=False)
    return recorder.states


def run_script(
    action: str, run_id: str = "", patience: float = PATIENCE_SECONDS
) -> subprocess.CompletedProcess[str]:
    return run_python(SCRIPT, action, run_id, str(patience), cwd=ROOT)


@over_http
@pytest.mark.parametrize(
    ("action", "codes", "reason", "last_line"),
    [
        ("raise", {1}, "BoomError", "tests.test_interruption.BoomError"),
        pytest.param("exit", {3}, "exit", None, marks=pytest.mark.long),
        pytest.param(
            *("SIGINT", {-signal.SIGINT}, "SIGINT", "KeyboardInterrupt"), marks=pytest.mark.long
        ),
        # A process that still works while it ends may forget, in Python, that a signal ended it.
        ("SIGINT twice", {1, -signal.SIGINT}, "KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_a_process_that_ends_saves_its_training_without_a_context_manager(
    action: str,
    codes: set[int],
    reason: str,
    last_line: str | None,
    uninterrupted: dict[int, State],
) -> None:
    run_id = new_run()
    done = run_script(action, run_id)
    assert done.returncode in codes, done.stderr
    if last_line is not None:
        assert done.stderr.rstrip().splitlines()[-1] == last_line
    step = BATCHES + 2
    require_saved(run_id, step, reason, uninterrupted[step], epoch=1)


@over_http
def test_a_preempted_process_ends_its_own_run_as_killed() -> None:
    before = {run.info.run_id for run in mlflow.search_runs(output_format="list")}
    done = run_script("SIGTERM")
    assert done.returncode == 143, done.stderr
    assert done.stdout.count("View run") == 1
    assert "Traceback" not in done.stderr
    (run_id,) = {run.info.run_id for run in mlflow.search_runs(output_format="list")} - before
    assert MlflowClient().get_run(run_id).info.status == "KILLED"
    assert names(run_id) == ["epoch_0001", f"step_{BATCHES + 2:08d}"]


@over_http
def test_forked_children_of_a_training_can_be_terminated() -> None:
    run_id = new_run()
    done = run_script("fork", run_id)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"children ended by {{-{signal.SIGTERM.value}}}\n"
    assert names(run_id) == ["epoch_0001", "epoch_0002"]
    assert tag(run_id) is None


@pytest.mark.long
def test_preempted_while_the_server_is_away_it_leaves_the_rest_to_flush(
    template_database: Path, tmp_path: Path, uninterrupted: dict[int, State]
) -> None:
    server = Server(template_database, tmp_path)
    server.start()
    try:
        with current(open_server(server)):
            run_id = new_run()
            server.stop()
            done = run_script("SIGTERM", run_id, patience=2.0)
            assert done.returncode == 143, done.stderr
            left = Spool.default().entries(run_id)
            step = BATCHES + 2
            assert [entry.label for entry in left] == [
                *("metrics of step 1", "epoch_0001", f"step_{step:08d}", "tags"),
            ]
            assert f"mlflow-ckpt flush {run_id}" in done.stderr
            server.start()
            assert run_command("flush", run_id).exit_code == 0
            require_saved(run_id, step, "SIGTERM", uninterrupted[step], epoch=1)
    finally:
        server.stop()
