"""Every kind of model comes back exactly as it was, from either form and in either format."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import mlflow
import numpy as np
import pytest
import yaml

import mlflow_ckpt
from devtools.stores import Store, current
from mlflow_ckpt._format.fingerprint import OPTIMIZER_ROLE, WEIGHTS_ROLE, Fingerprint
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking.store import RunStore
from tests.support.zoo import ROWS, ZOO, Entry

BOTH = (WEIGHTS_ROLE, OPTIMIZER_ROLE)
# Of the legacy format, these are enough for every day.
DAILY_H5 = {"sequential", "several inputs and outputs", "batch normalization", "schedule"}
CASES = [
    pytest.param(
        (name, fmt),
        marks=[pytest.mark.long] if fmt == "h5" and name not in DAILY_H5 else [],
        id=f"{name}, {fmt}",
    )
    for name, entry in ZOO.items()
    for fmt in entry.formats
]
# What these are about is in the graph; to trace it for the others takes most of their time, and all
# kinds of `test_kinds` are traced.
IN_GRAPHS = {"just-in-time compiled", "steps per execution", "sequential", "recurrent"}
EPOCHS = 2
# All rows at once: two epochs are two steps.
BATCH = ROWS


@dataclass(frozen=True)
class Case:
    """A trained model, its checkpoints, and what it was when they were saved.

    Attributes:
        entry: Its kind.
        model: The live model, which the test of training trains on.
        run_id: A run with `epoch_0001` and `epoch_0002` by the callback (if it can be trained),
            `epoch_0003` of the model after training in both forms, `epoch_0004` in the full form.
        directory: Where the files of `epoch_0003` are.
        archive: What `model.save` wrote at the same moment.
        fingerprint: The model's own.
        prediction: Its predictions on the training data.
        evaluation: Its loss and metrics on the training data; None if it is not compiled.
    """

    entry: Entry
    model: keras.Model
    x: Any
    y: Any
    run_id: str
    directory: Path
    archive: Path
    fingerprint: Fingerprint
    prediction: Any
    evaluation: Any

    def load(self, checkpoint: int, form: str = "full") -> keras.Model:
        """Load a checkpoint with this package."""
        return mlflow_ckpt.load_model(self.run_id, checkpoint, form, self.entry.custom_objects)

    def predict(self, model: keras.Model) -> Any:
        """Predict on the training data, computing as the live model does."""
        model.run_eagerly, model.jit_compile = self.model.run_eagerly, self.model.jit_compile
        return predict(model, self.x)


# The methods for one batch compute what `predict`, `evaluate` and `fit` do, without their data set,
# which takes ten times as long.
def predict(model: keras.Model, x: Any) -> Any:
    return model.predict_on_batch(x)


def evaluate(model: keras.Model, x: Any, y: Any) -> Any:
    model.reset_metrics()
    return model.test_on_batch(x, y, return_dict=True)


def train_on(model: keras.Model, x: Any, y: Any) -> None:
    """Train one more step: the third, which is when settings of 3 in the zoo take effect."""
    model.train_on_batch(x, y)


@pytest.fixture(params=CASES, scope="module")
def case(
    request: pytest.FixtureRequest, sqlite_store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    """Each kind of model in each full format that Keras has for it."""
    name, full_format = request.param
    with current(sqlite_store):
        archive = tmp_path_factory.mktemp("stock") / "model.keras"
        keras.utils.set_random_seed(7)
        model = ZOO[name].build()
        if name not in IN_GRAPHS:
            model.run_eagerly = True  # not in the settings that are saved
        yield train(ZOO[name], model, full_format, sqlite_store, archive)


def train(entry: Entry, model: keras.Model, full_format: str, store: Store, archive: Path) -> Case:
    x, y = entry.data()
    # In it, the trial of the first checkpoint finds what loading is given below.
    known = keras.saving.custom_object_scope(dict(entry.custom_objects))
    with mlflow.start_run() as run, known:
        if entry.compiled:
            callback = mlflow_ckpt.MlflowCheckpoint("loss", full_format=full_format)
            model.fit(x, y, epochs=EPOCHS, batch_size=BATCH, verbose=0, callbacks=[callback])
        run_store = RunStore(run.info.run_id)
        for name, forms in (("epoch_0003", entry.forms), ("epoch_0004", ("full",))):
            with CheckpointSaver(run_store, forms=forms, full_format=full_format) as saver:
                saver.save(model, name, epoch=int(name[-1]), metrics={})
    model.save(archive)
    return Case(
        entry=entry,
        model=model,
        x=x,
        y=y,
        run_id=run.info.run_id,
        directory=store.checkpoint_directory(run.info.run_id, "epoch_0003"),
        archive=archive,
        fingerprint=mlflow_ckpt.fingerprint(model),
        prediction=predict(model, x),
        evaluation=evaluate(model, x, y) if entry.compiled else None,
    )


def assert_same(one: Any, other: Any) -> None:
    """The same structure of arrays, bit by bit."""
    assert keras.tree.flatten(one), "nothing was compared"
    keras.tree.assert_same_structure(one, other)
    for left, right in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
        assert np.asarray(left).dtype == np.asarray(right).dtype
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


def test_the_full_form_brings_back_everything_and_training_goes_on(case: Case) -> None:
    loaded = case.load(3)
    now = mlflow_ckpt.fingerprint(loaded)
    assert case.fingerprint.differing(now, BOTH) == []
    assert case.fingerprint.architecture_digest == now.architecture_digest
    assert [v.trainable for v in loaded.weights] == [v.trainable for v in case.model.weights]
    assert loaded.compiled == case.entry.compiled
    assert_same(case.predict(loaded), case.prediction)
    if not case.entry.compiled:
        return
    assert type(loaded.optimizer) is type(case.model.optimizer)
    assert loaded.optimizer.get_config() == case.model.optimizer.get_config()
    assert_same(values(loaded.optimizer.variables), values(case.model.optimizer.variables))
    assert evaluate(loaded, case.x, case.y) == case.evaluation
    # All state is back, seed generators included: both go the same way from here.
    assert_same(values(loaded.variables), values(case.model.variables))
    train_on(loaded, case.x, case.y)
    train_on(case.model, case.x, case.y)
    assert_same(values(loaded.variables), values(case.model.variables))
    assert_same(values(loaded.optimizer.variables), values(case.model.optimizer.variables))
    assert evaluate(loaded, case.x, case.y)["loss"] < case.evaluation["loss"]


@pytest.mark.parametrize("checkpoint", [3, 4], ids=["both forms", "full form alone"])
def test_the_split_form_predicts_the_same(case: Case, checkpoint: int) -> None:
    loaded = case.load(checkpoint, "split")
    assert not loaded.compiled
    assert_same(case.predict(loaded), case.prediction)


def test_the_callback_saved_what_the_model_was(case: Case) -> None:
    if not case.entry.compiled:
        pytest.skip("cannot be trained")
    names = [checkpoint.name for checkpoint in mlflow_ckpt.list_checkpoints(case.run_id)]
    assert names == ["epoch_0001", "epoch_0002", "epoch_0003", "epoch_0004"]
    last = case.load(EPOCHS)
    if last.optimizer.use_ema:
        # When training ends, Keras puts the averages in the place of the weights.
        last.optimizer.finalize_variable_values(last.trainable_weights)
    assert case.fingerprint.differing(mlflow_ckpt.fingerprint(last), BOTH) == []


def test_keras_alone_reads_every_file(case: Case) -> None:
    custom = dict(case.entry.custom_objects)
    text = (case.directory / "architecture.json").read_text()
    assert yaml.safe_load((case.directory / "architecture.yaml").read_text()) == json.loads(text)
    rebuilt = keras.models.model_from_json(text, custom_objects=custom)
    if "split" in case.entry.forms:
        rebuilt.load_weights(case.directory / "model.weights.h5")
        assert_same(case.predict(rebuilt), case.prediction)
    (full,) = case.directory.glob("data/model.*")
    # Keras 3.15 cannot compile every model from legacy HDF5.
    stock = keras.models.load_model(full, custom_objects=custom, compile=full.suffix == ".keras")
    assert_same(case.predict(stock), case.prediction)


def test_the_archive_is_what_model_save_writes(case: Case) -> None:
    ours = case.directory / "data" / "model.keras"
    if not ours.is_file():
        pytest.skip("saved as HDF5")
    with zipfile.ZipFile(ours) as mine, zipfile.ZipFile(case.archive) as theirs:
        assert sorted(mine.namelist()) == sorted(theirs.namelist())
        assert config(mine) == config(theirs)
        for name in theirs.namelist():
            if name.startswith("assets/"):
                assert mine.read(name) == theirs.read(name)
        assert json.loads(mine.read("metadata.json")).keys() == (
            json.loads(theirs.read("metadata.json")).keys()
        )
        assert tree(mine.read("model.weights.h5")) == tree(theirs.read("model.weights.h5"))


def values(variables: Any) -> list[Any]:
    return [np.asarray(variable) for variable in variables]


def config(archive: zipfile.ZipFile) -> Any:
    """The configuration without the ids that Keras takes from memory addresses."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: cleaned(v) for k, v in value.items() if k != "shared_object_id"}
        return [cleaned(item) for item in value] if isinstance(value, list) else value

    return cleaned(json.loads(archive.read("config.json")))


def tree(weights: bytes) -> dict[str, Any]:
    """Everything in an HDF5 file: groups, datasets with dtype, shape and bytes, attributes."""
    content: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        attributes = dict(item.attrs)
        if isinstance(item, h5py.Dataset):
            content[name] = (item.dtype.str, item.shape, item[()].tobytes(), attributes)
        else:
            content[name] = attributes

    with h5py.File(io.BytesIO(weights)) as file:
        content[""] = dict(file.attrs)
        file.visititems(visit)
    return content
