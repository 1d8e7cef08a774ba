"""Child processes that train and save, and can be killed at any moment.

They are ordinary processes, started quickly by `tests.support.processes`.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import keras

from devtools.stores import Store
from mlflow_ckpt._callback import MlflowCheckpoint
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt._format.retention import LatestN
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking.spool import spool_directory
from mlflow_ckpt._tracking.spool.entries import CHECKPOINT
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.store import RunStore
from tests.support.processes import ROOT, Process
from tests.support.training import X, Y, small_model
from tests.support.waiting import PATIENCE_SECONDS, Deadline, wait_for

SPOOL = spool_directory.ENVIRONMENT_VARIABLE


class Child:
    """A process that runs a function and exchanges messages with this one.

    Args:
        function: The function to run, called with a `Talk` and the arguments.
        arguments: Its arguments.
        store: MLflow's current store in the child.
        spool: The spool's directory in the child.
        environment: Environment variables to set in the child.

    Attributes:
        output: What it printed, once it has ended.
    """

    def __init__(
        self,
        function: Callable[..., None],
        *arguments: Any,
        store: Store,
        spool: Path,
        environment: dict[str, str] | None = None,
        **keywords: Any,
    ) -> None:
        self.output = ""
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": store.uri,
            "MLFLOW_EXPERIMENT_ID": store.experiment_id,
            SPOOL: str(spool),
            **(environment or {}),
        }
        code = f"from {__name__} import run; run()"
        with theirs:
            self._process = Process(code, cwd=ROOT, env=environment, stdin=theirs)
        self._connection = Connection(ours.detach())
        self._connection.send((function, arguments, keywords))

    def send(self, content: object) -> None:
        """Send a message to the function."""
        self._connection.send(content)

    def poll(self, seconds: float) -> bool:
        """Whether there is a message, or the process ended, within that time."""
        return self._connection.poll(seconds)

    def resident(self) -> int:
        """Return the memory that the process uses, in bytes; 0 if it has ended."""
        try:
            lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) << 10 for line in lines if "VmRSS" in line), 0)

    def receive(self, wanted: str) -> Any:
        """Wait for a message of a kind, and return its content."""
        deadline = Deadline(f"the message {wanted!r}")
        while True:
            deadline.check()
            assert self._connection.poll(PATIENCE_SECONDS), f"no message {wanted!r}"
            try:
                kind, content = self._connection.recv()
            except EOFError:
                raise AssertionError(f"It ended: {self._process.wait()}") from None
            assert kind != "error" or wanted == "error", content
            if kind == wanted:
                return content

    def receive_epoch(self, least: int = 0) -> int:
        """Wait for the end of epoch `least` or a later one, and return its number."""
        deadline = Deadline(f"epoch {least} is trained")
        while (epoch := int(self.receive("epoch"))) < least:
            deadline.check()
        return epoch

    def kill(self) -> None:
        """Kill the process, which must still run, as the out-of-memory killer does."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        done = self._process.wait()
        assert done.returncode == -signal.SIGKILL, str(done)

    def kill_if_running(self) -> bool:
        """Kill the process unless it has ended, and return whether it was killed."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        return self._process.wait().returncode == -signal.SIGKILL

    def join(self) -> int:
        """Wait until the process ends, and return its exit code."""
        done = self._process.wait()
        self.output = done.stdout
        return done.returncode


class Talk:
    """Exchanges messages between a child and its parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self, kind: str, content: Any = None) -> None:
        self._connection.send((kind, content))

    def receive(self) -> Any:
        """Wait for a message from `Child.send`."""
        return self._connection.recv()


def run() -> None:
    """Run the function that the parent sends."""
    talk = Talk(Connection(os.dup(0)))
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)  # a program that the function starts must not read messages
    try:
        function, arguments, keywords = talk.receive()
        function(talk, *arguments, **keywords)
    except BaseException:
        talk("error", traceback.format_exc())
        raise
    talk("done")


