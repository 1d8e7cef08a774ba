"""Compile settings and optimizers: what loads, goes on exactly, or is named with its cause."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from keras import layers

import mlflow_ckpt
from devtools.stores import Store, current
from mlflow_ckpt import MlflowCheckpoint
from mlflow_ckpt._model.capture import compile_settings
from mlflow_ckpt.errors import ModelLoadError, UnknownObjectError

pytestmark = pytest.mark.usefixtures("local_store")

register = keras.saving.register_keras_serializable("compiling")
random = np.random.default_rng(0)
X = random.normal(size=(16, 4)).astype("float32")
Y = random.normal(size=(16, 1)).astype("float32")
EAGER = {"run_eagerly": True}


@register
def squared(y: Any, predicted: Any) -> Any:
    return keras.ops.mean(keras.ops.square(y - predicted))


def unregistered(y: Any, predicted: Any) -> Any:
    return squared(y, predicted)


def push(optimizer: keras.optimizers.Optimizer, variables: list[Any], amount: Any) -> None:
    """A training step of any backend: the gradient is made up."""
    optimizer.apply([variable * 0.1 + amount for variable in variables], variables)


class Pair(keras.Model):
    """Two parts with an optimizer each, as in Keras's examples of GANs."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.generator = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
        self.critic = keras.Sequential([keras.Input((4,)), layers.Dense(1)])

    def build(self, shape: Any) -> None:
        self.built = True

    def call(self, x: Any) -> Any:
        return self.critic(self.generator(x))

    def train_step(self, data: Any) -> Any:
        x, y = data
        loss = self.loss_of(y, self(x))
        push(self.d_optimizer, self.critic.trainable_weights, loss)
        push(self.g_optimizer, self.generator.trainable_weights, 0.1)
        self.mean_loss.update_state(loss)
        return {"loss": self.mean_loss.result()}


@register
class Gan(Pair):
    def compile(
        self, d_optimizer: Any, g_optimizer: Any, gen_loss_fn: Any, scale: float = 1.0
    ) -> None:
        super().compile(**EAGER)
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer
        self.loss_of = gen_loss_fn  # another name, as in Keras's CycleGAN
        self.scale = scale
        self.mean_loss = keras.metrics.Mean(name="mean_loss")


@register
class Guided(Pair):
    """As Keras's guide to saving says."""

    def compile(self, d_optimizer: Any, g_optimizer: Any, loss_fn: Any) -> None:
        super().compile(**EAGER)
        self.d_optimizer, self.g_optimizer, self.loss_of = d_optimizer, g_optimizer, loss_fn
        self.mean_loss = keras.metrics.Mean(name="mean_loss")

    def get_compile_config(self) -> dict[str, Any]:
        values = {"d": self.d_optimizer, "g": self.g_optimizer, "loss": self.loss_of}
        return {k: keras.saving.serialize_keras_object(v) for k, v in values.items()}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(
            *(keras.saving.deserialize_keras_object(config[k]) for k in ("d", "g", "loss"))
        )


@register
class Classifier(keras.Model):
    """Of the same shape as all of KerasHub's tasks."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(1)

    def build(self, shape: Any) -> None:
        self.dense.build(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def compile(
        self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **kwargs: Any
    ) -> None:
        if optimizer == "auto":
            optimizer = keras.optimizers.Adam(0.1)
        if loss == "auto":
            loss = keras.losses.MeanSquaredError()
        if metrics == "auto":
            metrics = [keras.metrics.MeanAbsoluteError()]
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)


@register
class Forgetful(Classifier):
    def compile(self, rates: Any, optimizer: Any = "sgd") -> None:  # type: ignore[override]
        keras.Model.compile(self, optimizer=optimizer, loss="mse", **EAGER)
        self.total_rate = sum(rates)


@register
class Loop(Pair):
    """Optimizers that exist before compile(), and that Keras never builds."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.optimizers = [keras.optimizers.Adam(0.1), keras.optimizers.SGD(0.1, momentum=0.9)]
        self.loss_of, self.mean_loss = squared, keras.metrics.Mean(name="mean_loss")

    @property
    def d_optimizer(self) -> Any:
        return self.optimizers[0]

    @property
    def g_optimizer(self) -> Any:
        return self.optimizers[1]


