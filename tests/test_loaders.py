"""Loading from a run: selectors, forms, damage, and the errors when it cannot be done."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store, current
from mlflow_ckpt._format.fingerprint import WEIGHTS_ROLE
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import (
    CheckpointNotFoundError,
    FingerprintMismatchError,
    FormNotFoundError,
    InvalidArgumentError,
    ManifestError,
    MetricNotFoundError,
    ModelLoadError,
    NewerSchemaError,
    RunNotFoundError,
    SelectorError,
    UnknownObjectError,
    VerificationError,
    WeightsMismatchError,
)
from tests.support import training
from tests.support.training import BATCHES, Metrics, X, fit, names, new_run, small_model
from tests.support.zoo import Shift

# What touches the server runs on both kinds of store, what comes after it on the quicker one.
both_stores = pytest.mark.usefixtures("store")
one_store = pytest.mark.usefixtures("local_store")
MISSING = "0" * 32


@pytest.fixture
def run_id() -> Iterator[str]:
    """An empty run."""
    run_id = new_run()
    yield str(run_id)


Save = Callable[..., keras.Model]


def save_to(
    run_id: str,
    epoch: int = 1,
    model: keras.Model | None = None,
    *,
    metrics: dict[str, float] | None = None,
    monitor: Monitor | None = None,
    name: str | None = None,
    **settings: Any,
) -> keras.Model:
    """Save a model, by default a new one, as an epoch of a run; return the model."""
    model = model or small_model()
    name = name or f"epoch_{epoch:04d}"
    with CheckpointSaver(RunStore(run_id), **settings) as saver:
        saver.save(model, name, epoch=epoch, metrics=metrics or {}, monitor=monitor)
    return model


@pytest.fixture
def save(run_id: str) -> Save:
    """Saves a model to the test's own run, as `save_to` does."""
    return lambda *arguments, **settings: save_to(run_id, *arguments, **settings)


SavedOnce = Callable[..., str]


@pytest.fixture(scope="module")
def saved_once() -> SavedOnce:
    """Returns a run of the current store with one checkpoint, of `small_model()`.

    It is saved once for each store and settings. Read it, never change it.
    """
    made: dict[tuple[str, str], str] = {}

    def saved(**settings: Any) -> str:
        key = (mlflow.get_tracking_uri(), repr(sorted(settings.items())))
        if key not in made:
            made[key] = new_run()
            save_to(made[key], **settings)
        return made[key]

    return saved


@dataclass(frozen=True)
class Trained:
    """A run of three epochs, the second of which is the best, and a checkpoint `step_00000099`.

    Attributes:
        store: Where the run is.
        run_id: The run.
        model: The model after the third epoch.
    """

    store: Store
    run_id: str
    model: keras.Model


@pytest.fixture(scope="module", params=["sqlite_store", "server"])
def trained_in(request: pytest.FixtureRequest) -> Trained:
    """Each kind of store in turn, and a run in it. Read it, never change it."""
    store: Store = request.getfixturevalue(request.param)
    model = small_model()
    with current(store):
        with mlflow.start_run() as run:
            values = Metrics("val_loss", [0.3, 0.1, 0.2])
            fit(model, values, mlflow_ckpt.MlflowCheckpoint(), epochs=3)
        save_to(run.info.run_id, 3, name="step_00000099")
    return Trained(store, run.info.run_id, model)


@pytest.fixture
def trained(trained_in: Trained) -> Iterator[Trained]:
    """The run, with its store as MLflow's current one."""
    with current(trained_in.store):
        yield trained_in


def digest(model: keras.Model) -> Any:
    return mlflow_ckpt.fingerprint(model).weights_digest


def models_of_different_weights(count: int) -> list[keras.Model]:
    models = [small_model() for _ in range(count)]
    for number, model in enumerate(models):
        model.get_layer("head").bias.assign([float(number)])
    return models


# Selectors


