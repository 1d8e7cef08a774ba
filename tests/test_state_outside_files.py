"""State that Keras's own files do not give back: put back exactly, or named."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import mlflow_ckpt
from mlflow_ckpt import MlflowCheckpoint
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._model.capture import census, introspection
from mlflow_ckpt._model.capture.buffers import Buffers
from mlflow_ckpt._model.rebuild import model_loader
from mlflow_ckpt._model.rebuild.fill import fill, fill_all
from mlflow_ckpt._saving.compose import Composer, Content, Job
from tests.support.zoo import ZOO

pytestmark = pytest.mark.usefixtures("local_store")

_RNG = np.random.default_rng(7)
VECTORS = _RNG.normal(size=(16, 8)).astype("float32")
TARGETS = VECTORS[:, :1] - 2 * VECTORS[:, 1:2]
SEQUENCES = _RNG.normal(size=(16, 6, 8)).astype("float32")
TOKENS = _RNG.integers(0, 20, (16, 6))
IMAGES = _RNG.random((16, 8, 8, 3)).astype("float32")

# Enough for every day; the others stand behind the marker `long`.
DAILY = {
    *("Dense", "Dense int8", "Conv2D", "Embedding", "a class of one's own, int8"),
    *("GRU", "AugMix", "alpha", "nested models"),
}

Build = Callable[[], keras.Model]
Callbacks = Callable[[], list[keras.callbacks.Callback]]


def daily(name: str, *values: Any) -> Any:
    """Parameters of a test that is long unless it is a daily one."""
    marks = [] if name in DAILY else [pytest.mark.long]
    return pytest.param(*(values or (name,)), marks=marks, id=name)


def train(model: keras.Model, x: Any, epochs: int, *callbacks: Any, initial: int = 0) -> None:
    model.fit(
        *(x, TARGETS),
        batch_size=8,
        epochs=epochs,
        initial_epoch=initial,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )


def trained(build: Build, x: Any, callbacks: Callbacks = list, **settings: Any) -> str:
    """Train for two epochs, and return the run."""
    with mlflow.start_run() as run:
        train(build(), x, 2, MlflowCheckpoint(monitor="loss", **settings), *callbacks())
    return str(run.info.run_id)


def state_of(model: keras.Model) -> dict[str, bytes]:
    """Return the bytes of all variables that are reached from a model, but its metrics'."""
    found = census.survey(model).variables
    return {
        path: np.ascontiguousarray(Buffers().copy(path, variable)).tobytes()
        for path, variable in found.items()
    }


def resumed(
    run_id: str, x: Any, callbacks: Callbacks = list, own: keras.Model | None = None
) -> Any:
    """Resume the third epoch, with generators that nothing has in common with the first ones."""
    keras.utils.set_random_seed(99)
    if own is None:
        point = mlflow_ckpt.resume(run_id, callbacks=callbacks())
    else:
        point = mlflow_ckpt.restore(own, run_id, callbacks=callbacks())
    with mlflow.start_run():
        train(point.model, x, 3, *point.callbacks, initial=point.initial_epoch)
    return point


def saved(
    model: keras.Model, x: Any, directory: Path, forms: Sequence[str] = ("full",), steps: int = 2
) -> Manifest:
    """Train a little, save a checkpoint without a run, and return its manifest."""
    composer, content = Composer("0" * 32), Content(forms=tuple(forms))
    composer.check(model, content)
    for _ in range(steps):
        step(model, x)
    snapshot = composer.take(model, Buffers(), content)
    with closing(snapshot):
        job = Job(snapshot, content, "epoch_0001", 1, {}, None, best=False, interrupted=None)
        return composer.compose(job, directory).manifest


def step(model: keras.Model, x: Any) -> None:
    model.train_on_batch(x[:8], TARGETS[:8])


def require_exact(build: Build, x: Any, directory: Path) -> None:
    """Assert that a model goes on as the saved one does: one rebuilt, and one of the user's."""
    model = build()
    manifest = saved(model, x, directory)
    rebuilt, own = model_loader.load_full(directory, manifest, {}), build()
    assert fill_all(own, directory, manifest) == []
    for each in (model, rebuilt, own):
        # What no layer holds is restored by other means.
        keras.utils.set_random_seed(5)
        step(each, x)
    assert state_of(rebuilt) == state_of(model)
    assert state_of(own) == state_of(model)


