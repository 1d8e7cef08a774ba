"""Makes the fixture of the current schema: `python -m tests.data.make_checkpoint DIRECTORY`.

Run once for each schema version, when it is released; the fixture is never made again.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import keras
import mlflow
import numpy as np

import mlflow_ckpt
from mlflow_ckpt._tracking.store import RunStore


def main(target: Path) -> None:
    keras.utils.set_random_seed(1)
    x = np.linspace(-1, 1, 32, dtype="float32").reshape(8, 4)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.25),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    with tempfile.TemporaryDirectory() as temporary:
        mlflow.set_tracking_uri(f"sqlite:///{temporary}/mlflow.db")
        mlflow.create_experiment("fixture", artifact_location=f"file://{temporary}/artifacts")
        mlflow.set_experiment("fixture")
        with mlflow.start_run() as run:
            callback = mlflow_ckpt.MlflowCheckpoint(
                forms=("full", "split"), metadata={"class_names": ["no", "yes"]}
            )
            y = np.arange(8) % 2
            model.fit(x, y, validation_data=(x, y), epochs=2, verbose=0, callbacks=[callback])
        directory = RunStore(run.info.run_id).local_path("checkpoints/epoch_0002")
        shutil.copytree(directory, target / "epoch_0002")
    np.savez(target / "expected.npz", x=x, predictions=model.predict(x, verbose=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