def test_selectors_and_uris_find_their_checkpoints(trained: Trained) -> None:
    run_id = trained.run_id
    expected = {
        "epoch_0001": [1, "1", "epoch:1", "epoch-1", "epoch_0001"],
        "epoch_0002": ["best", 2],
        "epoch_0003": [3, "epoch:3"],
        "step_00000099": ["step:99", "step_00000099"],
    }
    for name, selectors in expected.items():
        for selector in selectors:
            assert mlflow_ckpt.get_checkpoint(run_id, selector).name == name
            assert mlflow_ckpt.get_checkpoint(f"ckpt:/{run_id}/{selector}").name == name
    assert mlflow_ckpt.load_model(run_id, 2).built
    weights = mlflow_ckpt.get_checkpoint(run_id, "best").manifest.weights_digest
    assert digest(mlflow_ckpt.load_model(run_id, "best")) == weights
    assert digest(mlflow_ckpt.load_model(f"ckpt:/{run_id}/best", form="split")) == weights
    assert mlflow_ckpt.get_checkpoint(run_id).uri == (
        f"runs:/{run_id}/checkpoints/{mlflow_ckpt.get_checkpoint(run_id).name}"
    )


@one_store
def test_best_by_another_metric(run_id: str, save: Save) -> None:
    loss = Monitor("loss", "min")
    values = [
        {"loss": 0.3, "accuracy": 0.9, "score": 1.0},
        {"loss": 0.1, "accuracy": 0.5, "score": 3.0},
        {"loss": 0.2, "accuracy": 0.5, "score": 2.0, "late": 7.0},
    ]
    for epoch, metrics in enumerate(values, 1):
        save(epoch, metrics=metrics, monitor=loss)

    def best(**arguments: Any) -> str:
        return mlflow_ckpt.get_checkpoint(run_id, "best", **arguments).name

    assert best() == "epoch_0002"
    assert best(mode="max") == "epoch_0001"
    assert best(monitor="accuracy") == "epoch_0001"
    assert best(monitor="accuracy", mode="min") == "epoch_0002"
    assert best(monitor="score", mode="max") == "epoch_0002"
    assert best(monitor="late", mode="max") == "epoch_0003"
    with pytest.raises(MetricNotFoundError) as caught:
        best(monitor="f1")
    assert str(caught.value) == (
        "No checkpoint of the run recorded the metric 'f1'. Recorded: accuracy, late, loss, score."
    )
    assert caught.value.metric == "f1"
    assert caught.value.available == ("accuracy", "late", "loss", "score")
    with pytest.raises(InvalidArgumentError) as unclear:
        best(monitor="score")
    assert str(unclear.value) == (
        "Whether a high or a low 'score' is better cannot be inferred from its name. "
        "Pass mode='min' or mode='max' (--mode)."
    )
    with pytest.raises(InvalidArgumentError, match="Expected mode 'min' or 'max'"):
        best(mode="upwards")


@one_store
def test_best_without_a_recorded_monitor(run_id: str, save: Save) -> None:
    save(1, metrics={"loss": math.nan})
    with pytest.raises(MetricNotFoundError) as caught:
        mlflow_ckpt.load_model(run_id, "best")
    assert str(caught.value) == (
        "No checkpoint of the run recorded a metric to rank by. "
        "Choose one: monitor=… (--monitor); recorded: loss."
    )
    with pytest.raises(MetricNotFoundError) as nan:
        mlflow_ckpt.load_model(run_id, "best", monitor="loss")
    assert str(nan.value) == "The metric 'loss' is NaN in every checkpoint of the run."


@both_stores
@pytest.mark.parametrize(
    "load",
    [
        mlflow_ckpt.load_model,
        mlflow_ckpt.load_architecture,
        mlflow_ckpt.verify,
        mlflow_ckpt.get_checkpoint,
        mlflow_ckpt.list_checkpoints,
        lambda run_id: mlflow_ckpt.load_weights(small_model(), run_id),
        lambda run_id: mlflow_ckpt.load_model(run_id, 3),
    ],
)
def test_an_unknown_run(load: Callable[[str], Any], store_uri: str) -> None:
    with pytest.raises(RunNotFoundError) as caught:
        load(MISSING)
    assert str(caught.value) == (
        f"There is no run '{MISSING}' at {store_uri}. Expected a run id as the MLflow UI shows it. "
        "Is it the right server (--tracking-uri, MLFLOW_TRACKING_URI)?"
    )
    assert caught.value.run_id == MISSING