def built(model: keras.Model, **settings: Any) -> keras.Model:
    model.compile(**settings)
    if not model.built:
        model.build((None, 4))
    return model


def sequential() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(1)])


def parts() -> dict[str, Any]:
    return {"d_optimizer": keras.optimizers.Adam(0.1), "g_optimizer": keras.optimizers.RMSprop(0.1)}


def divided() -> keras.Model:
    choice = keras.optimizers.OptimizerMap(
        keras.optimizers.SGD(0.1, momentum=0.9), {"a/.*": keras.optimizers.Adam(0.01)}
    )
    return built(
        sequential(), optimizer=keras.optimizers.MultiOptimizer(choice), loss="mse", **EAGER
    )


def divided_subclass() -> keras.Model:
    """The paths of its variables contain its name, which they lack after a reload."""
    model = built(Classifier(name="tall"))
    choice = keras.optimizers.OptimizerMap(
        keras.optimizers.SGD(0.1, momentum=0.9), {"tall/.*bias": keras.optimizers.Adam(0.01)}
    )
    model.compile(keras.optimizers.MultiOptimizer(choice), **EAGER)
    return model


def replaced() -> keras.Model:
    model = built(sequential(), loss="mse")
    model.optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.run_eagerly = True
    return model


def with_frozen_submodel() -> keras.Model:
    inner = built(
        keras.Sequential([keras.Input((4,)), layers.Dense(1)]), optimizer="adam", loss="mse"
    )
    inner.train_on_batch(X, Y)
    inner.trainable = False
    outer = keras.Sequential([keras.Input((4,)), layers.Dense(4), inner])
    return built(outer, optimizer="rmsprop", loss="mse", **EAGER)


MODELS: dict[str, Callable[[], keras.Model]] = {
    "gan": lambda: built(Gan(), **parts(), gen_loss_fn=squared, scale=0.5),
    "guide": lambda: built(Guided(), **parts(), loss_fn=keras.losses.MeanSquaredError()),
    "hub": lambda: built(Classifier(), weighted_metrics=["mse"], **EAGER),
    "loop": lambda: built(Loop(), **EAGER),
    "divided": divided,
    "divided_subclass": divided_subclass,
    "replaced": replaced,
    "frozen_submodel": with_frozen_submodel,
}


class Freeze(keras.callbacks.Callback):  # type: ignore[misc]
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.layers[0].trainable = False


def fit(model: keras.Model, *callbacks: Any, **settings: Any) -> str:
    """Train without shuffling into a new run; return its id."""
    with mlflow.start_run() as run:
        model.fit(
            X, Y, **{"epochs": 2, "verbose": 0, "shuffle": False, "callbacks": callbacks} | settings
        )
    return str(run.info.run_id)


def checkpoints(**settings: Any) -> MlflowCheckpoint:
    return MlflowCheckpoint(**{"monitor": "loss", "test_load": False, **settings})


def go_on(point: mlflow_ckpt.ResumePoint) -> keras.Model:
    """Train for two more epochs, without saving."""
    settings = {"initial_epoch": 2, "epochs": 4, "callbacks": point.callbacks[:1]}
    point.model.fit(X, Y, verbose=0, shuffle=False, **settings)
    return point.model


def never_stopped(model: keras.Model) -> keras.Model:
    """Train the model that was saved for two more epochs."""
    model.fit(X, Y, initial_epoch=2, epochs=4, verbose=0, shuffle=False)
    return model