def require_resumed(build: Build, x: Any, callbacks: Callbacks = list) -> None:
    """Assert that a training that is resumed is the one that never stopped."""
    whole = build()
    train(whole, x, 3, *callbacks())
    run_id = trained(build, x, callbacks)
    for own in (None, build()):
        point = resumed(run_id, x, callbacks, own)
        assert point.changes == ()
        assert state_of(point.model) == state_of(whole)


def changes_of(build: Build, x: Any, callbacks: Callbacks = list) -> tuple[str, ...]:
    """Return what a resumed training names."""
    run_id = trained(build, x, callbacks)
    with pytest.warns(UserWarning, match="cannot be the same"):
        point = mlflow_ckpt.resume(run_id, callbacks=callbacks())
    return tuple(point.changes)


def seeded(make: Callable[[], keras.Model], optimizer: Any = None, **settings: Any) -> Build:
    """Return a function that builds and compiles the same model at each call."""

    def build() -> keras.Model:
        keras.utils.set_random_seed(1)
        model = make()
        settings.setdefault("run_eagerly", True)
        chosen = keras.optimizers.Adam(0.02) if optimizer is None else optimizer(model)
        model.compile(chosen, "mse", jit_compile=False, **settings)
        return model

    return build


def stack(shape: tuple[int, ...], *inner: layers.Layer, batch_size: int | None = None) -> Any:
    inputs = keras.Input(shape, batch_size=batch_size)
    return keras.Sequential([inputs, *inner, layers.Flatten(), layers.Dense(1)])