def train(
    talk: Talk,
    run_id: str,
    *,
    initial_epoch: int = 0,
    epochs: int = 1_000_000,
    most_waiting: int | None = None,
    seconds: float = 0.0,
    hold: tuple[int, Path] | None = None,
    end: Path | None = None,
    **arguments: Any,
) -> None:
    """Train and save; send the number of each epoch, finally the number of epochs and the warnings.

    Args:
        talk: Connection to the parent.
        run_id: The run.
        initial_epoch: Number of completed epochs.
        epochs: Total number of epochs.
        most_waiting: Most checkpoints in the spool before training pauses; None for no limit.
        seconds: Minimum duration of an epoch.
        hold: An epoch and a file: after the epoch, training waits until the file exists.
        end: A file: training ends once it exists.
        arguments: Arguments of the callback.
    """
    model = small_model()

    class Tell(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if most_waiting is not None:
                wait_for(lambda: _waiting(run_id) <= most_waiting, "the spool empties", pause=0.005)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            talk("epoch", epoch + 1)
            time.sleep(seconds)
            if hold is not None and epoch + 1 == hold[0]:
                wait_for(hold[1].exists, "training may go on")
            self.model.stop_training = end is not None and end.exists()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(
            *(X, Y),
            batch_size=8,
            initial_epoch=initial_epoch,
            epochs=epochs,
            verbose=0,
            callbacks=[MlflowCheckpoint("loss", run_id=run_id, **arguments), Tell()],
        )
    warned = [warning for warning in caught if not issubclass(warning.category, DeprecationWarning)]
    talk("over", (history.epoch[-1] + 1, [str(warning.message) for warning in warned]))


def save(
    talk: Talk,
    run_id: str,
    *epochs: int,
    prepare: Callable[..., None] | None = None,
    prepare_arguments: tuple[Any, ...] = (),
    max_to_keep: int | None = None,
    bias: float = 0.0,
    patience: float = PATIENCE_SECONDS,
) -> None:
    """Save checkpoints of several epochs, and send the errors.

    Args:
        talk: Connection to the parent.
        run_id: The run.
        epochs: The epochs.
        prepare: Called first, with `talk` and the arguments.
        prepare_arguments: Arguments of `prepare`.
        max_to_keep: Number of checkpoints that the run keeps.
        bias: The model's last bias, which identifies the model in a test.
        patience: Seconds to wait for a server that does not answer.
    """
    model = small_model()
    model.get_layer("head").bias.assign([bias])
    store = RunStore(run_id)
    assert store.run  # as a training does to read its run
    if prepare is not None:
        prepare(talk, *prepare_arguments)
    retention = None if max_to_keep is None else LatestN(max_to_keep)
    saver = CheckpointSaver(store, retention=retention)
    for epoch in epochs:
        saver.save(
            *(model, f"epoch_{epoch:04d}"),
            epoch=epoch,
            metrics={"loss": 1.0 / epoch},
            monitor=Monitor("loss", "min"),
        )
        saver.log_metrics({"loss": 1.0 / epoch}, epoch)
    left = saver.finish(patience=patience)
    errors = [type(outcome.error).__name__ for outcome in saver.outcomes() if outcome.error]
    talk("saved", (errors, [entry.label for entry in left]))


def meet_before(talk: Talk, owner: str, name: str) -> None:
    """Make this process send "here" and wait before its first call of a function.

    Args:
        talk: Connection to the parent.
        owner: Owner of the function: `"package.module"` or `"package.module:Class"`.
        name: Name of the function.
    """
    function = getattr(resolve_name(owner), name)
    met = threading.Event()

    def call(*arguments: Any, **keywords: Any) -> Any:
        if not met.is_set():
            met.set()
            talk("here")
            talk.receive()
        return function(*arguments, **keywords)

    setattr(resolve_name(owner), name, call)


def hang_in(_: Talk, owner: str, name: str, suffix: str) -> None:
    """Make this process hang before it calls a function with a path that ends with `suffix`."""
    function = getattr(resolve_name(owner), name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        if any(str(argument).endswith(suffix) for argument in arguments):
            time.sleep(2 * PATIENCE_SECONDS)  # longer than any test waits for it
        return function(*arguments, **keywords)

    setattr(resolve_name(owner), name, call)


def _waiting(run_id: str) -> int:
    entries = Spool.default().entries(run_id)
    return sum(entry.kind == CHECKPOINT for entry in entries)


def die() -> None:
    """Kill the calling process."""
    os.kill(os.getpid(), signal.SIGKILL)
