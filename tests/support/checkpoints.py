"""Creates runs with checkpoints quickly, for tests that damage one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import keras
import mlflow

from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt._model.capture.buffers import Buffers
from mlflow_ckpt._saving.compose import Composer, Content, Job
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking.spool import entries
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.store import RunStore

_PATIENCE_SECONDS = 300.0


def tiny_model() -> keras.Model:
    """Return a compiled classifier: (n, 4) to three classes."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


# To be saved, not trained: it takes longer to build than to save.
_untrained = cache(tiny_model)


def save_run(
    model: keras.Model | None = None,
    *,
    losses: tuple[float, ...] = (0.5,),
    forms: tuple[str, ...] = ("full",),
    full_format: str = "keras",
    metadata: dict[str, object] | None = None,
) -> str:
    """Save one checkpoint for each loss into a new run of the current store; return its id."""
    with mlflow.start_run() as run:
        store = RunStore(run.info.run_id)
        with CheckpointSaver(
            store, forms=forms, full_format=full_format, metadata=metadata
        ) as saver:
            for index, loss in enumerate(losses):
                saver.save(
                    model or _untrained(),
                    CheckpointName("epoch", index + 1),
                    epoch=index + 1,
                    metrics={"val_loss": loss},
                    monitor=Monitor("val_loss", "min"),
                    best=index == 0,
                )
            # Longer than the default: a disk that stalls is not a failure.
            saver.finish(patience=_PATIENCE_SECONDS)
    return str(run.info.run_id)


def put_checkpoint(run_id: str, uri: str, epoch: int = 1) -> Entry:
    """Put a checkpoint into the spool, as a training does that cannot send it."""
    composer, content = Composer(run_id), Content(forms=("split",))
    taken = composer.take(_untrained(), Buffers(), content)
    name, metrics = f"epoch_{epoch:04d}", {"val_loss": 1.0 / epoch}
    job = Job(
        *(taken, content, name, epoch, metrics, Monitor("val_loss", "min")),
        best=True,
        interrupted=None,
    )
    with Spool.default().draft(run_id) as draft:
        composer.compose(job, draft.files)
        return draft.commit(kind=entries.CHECKPOINT, run_id=run_id, tracking_uri=uri, name=name)


def flip_byte(path: Path, offset: int = -1) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)