@both_stores
def test_a_run_without_checkpoints(run_id: str) -> None:
    assert mlflow_ckpt.list_checkpoints(run_id) == []
    for selector in ("latest", "best"):
        with pytest.raises(CheckpointNotFoundError) as caught:
            mlflow_ckpt.load_model(run_id, selector)
        assert str(caught.value) == (
            f"The run {run_id} has no checkpoints. "
            "Train with mlflow_ckpt.MlflowCheckpoint() among the callbacks."
        )
    with pytest.raises(CheckpointNotFoundError) as caught:
        mlflow_ckpt.load_model(run_id, 1)
    assert str(caught.value) == f"The run {run_id} has no checkpoint epoch_0001. It has: none."


def test_an_unknown_epoch(trained: Trained) -> None:
    with pytest.raises(CheckpointNotFoundError) as caught:
        mlflow_ckpt.load_model(trained.run_id, 7)
    assert str(caught.value) == (
        f"The run {trained.run_id} has no checkpoint epoch_0007. "
        "It has: epoch_0001, epoch_0002, step_00000099, epoch_0003."
    )
    available = ("epoch_0001", "epoch_0002", "step_00000099", "epoch_0003")
    assert caught.value.available == available


def test_what_does_not_parse_never_reaches_the_server() -> None:
    with pytest.raises(SelectorError):
        mlflow_ckpt.load_model(MISSING, "newest")
    with pytest.raises(SelectorError):
        mlflow_ckpt.load_model(f"runs:/{MISSING}/model")
    with pytest.raises(InvalidArgumentError) as caught:
        mlflow_ckpt.load_model(MISSING, form="half")
    assert str(caught.value) == "Expected form 'full' or 'split'. Received: form='half'"


# Forms


@both_stores
def test_the_split_form_alone_serves_inference_only(saved_once: SavedOnce) -> None:
    run_id, model = saved_once(forms=("split",)), small_model()
    manifest = mlflow_ckpt.get_checkpoint(run_id).manifest
    assert (manifest.forms, manifest.full_format) == (("split",), None)
    assert {entry.path for entry in manifest.files} >= {"architecture.json", "model.weights.h5"}
    loaded = mlflow_ckpt.load_model(run_id, form="split")
    assert digest(loaded) == digest(model)
    with pytest.raises(FormNotFoundError) as caught:
        mlflow_ckpt.load_model(run_id)
    assert str(caught.value) == (
        "The checkpoint epoch_0001 holds the split form only. "
        "Load it with form='split', or save with forms=('full', 'split')."
    )
    assert caught.value.available == ("split",)


@one_store
def test_the_architecture_alone_has_fresh_weights(run_id: str, save: Save) -> None:
    model = save()
    built = mlflow_ckpt.load_architecture(run_id)
    assert not built.compiled
    assert digest(built) != digest(model)
    mine, theirs = mlflow_ckpt.fingerprint(built), mlflow_ckpt.fingerprint(model)
    assert mine.architecture_digest == theirs.architecture_digest


def test_mlflow_itself_loads_a_checkpoint(trained: Trained) -> None:
    expected = trained.model.predict(X, verbose=0)
    uri = mlflow_ckpt.get_checkpoint(trained.run_id, 3).uri
    stock = mlflow.keras.load_model(uri)
    stock.run_eagerly = True
    assert np.array_equal(stock.predict(X, verbose=0), expected)
    served = mlflow.pyfunc.load_model(uri)
    assert np.allclose(served.predict(X), expected, atol=1e-6)
    signature = served.metadata.signature
    assert signature.inputs.inputs[0].shape == (-1, 4)
    assert signature.outputs.inputs[0].type == np.dtype("float32")
    assert served.metadata.metadata == {"epoch": 3, "step": 3 * BATCHES}


