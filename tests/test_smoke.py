"""Every public function and every command once, on a small training: what `.ci/run` tries quickly.

It does so with the oldest versions that setup.cfg allows, and with the newest that can be had.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest

import mlflow_ckpt
from devtools.stores import Store, current
from mlflow_ckpt import LatestN, MlflowCheckpoint
from mlflow_ckpt._cli import main
from tests.support import cli
from tests.support.signing_keys import write_pair
from tests.support.training import X, fit, new_run, small_model


@dataclass(frozen=True)
class Trained:
    """A training of three epochs.

    Attributes:
        run_id: Its run.
        directory: With what others left: `saved/model_1.keras` of Keras's own callback, and the
            inputs as `x.npy`; and a key to sign with.
    """

    run_id: str
    directory: Path


@pytest.fixture(scope="module")
def trained_once(sqlite_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    directory = tmp_path_factory.mktemp("smoke")
    write_pair(directory, "key")
    (directory / "saved").mkdir()
    np.save(directory / "x.npy", X)
    with current(sqlite_store), mlflow.start_run() as run:
        fit(small_model(), MlflowCheckpoint(forms=("full", "split")), epochs=3)
    theirs = keras.callbacks.ModelCheckpoint(str(directory / "saved" / "model_{epoch}.keras"))
    fit(small_model(), theirs, epochs=1)
    return Trained(run.info.run_id, directory)


@pytest.fixture
def trained(trained_once: Trained, sqlite_store: Store) -> Iterator[Trained]:
    with current(sqlite_store):
        yield trained_once


# Each takes a training, and returns what must be true.
FUNCTIONS: dict[str, Callable[[Trained], object]] = {
    "diff": lambda t: not mlflow_ckpt.diff(f"ckpt:/{t.run_id}/1", f"ckpt:/{t.run_id}/2").identical,
    "fingerprint": lambda t: mlflow_ckpt.fingerprint(small_model()).tensors,
    "get_checkpoint": lambda t: mlflow_ckpt.get_checkpoint(t.run_id, "best").name,
    "import_checkpoints": lambda t: mlflow_ckpt.import_checkpoints(
        t.directory / "saved", run_id=new_run(), pattern="model_{epoch}.keras"
    ),
    "list_checkpoints": lambda t: len(mlflow_ckpt.list_checkpoints(t.run_id)) == 3,
    "load_architecture": lambda t: mlflow_ckpt.load_architecture(t.run_id).layers,
    "load_model": lambda t: mlflow_ckpt.load_model(t.run_id).compiled,
    "load_weights": lambda t: mlflow_ckpt.load_weights(small_model(), t.run_id).loaded,
    "prune": lambda t: mlflow_ckpt.prune(t.run_id, LatestN(1), dry_run=True).dry_run,
    "register": lambda t: mlflow_ckpt.register(t.run_id, name="smoke", alias="champion").is_new,
    "register_callback_state": lambda t: (
        mlflow_ckpt.register_callback_state(
            keras.callbacks.ProgbarLogger, lambda callback: {}, lambda callback, state: None
        )
        is None
    ),
    "restore": lambda t: mlflow_ckpt.restore(small_model(), t.run_id).initial_epoch == 3,
    "resume": lambda t: mlflow_ckpt.resume(t.run_id, "epoch:2").initial_epoch == 2,
    "sign": lambda t: mlflow_ckpt.sign(t.run_id, key=t.directory / "key.pem").name,
    "verify": lambda t: mlflow_ckpt.verify(t.run_id).ok,
}
# Each takes RUN and DIRECTORY, and ends with the code.
COMMANDS: dict[str, tuple[int, str]] = {
    "diff": (1, "ckpt:/RUN/1 ckpt:/RUN/2"),
    "flush": (0, "RUN"),
    "import": (0, "DIRECTORY/saved --run-id NEW --pattern model_{epoch}.keras"),
    "list": (0, "RUN"),
    "predict": (0, "RUN DIRECTORY/x.npy"),
    "prune": (0, "RUN --keep-last 1 --dry-run"),
    "register": (0, "RUN --checkpoint best --name smoke --alias challenger"),
    "report": (0, "RUN --output DIRECTORY/report.html"),
    "restore": (0, "RUN --output DIRECTORY/restored"),
    "resume": (0, "RUN --epochs 5"),
    "show": (0, "RUN"),
    "sign": (0, "RUN --checkpoint 1 --key DIRECTORY/key.pem"),
    "verify": (0, "RUN --all"),
}


def test_nothing_is_left_out() -> None:
    functions = (getattr(mlflow_ckpt, name) for name in mlflow_ckpt.__all__)
    assert FUNCTIONS.keys() == {
        member.__name__ for member in functions if inspect.isfunction(member)
    }
    assert COMMANDS.keys() == main.commands.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str, trained: Trained) -> None:
    assert FUNCTIONS[name](trained)


@pytest.mark.parametrize("name", COMMANDS)
def test_command(name: str, trained: Trained) -> None:
    code, arguments = COMMANDS[name]
    places = {"RUN": trained.run_id, "DIRECTORY": str(trained.directory), "NEW": new_run()}
    words = arguments.split()
    for place, value in places.items():
        words = [word.replace(place, value) for word in words]
    done = cli.run(name, *words)
    assert done.exit_code == code, done.output


def test_mlflow_loads_a_checkpoint_by_itself(trained: Trained) -> None:
    served = mlflow.pyfunc.load_model(f"runs:/{trained.run_id}/checkpoints/epoch_0003")
    expected = mlflow_ckpt.load_model(trained.run_id).predict(X, verbose=0)
    assert np.allclose(served.predict(X), expected, atol=1e-6)
    same = mlflow.pyfunc.load_model(f"ckpt:/{trained.run_id}/latest")
    assert np.allclose(same.predict(X), expected, atol=1e-6)