def assert_same(model: keras.Model, expected: keras.Model) -> None:
    one, other = mlflow_ckpt.fingerprint(model), mlflow_ckpt.fingerprint(expected)
    assert one.of_role("optimizer")
    assert one.differing(other, ("weights", "optimizer")) == []


def archive(run_id: str, name: str = "epoch_0002") -> str:
    path = f"runs:/{run_id}/checkpoints/{name}/data/model.keras"
    return str(mlflow.artifacts.download_artifacts(path))


@pytest.mark.parametrize("kind", MODELS)
def test_a_resumed_training_is_the_one_that_never_stopped(kind: str) -> None:
    model = MODELS[kind]()
    run_id = fit(model, checkpoints())
    loaded = mlflow_ckpt.load_model(run_id)
    assert_same(loaded, model)
    assert loaded.run_eagerly
    resumed = mlflow_ckpt.resume(run_id)
    restored = mlflow_ckpt.restore(MODELS[kind](), run_id)
    never_stopped(model)
    for point in (resumed, restored):
        assert point.changes == ()
        assert_same(go_on(point), model)


@pytest.mark.parametrize("kind", ["gan", "hub"])
@pytest.mark.parametrize("forms", [("full",), ("split",)])
def test_a_model_with_its_own_compile_loads_uncompiled(kind: str, forms: tuple[str, ...]) -> None:
    model = MODELS[kind]()
    run_id = fit(model, checkpoints(forms=forms))
    loaded = [mlflow_ckpt.load_model(run_id, form="split")]
    if forms == ("full",):
        loaded.append(mlflow_ckpt.load_model(run_id, compile=False))
    for each in loaded:
        assert not each.compiled
        np.testing.assert_array_equal(each.predict(X, verbose=0), model.predict(X, verbose=0))