@one_store
def test_mlflow_itself_loads_a_checkpoint_in_hdf5(saved_once: SavedOnce) -> None:
    run_id, model = saved_once(full_format="h5"), small_model()
    expected = model.predict(X, verbose=0)
    uri = mlflow_ckpt.get_checkpoint(run_id).uri
    stock = mlflow.tensorflow.load_model(uri, keras_model_kwargs={"compile": False})
    assert np.allclose(stock.predict(X, verbose=0), expected, atol=1e-6)


# Damage


def directory_of(store: Store, run_id: str, name: str = "epoch_0001") -> Path:
    return store.checkpoint_directory(run_id, name)


@pytest.fixture(scope="module", params=["sqlite_store", "server"])
def altered_in(request: pytest.FixtureRequest) -> tuple[Store, str]:
    """Each kind of store in turn, and a run in it with a tensor altered in both forms.

    Read it, never change it.
    """
    store: Store = request.getfixturevalue(request.param)
    with current(store):
        run_id = new_run()
        model = save_to(run_id, forms=("full", "split"))
    kernel = model.get_layer("hidden").kernel.numpy().tobytes()
    for path in ("data/model.keras", "model.weights.h5"):
        file = directory_of(store, run_id) / path
        content = file.read_bytes()
        assert content.count(kernel) == 1
        file.write_bytes(content.replace(kernel, bytes(len(kernel))))
    return store, run_id


@pytest.mark.parametrize("form", ["full", "split"])
def test_an_altered_tensor_is_named_before_anything_is_loaded(
    form: str, altered_in: tuple[Store, str]
) -> None:
    store, run_id = altered_in
    with current(store):
        with pytest.raises(VerificationError) as caught:
            mlflow_ckpt.load_model(run_id, form=form)
        result = caught.value.result
        assert mlflow_ckpt.verify(run_id) == result
    assert [(m.expected.path, m.tensors) for m in result.mismatched] == [
        ("data/model.keras", ("layers/dense/vars/0",)),
        ("model.weights.h5", ("layers/dense/vars/0",)),
    ]
    assert "data/model.keras has sha256:" in str(caught.value)
    assert "(tensors: layers/dense/vars/0)" in str(caught.value)


@both_stores
def test_missing_truncated_and_extra_files_are_named(run_id: str, save: Save, store: Store) -> None:
    save()
    directory = directory_of(store, run_id)
    (directory / "architecture.yaml").unlink()
    (directory / "MLmodel").write_bytes((directory / "MLmodel").read_bytes()[:-3])
    (directory / "stray.txt").write_text("?")
    with pytest.raises(VerificationError) as caught:
        mlflow_ckpt.load_model(run_id)
    result = caught.value.result
    assert result.missing == ("architecture.yaml",)
    assert result.extra == ("stray.txt",)
    assert [m.expected.path for m in result.mismatched] == ["MLmodel"]


@one_store
def test_damage_leaves_a_given_model_as_it_was(run_id: str, save: Save, local_store: Store) -> None:
    save(1, models_of_different_weights(2)[1])
    file = directory_of(local_store, run_id) / "fingerprint.json"
    file.write_text(file.read_text().replace("hidden", "hidxxx"))
    model = small_model()
    before = digest(model)
    with pytest.raises(VerificationError, match=r"fingerprint\.json"):
        mlflow_ckpt.load_weights(model, run_id)
    assert digest(model) == before


@both_stores
def test_a_directory_without_a_manifest_is_no_checkpoint(
    run_id: str, save: Save, store: Store
) -> None:
    save(1)
    save(2)
    (directory_of(store, run_id, "epoch_0002") / "manifest.json").unlink()
    assert names(run_id) == ["epoch_0001"]
    assert mlflow_ckpt.get_checkpoint(run_id).name == "epoch_0001"
    with pytest.raises(CheckpointNotFoundError, match="has no checkpoint epoch_0002"):
        mlflow_ckpt.load_model(run_id, 2)


