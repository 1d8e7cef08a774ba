"""Whatever data `fit` gets, a training resumed in another process gets the batches that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest

import mlflow_ckpt
from devtools.stores import Store
from tests.support import data_jobs
from tests.support.children import Child
from tests.support.data_jobs import JOBS
from tests.support.jobs import Done
from tests.support.training import BATCH, X, Y, names, new_run, small_model
from tests.support.waiting import wait_for

EPOCHS = 3
# Every day, what most people pass to `fit`; the others stand behind the marker `long`.
DAILY = {"shuffled arrays", "tf.data, repeated"}
# What needs another backend or a package stands in test_resuming_on_other_backends.py.
HERE = [
    name
    for name in JOBS
    if not {"DataLoader", "StatefulDataLoader", "Grain"} & {*name.replace(",", "").split()}
]


def run(store: Store, spool: Path, *trainings: list[Any]) -> list[Done]:
    """Run trainings in a process of their own."""
    child = Child(data_jobs.train_in_child, list(trainings), store=store, spool=spool)
    done = child.receive("trained")
    assert child.join() == 0
    assert all(isinstance(training, Done) for training in done)
    return list(done)


def require_same(whole: Done, resumed: Done) -> None:
    """Assert that two trainings ended alike: the model, its optimizer, the epoch's metrics."""
    assert resumed.warned == []
    assert resumed.weights == whole.weights
    difference = mlflow_ckpt.diff(whole.run_id, resumed.run_id)
    assert difference.identical, difference
    metrics = [
        mlflow_ckpt.get_checkpoint(done.run_id).manifest.metrics for done in (whole, resumed)
    ]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in DAILY else [pytest.mark.long]) for name in HERE],
)
def test_from_inside_an_epoch_and_from_its_end(local_store: Store, spool: Path, name: str) -> None:
    (whole,) = run(local_store, spool, [name, EPOCHS])
    inside, end = names(whole.run_id)[:2]
    resumed = run(
        local_store,
        spool,
        *([name, EPOCHS, whole.run_id, f"step:{int(at.split('_')[1])}"] for at in (inside, end)),
    )
    for training in resumed:
        require_same(whole, training)


def test_killed_inside_an_epoch(local_store: Store, spool: Path) -> None:
    name = "shuffled arrays, a global seed"
    child = Child(data_jobs.train_and_wait, name, EPOCHS, store=local_store, spool=spool)
    run_id = child.receive("run")
    wait_for(lambda: len(names(run_id)) == 1, "the checkpoint inside the second epoch")
    child.kill()
    whole, resumed = run(local_store, spool, [name, EPOCHS], [name, EPOCHS, run_id, "latest"])
    require_same(whole, resumed)


def fit(model: keras.Model, *callbacks: Any, **arguments: Any) -> None:
    settings = {"epochs": 1, "verbose": 0, "callbacks": list(callbacks)}
    if arguments["x"] is not X:
        settings["shuffle"] = False  # Keras warns that it ignores it
    model.fit(**{**settings, **arguments})


def resumed_with(run_id: str, caught: pytest.WarningsRecorder, **arguments: Any) -> str:
    """Resume a training with arguments of `fit`, and return what is named."""
    point = mlflow_ckpt.resume(run_id)
    caught.clear()
    fit(
        point.model,
        *point.callbacks,
        **{"epochs": point.initial_epoch + 1, "initial_epoch": point.initial_epoch, **arguments},
    )
    return " ".join(str(warning.message) for warning in caught)


def trained_with(**arguments: Any) -> str:
    with mlflow.start_run() as active:
        fit(small_model(), mlflow_ckpt.MlflowCheckpoint("loss"), **arguments)
    return str(active.info.run_id)


ARRAYS = {"x": X, "y": Y, "batch_size": BATCH}


@pytest.mark.filterwarnings("ignore:A resumed training")
def test_arguments_of_fit_that_differ_are_named(
    local_store: Store, spool: Path, recwarn: pytest.WarningsRecorder
) -> None:
    run_id = trained_with(**ARRAYS, validation_data=(X, Y), shuffle=True)
    text = resumed_with(
        run_id,
        recwarn,
        **{**ARRAYS, "x": X[:16], "y": Y[:16] + 1.0},
        sample_weight=np.ones(16, "float32"),
        steps_per_epoch=2,
    )
    assert "fit.steps_per_epoch was None and is now 2" in text
    assert "fit.validation_data.arrays[0] was 'float32 [24, 4]' and is now absent" in text
    assert "fit.sample_weight.arrays[0] was absent and is now 'float32 [16]'" in text
    assert "data.samples was 24 and is now 16" in text
    assert "data.digest was" in text