@keras.saving.register_keras_serializable("outside")
class Branch(keras.Model):
    """A class of one's own, whose configuration has nothing of its layers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = layers.Dense(4, name="adapted")
        self.outer = layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.outer(self.inner(x))


def branch() -> keras.Model:
    model = Branch()
    model(VECTORS)
    return model


def attention() -> keras.Model:
    inputs = keras.Input((6, 8))
    attended = layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    return keras.Model(inputs, layers.Dense(1)(layers.Flatten()(attended)))


def adapted(make: Callable[[], keras.Model], mode: str | None = None) -> Build:
    """Give layers LoRA adapters, after they were quantized if a mode is given."""

    def make_adapted() -> keras.Model:
        model = make()
        for layer in model._flatten_layers():
            if layer.name in ("adapted", "query"):
                if mode is not None:
                    layer.quantize(mode)
                layer.enable_lora(2, lora_alpha=5)
        return model

    return seeded(make_adapted)


ADAPTED: dict[str, tuple[Callable[[], keras.Model], Any, str | None]] = {
    "Dense": (lambda: stack((8,), layers.Dense(4, name="adapted")), VECTORS, None),
    "Dense int8": (lambda: stack((8,), layers.Dense(4, name="adapted")), VECTORS, "int8"),
    "Dense int4": (lambda: stack((8,), layers.Dense(4, name="adapted")), VECTORS, "int4"),
    "EinsumDense": (
        lambda: stack((6, 8), layers.EinsumDense("abc,cd->abd", (6, 4), name="adapted")),
        SEQUENCES,
        None,
    ),
    "Embedding": (lambda: stack((6,), layers.Embedding(20, 4, name="adapted")), TOKENS, None),
    "Embedding int8": (
        lambda: stack((6,), layers.Embedding(20, 4, name="adapted")),
        TOKENS,
        "int8",
    ),
    "Conv2D": (lambda: stack((8, 8, 3), layers.Conv2D(4, 3, name="adapted")), IMAGES, None),
    "MultiHeadAttention": (attention, SEQUENCES, None),
    "a class of one's own": (branch, VECTORS, None),
    "a class of one's own, int8": (branch, VECTORS, "int8"),
}


@pytest.mark.parametrize("name", [daily(name) for name in ADAPTED])
def test_adapters_go_on_learning(name: str, tmp_path: Path) -> None:
    make, x, mode = ADAPTED[name]
    require_exact(adapted(make, mode), x, tmp_path)


@pytest.mark.long
def test_a_training_of_adapters_is_resumed() -> None:
    make, x, mode = ADAPTED["Dense int8"]
    require_resumed(adapted(make, mode), x)


def weights_of(model: keras.Model) -> dict[str, bytes]:
    return {path: value for path, value in state_of(model).items() if "optimizer" not in path}


@pytest.mark.parametrize("forms", [("full",), ("split",)])
@pytest.mark.parametrize("name", ["Dense int8", "a class of one's own"])
def test_a_loaded_model_has_its_adapters_apart(
    name: str, forms: tuple[str, ...], tmp_path: Path
) -> None:
    make, x, mode = ADAPTED[name]
    model = adapted(make, mode)()
    manifest = saved(model, x, tmp_path, forms)
    loaded = model_loader.load_split(tmp_path, manifest, {})
    assert weights_of(loaded) == weights_of(model)
    digests = [mlflow_ckpt.fingerprint(each).weights_digest for each in (loaded, model)]
    assert digests[0] == digests[1]


def test_weights_load_into_models_with_adapters_and_without(tmp_path: Path) -> None:
    make, x, _ = ADAPTED["Dense"]
    model = adapted(make)()
    manifest = saved(model, x, tmp_path)
    into, plain = adapted(make)(), seeded(make)()
    for other in (into, plain):
        assert fill(other, tmp_path, manifest, skip_mismatch=False).complete
        np.testing.assert_allclose(other.predict_on_batch(x), model.predict_on_batch(x), 1e-5)
    assert weights_of(into) == weights_of(model)


@pytest.mark.parametrize(
    "name", [daily(name) for name in ("Dense int8", "Embedding", "MultiHeadAttention")]
)
def test_stock_keras_still_opens_the_files(name: str, tmp_path: Path) -> None:
    make, x, mode = ADAPTED[name]
    model = adapted(make, mode)()
    saved(model, x, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
        stock = keras.saving.load_model(tmp_path / "data" / "model.keras")
    # The merged kernel is quantized anew.
    tolerance = 0.1 if mode else 1e-5
    np.testing.assert_allclose(stock.predict_on_batch(x), model.predict_on_batch(x), atol=tolerance)


@pytest.mark.parametrize(
    "kind", [daily(kind.__name__, kind) for kind in (layers.LSTM, layers.GRU, layers.SimpleRNN)]
)
def test_states_of_recurrent_layers(kind: Any, tmp_path: Path) -> None:
    def make() -> keras.Model:
        return stack((6, 8), kind(3, stateful=True), batch_size=8)

    require_exact(seeded(make), SEQUENCES, tmp_path)


@keras.saving.register_keras_serializable("outside")
class Holding(layers.Layer):
    """Holds state of all kinds where Keras does not look for it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.calls = 0
        self.factors = [1.0]
        self.helper = Helper()

    def build(self, input_shape: Any) -> None:
        self.average = tf.Variable(1.0)
        self.of_tensorflow = tf.random.Generator.from_seed(3)
        self.of_numpy = np.random.default_rng(4)
        self.of_old_numpy = np.random.RandomState(5)
        self.of_python = random.Random(6)
        self.of_keras = {"inside": [keras.random.SeedGenerator(7)]}

    def call(self, x: Any, training: bool = False) -> Any:
        if not training:
            return x
        self.calls += 1
        self.factors.append(0.9 * self.factors[-1])
        self.average.assign(0.9 * self.average + self.of_tensorflow.uniform(()))
        drawn = self.of_numpy.uniform() + self.of_old_numpy.uniform() + self.of_python.random()
        noise = keras.random.uniform((), seed=self.of_keras["inside"][0])
        return x * self.average * self.factors[-1] + drawn + noise / self.calls + self.helper.next()