@both_stores
def test_other_directories_among_the_artifacts_are_no_checkpoints(
    run_id: str, save: Save, store: Store
) -> None:
    save(1)
    checkpoints = directory_of(store, run_id).parent
    for other in ("epoch_1", "epoch_0002.tmp", "notes"):
        shutil.copytree(directory_of(store, run_id), checkpoints / other)
    (checkpoints / "epoch_0009").write_text("a file")
    assert names(run_id) == ["epoch_0001"]


@one_store
def test_a_manifest_that_cannot_be_read_is_told(
    run_id: str, save: Save, local_store: Store
) -> None:
    save(1)
    file = directory_of(local_store, run_id) / "manifest.json"
    file.write_text(file.read_text().replace('"epoch": 1', '"epoch": 2'))
    for load in (mlflow_ckpt.list_checkpoints, mlflow_ckpt.load_model):
        with pytest.raises(ManifestError, match=f"epoch_0001 of run {run_id}.*was altered"):
            load(run_id)


@both_stores
def test_a_manifest_of_a_newer_schema_is_told(run_id: str, save: Save, store: Store) -> None:
    save(1)
    file = directory_of(store, run_id) / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 3}))
    for selector in ("latest", 1):
        with pytest.raises(NewerSchemaError, match="schema version 3") as caught:
            mlflow_ckpt.load_model(run_id, selector)
        assert (caught.value.found, caught.value.supported) == (3, 1)


@one_store
def test_a_checkpoint_under_another_name_is_told(
    run_id: str, save: Save, local_store: Store
) -> None:
    save(1)
    directory = directory_of(local_store, run_id)
    shutil.copytree(directory, directory.with_name("epoch_0002"))
    with pytest.raises(ManifestError, match="epoch_0002"):
        mlflow_ckpt.load_model(run_id, 2)


@one_store
def test_files_that_were_replaced_together_with_their_manifest_are_found(
    run_id: str, save: Save, local_store: Store
) -> None:
    """A checksum of files alone would not notice weights of another model."""
    one, other = models_of_different_weights(2)
    save(1, one, forms=("full", "split"))
    save(2, other, forms=("full", "split"))
    directory = directory_of(local_store, run_id)
    path = "model.weights.h5"
    shutil.copy(directory.with_name("epoch_0002") / path, directory / path)
    manifest = Manifest.from_json((directory / "manifest.json").read_text())
    theirs = Manifest.from_json((directory.with_name("epoch_0002") / "manifest.json").read_text())
    swapped = {entry.path: entry for entry in theirs.files}[path]
    files = tuple(swapped if entry.path == path else entry for entry in manifest.files)
    object.__setattr__(manifest, "files", files)
    (directory / "manifest.json").write_text(manifest.to_json())
    assert mlflow_ckpt.verify(run_id, 1).ok
    with pytest.raises(FingerprintMismatchError) as caught:
        mlflow_ckpt.load_model(run_id, 1, "split")
    assert caught.value.tensors == ("layers/dense_1/vars/1",)


# Custom objects