@pytest.mark.filterwarnings("ignore:A resumed training")
def test_class_weights_that_differ_are_named(
    local_store: Store, spool: Path, recwarn: pytest.WarningsRecorder
) -> None:
    labels = np.arange(len(X)) % 2
    arguments = {"x": X, "y": labels, "batch_size": BATCH}
    run_id = trained_with(**arguments, class_weight={0: 1.0, 1: 2.0})
    text = resumed_with(run_id, recwarn, **arguments, class_weight={0: 1.0, 1: 3.0})
    assert "fit.class_weight.1 was 2.0 and is now 3.0" in text


def batches() -> Iterator[Any]:
    while True:
        yield X[:BATCH], Y[:BATCH]


@pytest.mark.filterwarnings("ignore:A resumed training")
def test_a_generator_that_starts_over_is_named(
    local_store: Store, spool: Path, recwarn: pytest.WarningsRecorder
) -> None:
    run_id = trained_with(x=batches(), steps_per_epoch=3)
    text = resumed_with(run_id, recwarn, x=batches(), steps_per_epoch=3)
    assert "a Python generator starts from its beginning" in text
    assert "replay_data=True" in text


def mapped(function: Callable[[Any], Any]) -> dict[str, Any]:
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((X, Y))
    return {"x": dataset.map(lambda x, y: (function(x), y)).batch(BATCH)}


def randomly(x: Any) -> Any:
    import tensorflow as tf

    return x + tf.random.normal(x.shape)


def in_python(x: Any) -> Any:
    import tensorflow as tf

    return tf.ensure_shape(tf.numpy_function(lambda value: value, [x], tf.float32), (4,))


@pytest.mark.filterwarnings("ignore:A resumed training")
@pytest.mark.parametrize(
    ("function", "named"),
    [(randomly, "operations with a state of their own"), (in_python, "calls a Python function")],
)
def test_what_tf_data_cannot_save_is_named(
    local_store: Store,
    spool: Path,
    recwarn: pytest.WarningsRecorder,
    function: Callable[[Any], Any],
    named: str,
) -> None:
    run_id = trained_with(**mapped(function))
    assert named in resumed_with(run_id, recwarn, **mapped(function))


@pytest.mark.filterwarnings("ignore:A resumed training")
def test_other_data_than_before_are_named(
    local_store: Store, spool: Path, recwarn: pytest.WarningsRecorder
) -> None:
    run_id = trained_with(**ARRAYS)
    text = resumed_with(run_id, recwarn, **mapped(lambda x: x))
    assert "fit got shuffled arrays and gets tf.data.Dataset" in text


