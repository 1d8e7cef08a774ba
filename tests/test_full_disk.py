"""A full disk while saving: one clear sentence, and nothing that looks like a checkpoint."""

from __future__ import annotations

import re

import pytest

from devtools.stores import Store
from mlflow_ckpt import list_checkpoints, verify
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from tests.support.processes import run_python
from tests.support.training import new_run

# A limit on file sizes, which every write past it meets as an error, stands in for a full disk.
SCRIPT = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import keras, mlflow, numpy as np
import mlflow_ckpt
from mlflow_ckpt.errors import OutputError
from tests.support.training import new_run
x = np.ones((8, 64), "float32")
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(512), keras.layers.Dense(1)])
model.compile("adam", "mse")
class FillDisk(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            # Once the first checkpoint is written and sent.
            callback.participant.training.session.saver.flush(patience=300)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
callback = mlflow_ckpt.MlflowCheckpoint(
    monitor="loss", run_id=sys.argv[1], forms=sys.argv[2].split(","), full_format=sys.argv[3],
    log_metrics=False, on_error=sys.argv[4],
)
try:
    model.fit(x, x[:, :1], epochs=3, verbose=0, callbacks=[FillDisk(), callback])
except OutputError as error:
    print(error)
else:
    print("trained to the end")
"""


def train(run_id: str, forms: str, full_format: str, on_error: str) -> tuple[str, str]:
    """Train in a process whose disk fills up; return what it printed and its warnings."""
    result = run_python(
        SCRIPT,
        run_id,
        forms,
        full_format,
        on_error,
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr


def lost(name: str) -> str:
    spool = re.escape(str(Spool.default().root))
    return (
        rf"The checkpoint {name} could not be written to {spool}: .*File too large.*\. It is lost, "
        r"and nothing was uploaded\. Free space, or set MLFLOW_CKPT_SPOOL to a directory on "
        r"another disk\."
    )


def require_only_the_first(run_id: str) -> None:
    assert [checkpoint.name for checkpoint in list_checkpoints(run_id)] == ["epoch_0001"]
    assert verify(run_id).ok
    assert not list((Spool.default().root / run_id).glob("*")), "half a checkpoint is left behind"


@pytest.mark.parametrize(
    ("forms", "full_format"), [("full", "keras"), ("full", "h5"), ("split", "keras")]
)
def test_training_goes_on_and_is_told_what_is_lost(
    http_store: Store, forms: str, full_format: str
) -> None:
    run_id = new_run()
    printed, warned = train(run_id, forms, full_format, "warn")
    assert printed == "trained to the end\n"
    for name in ("epoch_0002", "epoch_0003"):
        assert len(re.findall(f"UserWarning: {lost(name)}\n", warned)) == 1, warned
    require_only_the_first(run_id)


def test_training_ends_where_that_is_asked_for(http_store: Store) -> None:
    run_id = new_run()
    printed, _ = train(run_id, "full", "keras", "raise")
    assert re.fullmatch(lost("epoch_0002") + "\n", printed), printed
    require_only_the_first(run_id)
