"""Measures the overhead of data that continue: per epoch, and per save within an epoch.

python -m benchmarks.data_order
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BATCH_SIZE = 64
# The first batches trace the graph and fill buffers.
_FIRST_SAVED = 4


@click.command(context_settings={"show_default": True})
@click.option(
    "--images", type=click.IntRange(1), default=50_000, help="As many as CIFAR-10 has by default."
)
@click.option("--rounds", type=click.IntRange(1), default=5, help="Epochs of each, interleaved.")
def main(images: int, rounds: int) -> None:
    """Measure an epoch of the CNN on random images of CIFAR-10's shape, from several sources."""
    import keras
    import numpy as np

    import mlflow_ckpt
    from projects.cifar10.model import build_model

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, size=(images, 32, 32, 3), dtype=np.uint8)
    y = rng.integers(0, 10, size=images)
    model = build_model((32, 32, 3), 10, 0.001)
    data = mlflow_ckpt.EpochDataset(x, y, batch_size=BATCH_SIZE, seed=0)

    def pipeline(epoch: int) -> Any:
        import tensorflow as tf

        dataset = tf.data.Dataset.from_tensor_slices((x, y))
        return dataset.shuffle(10_000, seed=epoch).batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)

    piped = mlflow_ckpt.EpochDataset.from_function(pipeline)
    continuing = _continuing()
    sources: dict[str, Callable[[int], dict[str, Any]]] = {
        "fit(x, y)": lambda _: {"x": x, "y": y, "batch_size": BATCH_SIZE},
        "fit(x, y), continued": lambda _: {
            "x": x,
            "y": y,
            "batch_size": BATCH_SIZE,
            "callbacks": [continuing()],
        },
        "EpochDataset(x, y)": lambda epoch: {"x": _begun(data, epoch)},
        "fit(tf.data.Dataset)": lambda epoch: {"x": pipeline(epoch)},
        "EpochDataset.from_function": lambda epoch: {"x": _begun(piped, epoch)},
    }
    if keras.config.backend() != "tensorflow":
        del sources["fit(tf.data.Dataset)"], sources["EpochDataset.from_function"]
    times: dict[str, list[float]] = {name: [] for name in sources}
    for epoch in range(-1, rounds):
        for name, source in sources.items():
            # Without MlflowCheckpoint, which would begin the epochs but also save checkpoints.
            arguments = {"shuffle": name.startswith("fit(x, y)"), **source(max(epoch, 0))}
            started = time.perf_counter()
            model.fit(**arguments, verbose=0)
            if epoch >= 0:  # the first epoch traces the graph
                times[name].append(time.perf_counter() - started)
    _show(times, images)
    if keras.config.backend() == "tensorflow":
        _show_states(_measure_states(model, x, y, rounds))


def _measure_states(model: Any, x: Any, y: Any, rounds: int) -> dict[str, list[Any]]:
    """Return the milliseconds on the training thread and the bytes of each kind of data's state."""
    import numpy as np
    import tensorflow as tf

    class Measure(_continuing()):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []
            self.bytes = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            del logs
            if batch >= _FIRST_SAVED:
                started = time.perf_counter()
                _, arrays, _ = self.context.feed.capture(batch + 1, finished=False)
                self.seconds.append(time.perf_counter() - started)
                self.bytes = sum(np.asarray(array).nbytes for array in arrays.values())

    rows = tf.data.Dataset.from_tensor_slices((x, y))

    def cropped(image: Any, label: Any) -> Any:
        return tf.cast(image, tf.float32), label

    sources: dict[str, dict[str, Any]] = {
        "arrays": {"x": x, "y": y, "batch_size": BATCH_SIZE, "shuffle": True},
        "tf.data, batches shuffled": {"x": rows.batch(BATCH_SIZE).shuffle(20)},
    }
    for buffer in (100, 1_000, 10_000):
        mapped = rows.shuffle(buffer).map(cropped, num_parallel_calls=tf.data.AUTOTUNE)
        sources[f"tf.data, shuffle({buffer:_})"] = {"x": mapped.batch(BATCH_SIZE).prefetch(2)}
    measured = {}
    for name, arguments in sources.items():
        measure = Measure()
        settings = {"shuffle": False, "steps_per_epoch": _FIRST_SAVED + rounds, **arguments}
        model.fit(**settings, verbose=0, callbacks=[measure])
        measured[name] = [median(measure.seconds) * 1e3, measure.bytes]
    return measured


def _continuing() -> Any:
    """Return a class of callbacks that follow the data as `MlflowCheckpoint` does."""
    import keras

    from mlflow_ckpt._model.training.fit_context import FitContext

    class Continuing(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: Any = None) -> None:
            del logs
            self.context = FitContext(self, data_state_limit=1 << 40)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            del logs
            self.context.begin_epoch(epoch)

    return Continuing


def _show_states(measured: dict[str, list[Any]]) -> None:
    table = Table(title="Saving the state of the data within an epoch")
    for column in ("data", "ms on the training thread", "KB"):
        table.add_column(column, justify="left" if column == "data" else "right")
    for name, (milliseconds, size) in measured.items():
        table.add_row(name, f"{milliseconds:.1f}", f"{size / 1e3:,.1f}")
    Console(width=100).print(table)


def _begun(data: Any, epoch: int) -> Any:
    data.begin(epoch)
    return data


def _show(times: dict[str, list[float]], images: int) -> None:
    table = Table(title=f"An epoch of {images:,} images in batches of {BATCH_SIZE}")
    for column in ("source", "median s", "min", "max", "x fit(x, y), round by round"):
        table.add_column(column, justify="left" if column == "source" else "right")
    base = times["fit(x, y)"]
    for name, seconds in times.items():
        ratio = median(own / plain for own, plain in zip(seconds, base, strict=True))
        table.add_row(
            name,
            *(f"{value:.2f}" for value in (median(seconds), min(seconds), max(seconds))),
            f"{ratio:.3f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