def orders(seed: int | None, count: int) -> list[tuple[int, ...]]:
    """Return the orders of samples that `fit` uses for arrays, one of each of several trainings."""
    found: list[tuple[int, ...]] = []

    class Seeing(keras.Sequential):
        def train_step(self, data: Any) -> Any:
            found[-1] += tuple(int(value) for value in keras.ops.convert_to_numpy(data[0])[:, 0])
            return super().train_step(data)

    samples = np.arange(7, dtype="float32")[:, None]
    for _ in range(count):
        if seed is not None:
            keras.utils.set_random_seed(seed)
        model = Seeing([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", run_eagerly=True)
        found.append(())
        callback = mlflow_ckpt.MlflowCheckpoint("loss", run_id=new_run(), save_freq=1000)
        model.fit(samples, samples, batch_size=3, verbose=0, callbacks=[callback])
    return found


@pytest.mark.parametrize("seed", [None, 3])
def test_what_is_validated_on_is_not_trained_on(
    local_store: Store, spool: Path, seed: int | None
) -> None:
    import tensorflow as tf

    seen: dict[str, set[int]] = {"trained": set(), "validated": set()}

    class Seeing(keras.Sequential):
        def train_step(self, data: Any) -> Any:
            seen["trained"] |= {int(value) for value in data[0][:, 0]}
            return super().train_step(data)

        def test_step(self, data: Any) -> Any:
            seen["validated"] |= {int(value) for value in data[0][:, 0]}
            return super().test_step(data)

    samples = np.arange(24, dtype="float32")[:, None]
    # Another seed in a copy of the training part would make another permutation.
    both = tf.data.Dataset.from_tensor_slices((samples, samples)).shuffle(
        24, seed=seed, reshuffle_each_iteration=False
    )
    model = Seeing([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    callback = mlflow_ckpt.MlflowCheckpoint("loss", run_id=new_run(), save_freq=1000)
    model.fit(
        both.skip(8).batch(4),
        validation_data=both.take(8).batch(4),
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[callback],
    )
    assert len(seen["trained"]) == 16
    assert len(seen["validated"]) == 8
    assert not seen["trained"] & seen["validated"]


def test_the_order_of_arrays_is_random_and_repeats_with_a_global_seed(
    local_store: Store, spool: Path
) -> None:
    free = orders(None, 4)
    assert all(sorted(order) == list(range(7)) for order in free)
    assert len(set(free)) > 1
    assert len(set(orders(5, 2))) == 1


def test_a_pipeline_is_read_as_often_as_without_the_callback(
    local_store: Store, spool: Path
) -> None:
    import tensorflow as tf

    read: list[int] = []

    def note(index: Any) -> Any:
        read.append(int(index))
        return index

    def counted(index: Any, x: Any, y: Any) -> Any:
        (index,) = tf.numpy_function(note, [index], [tf.int64])
        with tf.control_dependencies([index]):
            return tf.identity(x), tf.identity(y)

    def dataset() -> Any:
        parts = (tf.data.Dataset.range(24), tf.data.Dataset.from_tensor_slices((X, Y)))
        flat = tf.data.Dataset.zip(parts).map(lambda i, xy: counted(i, *xy))
        return flat.batch(BATCH)

    fit(small_model(), x=dataset(), epochs=2)
    plain = list(read)
    read.clear()
    fit(
        small_model(),
        mlflow_ckpt.MlflowCheckpoint("loss", run_id=new_run()),
        x=dataset(),
        epochs=2,
    )
    assert read == plain


class Breaking(keras.callbacks.Callback):
    """Raises in the validation of the second epoch, and has state of its own."""

    def __init__(self, breaks: bool) -> None:
        super().__init__()
        self.breaks = breaks
        self.epoch = 0
        self.ended: list[tuple[float, float]] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        np.random.random()  # which validation may do, too
        if self.breaks and self.epoch == 1 and batch == 1:
            raise ZeroDivisionError

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.ended.append((logs["loss"], logs["val_loss"]))
        self.model.optimizer.learning_rate = 0.05 * np.random.random()

    def get_state(self) -> list[Any]:
        return [list(pair) for pair in self.ended]

    def set_state(self, state: list[Any]) -> None:
        self.ended = [(loss, validated) for loss, validated in state]


VALIDATED = {**ARRAYS, "validation_data": (X, Y), "validation_batch_size": BATCH, "epochs": 3}


@pytest.mark.parametrize("kind", ["arrays", "EpochDataset"])
def test_a_break_inside_a_validation(local_store: Store, spool: Path, kind: str) -> None:
    settings = dict(VALIDATED)
    if kind == "EpochDataset":
        for name in ("y", "batch_size"):
            del settings[name]

    def trained(breaks: bool) -> tuple[keras.Model, Breaking, str]:
        keras.utils.clear_session()  # name layers alike
        model, breaking = small_model(), Breaking(breaks)
        np.random.seed(3)
        if kind == "EpochDataset":
            settings["x"] = mlflow_ckpt.EpochDataset(X, Y, batch_size=BATCH)
        with mlflow.start_run() as active, mlflow_ckpt.MlflowCheckpoint("loss") as checkpoints:
            fit(model, checkpoints, breaking, **settings)
        return model, breaking, str(active.info.run_id)

    model, whole, run_id = trained(breaks=False)
    with pytest.raises(ZeroDivisionError):
        trained(breaks=True)
    broken = mlflow.search_runs(output_format="list")[0].info.run_id
    breaking = Breaking(breaks=False)
    if kind == "EpochDataset":
        settings["x"] = mlflow_ckpt.EpochDataset(X, Y, batch_size=BATCH)
    point = mlflow_ckpt.resume(broken, callbacks=[breaking])
    assert (point.initial_epoch, point.initial_batch) == (1, 3)
    fit(point.model, *point.callbacks, **settings, initial_epoch=1)
    assert breaking.ended == whole.ended
    digests = [mlflow_ckpt.fingerprint(item).weights_digest for item in (model, point.model)]
    assert digests[0] == digests[1]
    assert mlflow_ckpt.diff(run_id, mlflow.last_active_run().info.run_id).identical
