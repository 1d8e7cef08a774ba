"""Every kind of model comes back exactly as it was, from either form and in either format."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
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
from mlflow_ckpt.format.fingerprint import OPTIMIZER_ROLE, WEIGHTS_ROLE
from mlflow_ckpt.saver import CheckpointSaver
from mlflow_ckpt.tracking.store import RunStore
from tests.support.stores import Store, current
from tests.support.zoo import ZOO, Entry

BOTH = (WEIGHTS_ROLE, OPTIMIZER_ROLE)
CASES = [(name, fmt) for name, entry in ZOO.items() for fmt in entry.formats]
EPOCHS = 2


@dataclass(frozen=True)
class Case:
    """A trained model and its checkpoints.

    Attributes:
        entry: Its kind.
        model: The live model.
        run_id: A run with `epoch_0001` and `epoch_0002` by the callback (if it can be trained),
            `epoch_0003` of the model as it is now in both forms, `epoch_0004` in the full form.
        directory: Where the files of `epoch_0003` are.
    """

    entry: Entry
    model: keras.Model
    x: Any
    y: Any
    run_id: str
    directory: Path

    def load(self, checkpoint: int, form: str = "full") -> keras.Model:
        """Load a checkpoint with this package."""
        return mlflow_ckpt.load_model(self.run_id, checkpoint, form, self.entry.custom_objects)

    def predict(self, model: keras.Model) -> Any:
        """Predict on the training data."""
        return model.predict(self.x, verbose=0, batch_size=16)

    def evaluate(self, model: keras.Model) -> Any:
        """Evaluate on the training data."""
        return model.evaluate(self.x, self.y, verbose=0, batch_size=16, return_dict=True)

    def fit(self, model: keras.Model, epochs: int) -> None:
        """Train on, the data in a fixed order."""
        model.fit(self.x, self.y, epochs=epochs, batch_size=16, shuffle=False, verbose=0)


@pytest.fixture(scope="module")
def trained(sqlite_store: Store) -> Callable[[str, str], Case]:
    """Trains a model of a kind and saves it in a format, once."""
    made: dict[tuple[str, str], Case] = {}

    def make(name: str, full_format: str) -> Case:
        if (name, full_format) not in made:
            made[name, full_format] = train(ZOO[name], full_format, sqlite_store)
        return made[name, full_format]

    return make


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}, {case[1]}", scope="module")
def case(
    request: pytest.FixtureRequest, trained: Callable[[str, str], Case], sqlite_store: Store
) -> Iterator[Case]:
    """Each kind of model in each full format that Keras has for it."""
    with current(sqlite_store):
        yield trained(*request.param)


def train(entry: Entry, full_format: str, store: Store) -> Case:
    keras.utils.set_random_seed(7)
    model = entry.build()
    x, y = entry.data()
    with current(store), mlflow.start_run() as run:
        if entry.compiled:
            callback = mlflow_ckpt.MlflowCheckpoint("loss", full_format=full_format)
            model.fit(x, y, epochs=EPOCHS, batch_size=16, verbose=0, callbacks=[callback])
        run_store = RunStore(run.info.run_id)
        for name, forms in (("epoch_0003", ("full", "split")), ("epoch_0004", ("full",))):
            saver = CheckpointSaver(run_store, forms=forms, full_format=full_format)
            saver.save(model, name, epoch=int(name[-1]), metrics={})
    directory = store.checkpoint_directory(run.info.run_id, "epoch_0003")
    return Case(entry, model, x, y, run.info.run_id, directory)


def assert_same(one: Any, other: Any) -> None:
    """The same structure of arrays, bit by bit."""
    assert keras.tree.flatten(one), "nothing was compared"
    keras.tree.assert_same_structure(one, other)
    for left, right in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
        assert np.asarray(left).dtype == np.asarray(right).dtype
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


def test_the_full_form_brings_back_everything(case: Case) -> None:
    loaded = case.load(3)
    assert_same(case.predict(loaded), case.predict(case.model))
    before, after = mlflow_ckpt.fingerprint(case.model), mlflow_ckpt.fingerprint(loaded)
    assert before.differing(after, BOTH) == []
    assert before.architecture_digest == after.architecture_digest
    assert [v.trainable for v in loaded.weights] == [v.trainable for v in case.model.weights]
    assert loaded.compiled == case.entry.compiled
    if case.entry.compiled:
        assert type(loaded.optimizer) is type(case.model.optimizer)
        assert loaded.optimizer.get_config() == case.model.optimizer.get_config()
        assert len(loaded.optimizer.variables) == len(case.model.optimizer.variables)
        for mine, theirs in zip(
            loaded.optimizer.variables, case.model.optimizer.variables, strict=True
        ):
            assert_same(np.asarray(mine), np.asarray(theirs))
        assert case.evaluate(loaded) == case.evaluate(case.model)


def test_training_goes_on_as_if_it_had_never_stopped(case: Case) -> None:
    if not case.entry.compiled:
        pytest.skip("cannot be trained")
    resumed, uninterrupted = case.load(3), case.load(4)
    loss_before = case.evaluate(resumed)["loss"]
    case.fit(resumed, 4)
    assert case.evaluate(resumed)["loss"] < loss_before
    # The live model itself must stay as it is for the other tests.
    for loaded, live in zip(uninterrupted.variables, case.model.variables, strict=True):
        assert_same(np.asarray(loaded), np.asarray(live))
    case.fit(uninterrupted, 4)
    assert resumed_digests(resumed) == resumed_digests(uninterrupted)


def resumed_digests(model: keras.Model) -> Any:
    found = mlflow_ckpt.fingerprint(model)
    return found.weights_digest, found.optimizer_digest


@pytest.mark.parametrize("checkpoint", [3, 4], ids=["both forms", "full form alone"])
def test_the_split_form_predicts_the_same(case: Case, checkpoint: int) -> None:
    loaded = case.load(checkpoint, "split")
    assert not loaded.compiled
    assert_same(case.predict(loaded), case.predict(case.model))


def test_the_callback_saved_what_the_model_was(case: Case) -> None:
    if not case.entry.compiled:
        pytest.skip("cannot be trained")
    names = [checkpoint.name for checkpoint in mlflow_ckpt.list_checkpoints(case.run_id)]
    assert names == ["epoch_0001", "epoch_0002", "epoch_0003", "epoch_0004"]
    last, now = case.load(EPOCHS), mlflow_ckpt.fingerprint(case.model)
    assert mlflow_ckpt.get_checkpoint(case.run_id, EPOCHS).manifest.step == int(
        case.model.optimizer.iterations.numpy()
    )
    if case.model.optimizer.use_ema:
        # When training ends, Keras puts the averages in the place of the weights.
        case.model.optimizer.finalize_variable_values(case.model.trainable_weights)
        last.optimizer.finalize_variable_values(last.trainable_weights)
    assert now.differing(mlflow_ckpt.fingerprint(last), BOTH) == []


def test_keras_alone_reads_every_file(case: Case, tmp_path: Path) -> None:
    custom = dict(case.entry.custom_objects)
    text = (case.directory / "architecture.json").read_text()
    assert yaml.safe_load((case.directory / "architecture.yaml").read_text()) == json.loads(text)
    rebuilt = keras.models.model_from_json(text, custom_objects=custom)
    rebuilt.load_weights(case.directory / "model.weights.h5")
    found = [*case.directory.glob("data/model.*")]
    assert len(found) == 1
    # Keras 3.15 cannot compile every model from legacy HDF5.
    stock = keras.models.load_model(
        found[0], custom_objects=custom, compile=found[0].suffix == ".keras"
    )
    expected = case.predict(case.model)
    assert_same(case.predict(rebuilt), expected)
    assert_same(case.predict(stock), expected)


def test_the_archive_is_what_model_save_writes(case: Case, tmp_path: Path) -> None:
    ours = case.directory / "data" / "model.keras"
    if not ours.is_file():
        pytest.skip("saved as HDF5")
    case.model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(ours) as mine, zipfile.ZipFile(tmp_path / "model.keras") as theirs:
        assert sorted(mine.namelist()) == sorted(theirs.namelist())
        assert config(mine) == config(theirs)
        for name in theirs.namelist():
            if name.startswith("assets/"):
                assert mine.read(name) == theirs.read(name)
        assert json.loads(mine.read("metadata.json")).keys() == (
            json.loads(theirs.read("metadata.json")).keys()
        )
        assert tree(mine.read("model.weights.h5")) == tree(theirs.read("model.weights.h5"))


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