class Helper:
    """An object of the user's, and no layer."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(8)
        self.variable = keras.Variable(0.5, trainable=False)
        self.optimizer = keras.optimizers.Adam(0.1)
        self.optimizer.build([self.variable])
        self.array = np.zeros(3)

    def next(self) -> Any:
        self.array += self.rng.uniform(size=3)
        self.optimizer.apply([keras.ops.convert_to_tensor(0.1)], [self.variable])
        return float(self.array[0]) + self.variable


def test_state_of_all_kinds_in_layers_and_other_objects(tmp_path: Path) -> None:
    require_exact(seeded(lambda: stack((8,), Holding())), VECTORS, tmp_path)


@pytest.mark.parametrize(
    "make",
    [
        daily("AugMix", lambda: layers.AugMix(value_range=(0, 1))),
        daily("RandAugment", lambda: layers.RandAugment(value_range=(0, 1))),
        daily("others", lambda: layers.Pipeline([layers.RandomZoom(0.2), layers.RandomErasing()])),
    ],
)
def test_augmentation(make: Callable[[], layers.Layer], tmp_path: Path) -> None:
    require_exact(seeded(lambda: stack((8, 8, 3), make())), IMAGES, tmp_path)


def decaying(model: keras.Model) -> keras.optimizers.Optimizer:
    optimizer = keras.optimizers.AdamW(0.02, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(
        var_list=[model.layers[0].kernel, model.layers[-1].bias], var_names=["gamma"]
    )
    return optimizer


@pytest.mark.parametrize("wrapped", [False, True])
def test_exclusions_from_weight_decay(wrapped: bool, tmp_path: Path) -> None:
    def make() -> keras.Model:
        return stack((8,), layers.Dense(4), layers.LayerNormalization())

    def optimizer(model: keras.Model) -> keras.optimizers.Optimizer:
        inner = decaying(model)
        return keras.optimizers.LossScaleOptimizer(inner) if wrapped else inner

    require_exact(seeded(make, optimizer), VECTORS, tmp_path)


@keras.saving.register_keras_serializable("outside")
class Weighted(layers.Layer):
    """Has an attribute that its configuration lacks."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = 1.0

    def call(self, x: Any) -> Any:
        return x * self.alpha


class Setting(keras.callbacks.Callback):
    """Sets an attribute of the first layer in the second epoch."""

    def __init__(self, name: str, value: Any) -> None:
        super().__init__()
        self.name, self.value = name, value

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            setattr(self.model.layers[0], self.name, self.value)


def test_an_attribute_that_a_callback_changed() -> None:
    def callbacks() -> list[keras.callbacks.Callback]:
        return [Setting("alpha", 0.25)]

    require_resumed(seeded(lambda: stack((8,), Weighted())), VECTORS, callbacks)


@pytest.mark.long
def test_a_rate_that_a_callback_changed() -> None:
    def callbacks() -> list[keras.callbacks.Callback]:
        return [Setting("rate", 0.1)]

    require_resumed(seeded(lambda: stack((8,), layers.Dropout(0.5))), VECTORS, callbacks)


@pytest.mark.parametrize(
    ("make", "name", "before"),
    [
        daily("alpha", lambda: Weighted(name="w"), "alpha", 1.0),
        daily("rate", lambda: layers.Dropout(0.5, name="w"), "rate", 0.5),
    ],
)
def test_a_compiled_step_does_not_see_changed_attributes(
    make: Callable[[], layers.Layer], name: str, before: float
) -> None:
    build = seeded(lambda: stack((8,), make()), run_eagerly=False)
    assert changes_of(build, VECTORS, lambda: [Setting(name, 0.25)]) == (
        f"layer 'w': `{name}` changed from {before} to 0.25 in training, but a compiled step keeps "
        "the value with which it was compiled",
    )


def set_variables(model: keras.Model) -> keras.Model:
    model.layers[0].bias.trainable = False
    model.layers[0].kernel.regularizer = keras.regularizers.L2(0.5)
    model.layers[0].kernel.constraint = keras.constraints.MaxNorm(3)
    return model


@pytest.mark.parametrize("form", ["full", "split"])
def test_settings_of_single_variables_are_loaded(form: Any) -> None:
    run_id = trained(lambda: set_variables(seeded(lambda: stack((8,), layers.Dense(3)))()), VECTORS)
    layer = mlflow_ckpt.load_model(run_id, form=form).layers[0]
    assert not layer.bias.trainable
    assert layer.kernel.trainable
    assert layer.kernel.regularizer.l2 == 0.5
    assert layer.kernel.constraint.max_value == 3
    assert layer.bias.regularizer is None