def shifted() -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), Shift(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    return model


@one_store
@pytest.mark.parametrize("full_format", ["keras", "h5"])
@pytest.mark.parametrize("form", ["full", "split"])
def test_an_unknown_class_is_named_and_can_be_given(
    form: str, full_format: str, run_id: str, save: Save
) -> None:
    model = save(1, shifted(), full_format=full_format)
    with pytest.raises(UnknownObjectError) as caught:
        mlflow_ckpt.load_model(run_id, form=form)
    assert caught.value.name == "Shift"
    assert str(caught.value) == (
        "The architecture names 'Shift', which is not known here. Import the module that registers "
        "it, or pass it: custom_objects={'Shift': Shift} (mlflow-ckpt: --custom-objects MODULE)."
    )
    loaded = mlflow_ckpt.load_model(run_id, form=form, custom_objects={"Shift": Shift})
    assert digest(loaded) == digest(model)


def my_loss(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(keras.ops.abs(y_true - y_pred))


@one_store
@pytest.mark.parametrize("full_format", ["keras", "h5"])
def test_an_unknown_loss_is_named_and_can_be_given(
    full_format: str, run_id: str, save: Save
) -> None:
    save(1, small_model(loss=my_loss), full_format=full_format)
    with pytest.raises(UnknownObjectError) as caught:
        mlflow_ckpt.load_model(run_id)
    assert caught.value.name == "my_loss"
    loaded = mlflow_ckpt.load_model(run_id, custom_objects={"my_loss": my_loss})
    fit(loaded, epochs=1)
    assert mlflow_ckpt.load_model(run_id, form="split").built


@one_store
def test_a_lambda_layer_is_refused_by_safe_mode(run_id: str, save: Save) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: 2 * x)])
    model.compile("sgd", "mse", run_eagerly=True)
    save(1, model)
    for form in ("full", "split"):
        with pytest.raises(ModelLoadError) as caught:
            mlflow_ckpt.load_model(run_id, form=form)
        assert str(caught.value).startswith("The model holds a Lambda layer or another object")
        assert "safe mode refuses" in str(caught.value)


@one_store
def test_a_constructor_that_fails_is_told(run_id: str, save: Save) -> None:
    class Picky(Shift):
        def __init__(self, **kwargs: Any) -> None:
            raise RuntimeError("not today")

    save(1, shifted())
    with pytest.raises(ModelLoadError, match="not today"):
        mlflow_ckpt.load_model(run_id, form="split", custom_objects={"Shift": Picky})


@one_store
@pytest.mark.parametrize("form", ["full", "split"])
def test_a_call_that_fails_is_told(form: str, run_id: str, save: Save) -> None:
    class Picky(Shift):
        def call(self, x: Any) -> Any:
            raise RuntimeError("not today")

    save(1, shifted(), forms=("full", "split"))
    with pytest.raises(ModelLoadError, match=r"rebuild the model: RuntimeError: not today\.$"):
        mlflow_ckpt.load_model(run_id, form=form, custom_objects={"Shift": Picky})


# Weights into a model of one's own


@one_store
@pytest.mark.parametrize(
    "settings",
    [
        {"forms": ("split",)},
        {"forms": ("full", "split")},
        {"forms": ("full",)},
        {"full_format": "h5"},
    ],
)
def test_weights_are_copied_into_a_twin(settings: dict[str, Any], saved_once: SavedOnce) -> None:
    run_id, model, twin = saved_once(**settings), small_model(), small_model()
    fit(twin, epochs=1)
    assert digest(twin) != digest(model)
    optimizer = mlflow_ckpt.fingerprint(twin).optimizer_digest
    report = mlflow_ckpt.load_weights(twin, run_id)
    assert report.complete
    assert report.loaded == tuple(
        tensor.name for tensor in mlflow_ckpt.fingerprint(model).of_role(WEIGHTS_ROLE)
    )
    assert str(report) == "4 tensors loaded"
    assert digest(twin) == digest(model)
    assert mlflow_ckpt.fingerprint(twin).optimizer_digest == optimizer
    fit(twin, epochs=1)


@one_store
def test_many_weights_that_do_not_fit_are_counted(run_id: str, save: Save) -> None:
    save(1)
    deeper = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(5) for _ in range(4))])
    with pytest.raises(WeightsMismatchError, match=r"; and 3 more\. Nothing was loaded"):
        mlflow_ckpt.load_weights(deeper, run_id)