def test_stock_tools_open_a_model_with_its_own_compile() -> None:
    model = MODELS["hub"]()
    run_id = fit(model, checkpoints())
    predicted = model.predict(X, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras's: the model is not compiled
        stock = keras.saving.load_model(archive(run_id))
        of_mlflow = mlflow.keras.load_model(f"ckpt:/{run_id}/latest")
        served = mlflow.pyfunc.load_model(f"ckpt:/{run_id}/latest").predict(X)
    np.testing.assert_array_equal(stock.predict(X, verbose=0), predicted)
    np.testing.assert_array_equal(of_mlflow.predict(X, verbose=0), predicted)
    np.testing.assert_array_equal(np.asarray(served), predicted)


@pytest.fixture
def mixed() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.usefixtures("mixed")
def test_a_loss_that_is_not_scaled_stays_so() -> None:
    def make() -> keras.Model:
        return built(sequential(), optimizer="adam", loss="mse", auto_scale_loss=False, **EAGER)

    model = make()
    run_id = fit(model, checkpoints())
    assert type(mlflow_ckpt.load_model(run_id).optimizer) is keras.optimizers.Adam
    point = mlflow_ckpt.resume(run_id)
    keras.config.set_dtype_policy("float32")
    assert_same(keras.saving.load_model(archive(run_id)), model)
    assert_same(mlflow_ckpt.load_model(run_id), model)
    assert_same(go_on(point), never_stopped(model))


def test_a_layer_that_a_callback_freezes_stays_frozen() -> None:
    def make() -> keras.Model:
        return built(sequential(), optimizer="adam", loss="mse", **EAGER)

    model = make()
    run_id = fit(model, Freeze(), checkpoints())
    assert_same(go_on(mlflow_ckpt.resume(run_id)), never_stopped(model))
    with pytest.warns(UserWarning, match="a.trainable was False and is now True"):
        point = mlflow_ckpt.restore(make(), run_id)
    assert "a.trainable was False and is now True" in point.changes


def test_a_sublayer_that_no_config_describes_stays_frozen() -> None:
    model = built(Classifier(), **EAGER)
    model.dense.trainable = False
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        run_id = fit(model, checkpoints(), epochs=1)
    assert mlflow_ckpt.load_model(run_id).trainable_variables == []


def test_a_graph_that_trains_frozen_layers_is_named() -> None:
    model = built(sequential(), optimizer="sgd", loss="mse")
    run_id = fit(model, Freeze(), checkpoints())
    with pytest.warns(UserWarning, match="without a new compile"):
        point = mlflow_ckpt.resume(run_id)
    assert any("still trained a/kernel, a/bias" in change for change in point.changes)


def test_compile_may_be_left_to_the_user() -> None:
    model = built(Forgetful(), rates=[1, 2], optimizer=keras.optimizers.Adam(0.1))
    run_id = fit(model, checkpoints())
    with pytest.raises(ModelLoadError) as caught:
        mlflow_ckpt.resume(run_id)
    assert str(caught.value).startswith(
        "The compile() of Forgetful cannot be called again, because its argument 'rates' is not "
        "known: compile() does not keep it in an attribute, and it has no default."
    )

    def compile_again(model: keras.Model) -> None:
        model.compile(rates=[1, 2], optimizer=keras.optimizers.Adam(0.1))

    with pytest.warns(UserWarning, match="'rates' of compile"):
        point = mlflow_ckpt.resume(run_id, compile=compile_again)
    assert_same(mlflow_ckpt.load_model(run_id, compile=compile_again), model)
    assert_same(go_on(point), never_stopped(model))
    with pytest.raises(ModelLoadError, match="after which the model is not compiled"):
        mlflow_ckpt.resume(run_id, compile=lambda model: None)
    with pytest.raises(ModelLoadError, match="an optimizer optimizer, a Adam"):
        mlflow_ckpt.load_model(run_id, compile=lambda model: model.compile(rates=[1]))


def test_changed_arguments_of_its_own_compile_are_named() -> None:
    run_id = fit(MODELS["gan"](), checkpoints())
    other = built(Gan(), **parts(), gen_loss_fn=squared, scale=0.25)
    with pytest.warns(UserWarning):
        point = mlflow_ckpt.restore(other, run_id)
    assert point.changes == ("compile.scale was 0.5 and is now 0.25",)


def test_a_lambda_is_named_with_what_loads() -> None:
    model = built(sequential(), optimizer="sgd", loss=lambda y, p: squared(y, p), **EAGER)
    with pytest.warns(UserWarning) as warned:
        run_id = fit(model, checkpoints(test_load=True))
    cause = (
        "The argument loss of compile() is a lambda, which Keras does not load in safe mode. Make "
        "it a function or class that is registered with keras.saving.register_keras_serializable. "
        "Without it: load_model(…, compile=False) or form='split' loads the model; resume(…, "
        "compile=lambda model: model.compile(…)) and restore(model, …) also load the optimizer."
    )
    told = f"epoch_0001 will not load with its compile settings and optimizer. {cause}"
    assert [str(w.message) for w in warned if "will not load" in str(w.message)] == [told]
    with pytest.raises(ModelLoadError) as caught:
        mlflow_ckpt.resume(run_id)
    assert str(caught.value) == cause
    assert not mlflow_ckpt.load_model(run_id, compile=False).compiled


def test_a_loss_that_is_not_registered_is_named_with_what_loads() -> None:
    model = built(sequential(), optimizer="sgd", loss=unregistered, **EAGER)
    run_id = fit(model, checkpoints())
    with pytest.raises(UnknownObjectError) as caught:
        mlflow_ckpt.load_model(run_id)
    assert caught.value.name == "unregistered"
    assert "Only compile() needs it: load_model(…, compile=False)" in str(caught.value)
    given = {"unregistered": unregistered}
    assert_same(mlflow_ckpt.load_model(run_id, custom_objects=given), model)


@register
class Wrapped(layers.Wrapper):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return self.layer(x)


def twice(*, wrapped_first: bool) -> keras.Model:
    one, other = keras.Input((2,)), keras.Input((2,))
    shared = layers.Dense(1)
    if wrapped_first:
        model = keras.Model([one, other], [Wrapped(shared)(one), shared(other)])
    else:
        model = keras.Model([one, other], [shared(one), Wrapped(shared)(other)])
    return built(model, optimizer="sgd", loss=["mse", "mse"], **EAGER)


@pytest.mark.parametrize("wrapped_first", [False, True])
def test_a_layer_used_directly_and_in_a_wrapper_stays_one(wrapped_first: bool) -> None:
    model = twice(wrapped_first=wrapped_first)
    run_id = fit_twice(model, forms=("full", "split"))
    for form in ("full", "split"):
        loaded = mlflow_ckpt.load_model(run_id, form=form)
        assert len(loaded.weights) == len(model.weights) == 2
        same = mlflow_ckpt.fingerprint(loaded)
        assert same.architecture_digest == mlflow_ckpt.fingerprint(model).architecture_digest


def fit_twice(model: keras.Model, **settings: Any) -> str:
    halves, targets = [X[:, :2], X[:, 2:]], [Y, Y]
    with mlflow.start_run() as run:
        model.fit(halves, targets, verbose=0, callbacks=[checkpoints(**settings)])
    return str(run.info.run_id)


def test_a_layer_that_keras_cannot_share_again_is_named() -> None:
    one, other = keras.Input((2,)), keras.Input((2,))
    shared, inside = layers.Dense(1, name="both"), keras.Input((2,))
    submodel = keras.Model(inside, shared(inside) + 1.0)
    model = keras.Model([one, other], [shared(one), submodel(other)])
    run_id = fit_twice(built(model, optimizer="sgd", loss=["mse", "mse"], **EAGER))
    with pytest.raises(ModelLoadError) as caught:
        mlflow_ckpt.load_model(run_id)
    assert "The model holds the layer both in several places" in str(caught.value)
    assert mlflow_ckpt.load_weights(model, run_id).complete


@register
class Mute(layers.Dense):  # type: ignore[misc]
    def load_own_variables(self, store: Any) -> None:
        pass


def test_what_a_layer_does_not_load_is_put_back() -> None:
    model = built(
        keras.Sequential([keras.Input((4,)), Mute(1)]), optimizer="sgd", loss="mse", **EAGER
    )
    run_id = fit(model, checkpoints())
    assert_same(mlflow_ckpt.load_model(run_id), model)


def test_a_checkpoint_of_an_older_version_loads(sqlite_store: Store) -> None:
    """Without the recorded settings, Keras's own loader compiles the model."""
    model = built(sequential(), optimizer="adam", loss="mse", **EAGER)
    recorder = compile_settings.Recorder.record
    with current(sqlite_store), pytest.MonkeyPatch.context() as patch:
        old = compile_settings.Record(None, None, None)  # type: ignore[arg-type]
        patch.setattr(compile_settings.Recorder, "record", lambda self, model: old)
        run_id = fit(model, checkpoints())
    assert compile_settings.Recorder.record is recorder
    assert_same(mlflow_ckpt.load_model(run_id), model)


def test_the_record_is_cheap_once_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(sequential(), optimizer="adam", loss="mse", **EAGER)
    recorder = compile_settings.Recorder()
    first = recorder.record(model)
    monkeypatch.setattr(compile_settings.optimizers, "names_of", None)
    assert recorder.record(model) == first
    monkeypatch.undo()
    model.optimizer.build(model.trainable_variables)
    assert first.optimizers["optimizer"]["variables"] is None
    assert recorder.record(model).optimizers["optimizer"]["variables"] == [
        "layers/dense/vars/0",
        "layers/dense/vars/1",
        "layers/dense_1/vars/0",
        "layers/dense_1/vars/1",
    ]