def test_what_differs_in_ones_own_model_is_named(tmp_path: Path) -> None:
    make = layers.Dense
    model, own = (
        seeded(lambda f=f, r=r: stack((8,), make(3, f, name="a"), make(3, name="b", **r)))()
        for f, r in (("relu", {}), ("tanh", {"activity_regularizer": "l2"}))
    )
    manifest = saved(set_variables(model), VECTORS, tmp_path)
    assert sorted(fill_all(own, tmp_path, manifest)) == [
        "layer 'a': `activation` was the function relu and is the function tanh",
        "layer 'a': bias.trainable was False and is True",
        "layer 'a': kernel.constraint was MaxNorm(max_value=3, axis=0) and is None",
        "layer 'a': kernel.regularizer was L2(l2=0.5) and is None",
        "layer 'b': `activity_regularizer` was None and is L2(l2=0.01)",
    ]


def test_attributes_of_ones_own_model_that_differ_are_named(tmp_path: Path) -> None:
    model, own = (
        seeded(lambda r=rate: stack((8,), layers.Dropout(r, name="drop")))() for rate in (0.5, 0.2)
    )
    manifest = saved(model, VECTORS, tmp_path)
    assert fill_all(own, tmp_path, manifest) == ["layer 'drop': `rate` was 0.5 and is 0.2"]
    assert own.layers[0].rate == 0.2


@keras.saving.register_keras_serializable("outside")
class Drawing(layers.Layer):
    """Draws with stateful functions, some of them in a function that it calls."""

    def __init__(self, source: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source

    def call(self, x: Any, training: bool = False) -> Any:
        if not training:
            return x
        if self.source == "numpy":
            return x * np.random.uniform()
        return x * tf.random.uniform(()) if self.source == "tensorflow" else x * draw_in_python()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "source": self.source}


def draw_in_python() -> float:
    return random.random()


@pytest.mark.long
def test_stateful_random_functions_are_exact_step_by_step() -> None:
    sources = ("tensorflow", "numpy", "python")
    require_resumed(seeded(lambda: stack((8,), *map(Drawing, sources))), VECTORS)


def test_stateful_random_functions_in_a_compiled_step_are_named() -> None:
    build = seeded(lambda: stack((8,), Drawing("tensorflow", name="d")), run_eagerly=False)
    only_while = "only while the step is compiled, so a resumed training draws other numbers"
    assert set(changes_of(build, VECTORS)) == {
        f"layer 'd' calls np.random.uniform, which draws from NumPy's random {only_while}",
        "layer 'd' calls tf.random.uniform, a random operation of TensorFlow whose state cannot be "
        "saved (keras.random with a SeedGenerator can)",
        f"layer 'd' calls random.random, which draws from Python's random {only_while}",
    }


@pytest.mark.long
def test_what_augmix_draws_while_it_is_compiled_is_named() -> None:
    build = seeded(lambda: stack((8, 8, 3), layers.AugMix((0, 1), name="m")), run_eagerly=False)
    assert changes_of(build, IMAGES) == (
        "layer 'm' calls py_random.choice, which draws from Python's random only while the step is "
        "compiled, so a resumed training draws other numbers",
    )


@keras.saving.register_keras_serializable("outside")
class Forgetful(layers.Layer):
    """Creates state only when it is called for training."""

    def call(self, x: Any, training: bool = False) -> Any:
        if training and not hasattr(self, "late"):
            self.late, self.source = tf.Variable(2.0), iter([1.0])
        return x


# It is told at the first save as well.
@pytest.mark.filterwarnings("ignore:.*does not load as it was")
def test_what_cannot_be_put_back_is_named() -> None:
    run_id = trained(seeded(lambda: stack((8,), Forgetful(name="f"))), VECTORS)
    late = "layer 'f': late is missing, and its value is lost"
    with pytest.warns(UserWarning, match=f"loaded model differs.*: {late}"):
        mlflow_ckpt.load_model(run_id)
    with pytest.warns(UserWarning, match="cannot be the same"):
        point = mlflow_ckpt.resume(run_id)
    assert set(point.changes) == {
        late,
        "layer 'f': source is an iterator, whose position cannot be saved",
    }


SHARED = np.random.default_rng(9)