@one_store
def test_weights_that_do_not_fit_touch_nothing(saved_once: SavedOnce) -> None:
    run_id = saved_once()
    other = small_model(outputs=2)
    before = digest(other)
    with pytest.raises(WeightsMismatchError) as caught:
        mlflow_ckpt.load_weights(other, run_id)
    assert str(caught.value) == (
        "The weights of epoch_0001 do not fit the given model: "
        "layers/dense_1/vars/0 is float32 [3, 2] in the model and float32 [3, 1] in it; "
        "layers/dense_1/vars/1 is float32 [2] in the model and float32 [1] in it. "
        "Nothing was loaded. Pass skip_mismatch=True to load what fits."
    )
    assert caught.value.tensors == ("layers/dense_1/vars/0", "layers/dense_1/vars/1")
    assert digest(other) == before


@one_store
@pytest.mark.parametrize("full_format", ["keras", "h5"])
def test_transfer_learning_loads_what_fits_and_reports_the_rest(
    full_format: str, saved_once: SavedOnce
) -> None:
    run_id, model = saved_once(full_format=full_format), small_model()
    other = small_model(outputs=2)
    other.get_layer("hidden").kernel.assign(np.zeros((4, 3)))
    head = other.get_layer("head").kernel.numpy().copy()
    report = mlflow_ckpt.load_weights(other, run_id, skip_mismatch=True)
    assert not report.complete
    assert report.loaded == ("layers/dense/vars/0", "layers/dense/vars/1")
    assert report.skipped == ("layers/dense_1/vars/0", "layers/dense_1/vars/1")
    assert (report.missing, report.unused) == ((), ())
    for saved, loaded in zip(
        model.get_layer("hidden").weights, other.get_layer("hidden").weights, strict=True
    ):
        assert np.array_equal(saved.numpy(), loaded.numpy())
    assert np.array_equal(other.get_layer("head").kernel.numpy(), head)
    fit(other, epochs=1, validation_data=None)


def model_of_type(dtype: str) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, activation="tanh", dtype=dtype),
            keras.layers.Dense(1, dtype=dtype),
        ]
    )


def values(model: keras.Model) -> list[np.ndarray[Any, Any]]:
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


