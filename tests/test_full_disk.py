"""A full disk while saving: one clear sentence, and nothing that looks like a checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from mlflow_ckpt import list_checkpoints
from tests.support.stores import Store

# A limit on file sizes, which every write past it meets as an error, stands in for a full disk.
SCRIPT = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import keras, mlflow, numpy as np
import mlflow_ckpt
from mlflow_ckpt.errors import OutputError
x = np.ones((8, 64), "float32")
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(512), keras.layers.Dense(1)])
model.compile("adam", "mse")
class FillDisk(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
callback = mlflow_ckpt.MlflowCheckpoint(
    monitor="loss", run_id=sys.argv[1], forms=sys.argv[2].split(","), full_format=sys.argv[3],
    log_metrics=False,
)
try:
    model.fit(x, x[:, :1], epochs=3, verbose=0, callbacks=[FillDisk(), callback])
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("forms", "full_format"), [("full", "keras"), ("full", "h5"), ("split", "keras")]
)
def test_saving_says_so_and_keeps_what_was_there(
    http_store: Store, tmp_path: Path, forms: str, full_format: str
) -> None:
    with mlflow.start_run() as active:
        pass
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, active.info.run_id, forms, full_format],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("The checkpoint epoch_0002 could not be written to ")
    assert "File too large" in result.stdout
    assert "Nothing was uploaded; free some space" in result.stdout
    assert "Traceback" not in result.stderr
    assert [found.name for found in list_checkpoints(active.info.run_id)] == ["epoch_0001"]