@keras.saving.register_keras_serializable("outside")
class Sharing(layers.Layer):
    """Draws from a generator of the module, which a rebuilt layer draws from as well."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rng = SHARED

    def call(self, x: Any, training: bool = False) -> Any:
        return x * self.rng.uniform() if training else x


def test_loading_on_trial_leaves_the_trainings_generator_alone() -> None:
    def weights_after(*callbacks: Any) -> np.ndarray[Any, Any]:
        SHARED.bit_generator.state = np.random.default_rng(9).bit_generator.state
        model = seeded(lambda: stack((8,), Sharing()))()
        with mlflow.start_run():
            for epoch in range(2):
                train(model, VECTORS, epoch + 1, *callbacks, initial=epoch)
        return np.asarray(model.get_weights()[0])

    saved_on = weights_after(MlflowCheckpoint(monitor="loss", save_freq="epoch"))
    assert np.array_equal(saved_on, weights_after())


@pytest.mark.parametrize(
    "name",
    [daily(name) for name in ["augmentation", "text vectorization", "nested models", "schedule"]],
)
def test_a_second_save_walks_through_the_model_only_if_it_changed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = []
    survey = census.survey
    monkeypatch.setattr(census, "survey", lambda model: walks.append(1) or survey(model))
    entry = ZOO[name]
    model = entry.build()
    x, y = entry.data()
    model.fit(x, y, batch_size=8, verbose=0)
    taker = census.Census()

    def take() -> census.Taken:
        return taker.take(model, introspection.saved_variables(model, None), Buffers().copy)

    first = take()
    model.fit(x, y, batch_size=8, verbose=0)
    assert take().attributes == first.attributes
    assert len(walks) == 1
    model.layers[-1].helper = Helper()
    helper = f"layers/{len(model.layers) - 1}/helper"
    paths = {held.path for held in take().state}
    assert {f"{helper}/variable", f"{helper}/rng", f"{helper}/optimizer/_variables/0"} <= paths
    assert len(walks) == 2


class Summing(keras.metrics.Metric):
    def __init__(self) -> None:
        super().__init__()
        self.total = self.add_weight(initializer="zeros")

    def update_state(self, value: Any) -> None:
        self.total.assign_add(value)

    def result(self) -> Any:
        return self.total


SUMMING = Summing()
KEPT = Summing()


class OverMetrics(keras.Model):
    """Uses metrics that are variables of the script, of which it tells Keras one."""

    @property
    def metrics(self) -> list[Any]:
        return [SUMMING]

    def call(self, inputs: Any) -> Any:
        return inputs

    def train_step(self, data: Any) -> dict[str, Any]:
        SUMMING.update_state(1.0)
        KEPT.update_state(1.0)
        return {"sum": SUMMING.result()}


def test_only_metrics_that_keras_does_not_know_of_are_state() -> None:
    model, taken = OverMetrics(), census.Census()
    assert taken.take(model, [], Buffers().copy).unsaved == []
    SUMMING.update_state(1.0)
    assert taken.take(model, [], Buffers().copy).unsaved == []
    KEPT.update_state(1.0)
    (phrase,) = taken.take(model, [], Buffers().copy).unsaved
    assert phrase.startswith("OverMetrics.train_step refers to the variable 'KEPT'")


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: set(range(2000)), lambda held: held.add(-1)),
        (lambda: bytearray(2 << 20), lambda held: held.__setitem__(slice(None), b"x" * (2 << 20))),
        (lambda: {1, 2}, lambda held: held.add(3)),
    ],
)
def test_large_values_of_attributes_are_compared(
    make: Callable[[], Any], change: Callable[[Any], Any]
) -> None:
    model, taken = keras.Sequential([keras.Input((1,))]), census.Census()
    model.held = make()
    assert taken.take(model, [], Buffers().copy).before == {}
    change(model.held)
    assert list(taken.take(model, [], Buffers().copy).before) == ["held"]


def test_a_set_of_objects_is_not_compared_by_their_addresses() -> None:
    model = keras.Sequential([keras.Input((1,))])
    model.held = {Summing()}
    assert "held" not in census.Census().take(model, [], Buffers().copy).attributes


def test_a_chain_of_objects_is_followed_for_a_while() -> None:
    class Link:
        def __init__(self, following: Any) -> None:
            self.following = following

    model = keras.Sequential([keras.Input((1,))])
    chain = None
    for _ in range(10_000):
        chain = Link(chain)
    model.held = chain
    longest = max(map(len, census.survey(model).objects))
    assert 1000 < longest <= census.LONGEST_PATH