@one_store
@pytest.mark.parametrize("full_format", ["keras", "h5"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_another_type_are_converted(
    dtype: str, full_format: str, saved_once: SavedOnce, tmp_path: Path
) -> None:
    run_id, theirs, ours = saved_once(full_format=full_format), *map(model_of_type, [dtype] * 2)
    small_model().save_weights(tmp_path / "a.weights.h5")
    theirs.load_weights(tmp_path / "a.weights.h5")
    report = mlflow_ckpt.load_weights(ours, run_id)
    assert report.complete
    assert report.converted == (f"4 converted from float32 to {dtype}",)
    assert str(report) == f"4 tensors loaded (4 converted from float32 to {dtype})"
    for expected, loaded in zip(values(theirs), values(ours), strict=True):
        assert expected.dtype.name == dtype
        assert np.array_equal(expected, loaded)
    assert mlflow_ckpt.load_weights(ours, run_id, skip_mismatch=True) == report


@one_store
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_a_half_are_converted_to_single(dtype: str, run_id: str, save: Save) -> None:
    half = model_of_type(dtype)
    save(1, half)
    single = small_model()
    assert mlflow_ckpt.load_weights(single, run_id).complete
    for saved, loaded in zip(values(half), values(single), strict=True):
        assert np.array_equal(saved.astype("float32"), loaded)


class Table(keras.layers.Layer):
    """A layer whose only variable is of a given type."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self.of = of

    def build(self, shape: Any) -> None:
        self.table = self.add_weight(shape=(1,), dtype=self.of, initializer="ones", trainable=False)

    def call(self, x: Any) -> Any:
        return x

    def get_config(self) -> dict[str, Any]:
        return {"of": self.of}


@one_store
def test_weights_become_no_integers(run_id: str, save: Save) -> None:
    models = {of: keras.Sequential([keras.Input((1,)), Table(of)]) for of in ("float32", "int32")}
    save(1, models["float32"])
    save(2, models["int32"])
    with pytest.raises(WeightsMismatchError, match="is int32"):
        mlflow_ckpt.load_weights(models["int32"], run_id, 1)
    assert mlflow_ckpt.load_weights(models["float32"], run_id, 2).complete


@one_store
def test_a_model_of_another_type_is_filled_whole() -> None:
    run_id = training.trained(epochs=1)
    half = model_of_type("float16")
    half.compile(keras.optimizers.SGD(0.05, momentum=0.5), "mse", metrics=["mae"], run_eagerly=True)
    with pytest.warns(UserWarning, match="converted from float32 to float16"):
        point = mlflow_ckpt.restore(half, run_id)
    saved = mlflow_ckpt.load_model(run_id)
    for before, after in zip(values(saved), values(point.model), strict=True):
        assert np.array_equal(before.astype("float16"), after)
    momentum = [keras.ops.convert_to_numpy(v) for v in half.optimizer.variables]
    assert any(np.any(value) for value in momentum[2:])
    assert int(half.optimizer.iterations.numpy()) == int(saved.optimizer.iterations.numpy())


@one_store
def test_a_deeper_model_reports_what_the_checkpoint_lacks(saved_once: SavedOnce) -> None:
    run_id = saved_once()
    deeper = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3),
            keras.layers.Dense(1),
            keras.layers.Dense(5),
        ]
    )
    before = digest(deeper)
    with pytest.raises(WeightsMismatchError, match=r"the checkpoint lacks layers/dense_2/vars/0"):
        mlflow_ckpt.load_weights(deeper, run_id)
    assert digest(deeper) == before
    report = mlflow_ckpt.load_weights(deeper, run_id, skip_mismatch=True)
    assert len(report.loaded) == 4
    assert report.missing == ("layers/dense_2/vars/0", "layers/dense_2/vars/1")
    assert "2 not in the checkpoint (layers/dense_2/vars/0, layers/dense_2/vars/1)" in str(report)


@one_store
def test_a_shallower_model_reports_what_it_has_no_place_for(saved_once: SavedOnce) -> None:
    run_id = saved_once()
    trunk = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(WeightsMismatchError, match="the model has no layers/dense_1/vars/0"):
        mlflow_ckpt.load_weights(trunk, run_id)
    report = mlflow_ckpt.load_weights(trunk, run_id, skip_mismatch=True)
    assert report.loaded == ("layers/dense/vars/0", "layers/dense/vars/1")
    assert report.unused == ("layers/dense_1/vars/0", "layers/dense_1/vars/1")


@both_stores
def test_progress_is_told_in_bytes(saved_once: SavedOnce, store: Store) -> None:
    run_id = saved_once()
    progress: list[tuple[int, int]] = []
    mlflow_ckpt.load_model(run_id, progress=lambda done, total: progress.append((done, total)))
    if not store.uri.startswith("http"):
        return  # nothing is downloaded
    manifest = directory_of(store, run_id) / "manifest.json"
    total = mlflow_ckpt.get_checkpoint(run_id).manifest.size + manifest.stat().st_size
    assert progress[-1] == (total, total)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)


@both_stores
def test_another_server_can_be_named(saved_once: SavedOnce, store_uri: str) -> None:
    run_id = saved_once()
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        assert mlflow_ckpt.verify(run_id, tracking_uri=store_uri).ok
        assert mlflow_ckpt.load_model(run_id, tracking_uri=store_uri).built
        assert len(mlflow_ckpt.list_checkpoints(run_id, tracking_uri=store_uri)) == 1
    finally:
        mlflow.set_tracking_uri(before)


@both_stores
def test_loading_leaves_the_store_as_it_was(saved_once: SavedOnce, store: Store) -> None:
    run_id = saved_once(forms=("full", "split"))
    directory = directory_of(store, run_id)

    def state() -> Any:
        return {file: file.stat().st_mtime_ns for file in directory.rglob("*")}

    before, tags = state(), MlflowClient().get_run(run_id).data.tags
    for form in ("full", "split"):
        mlflow_ckpt.load_model(run_id, form=form)
    mlflow_ckpt.verify(run_id)
    assert state() == before
    assert MlflowClient().get_run(run_id).data.tags == tags
