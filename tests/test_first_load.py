"""What will not load is said at the first save; the trial does not touch the training."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlflow_ckpt
from mlflow_ckpt import MlflowCheckpoint
from mlflow_ckpt._model.keras_private import trial_thread
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt.errors import UnsupportedModelError
from tests.support.training import X, Y, names, new_run

pytestmark = pytest.mark.usefixtures("local_store")


def double(x: Any) -> Any:
    return 2 * x


def distance(expected: Any, got: Any) -> Any:
    return keras.ops.mean((expected - got) ** 2)


class Local(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        return inputs


# Keras looks for it in its module first.
Local.__module__ = "a_script_that_is_gone"


@keras.saving.register_keras_serializable("tests")
class Renamed(keras.layers.Layer):
    """Its constructor does not take what its `get_config` returns."""

    def call(self, inputs: Any) -> Any:
        return inputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": 3}


def model_of(*inside: keras.layers.Layer, loss: Any = "mse", **settings: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), *inside, keras.layers.Dense(1)])
    model.compile("adam", loss, run_eagerly=True, **settings)
    return model


def train(model: keras.Model, run_id: str, **arguments: Any) -> list[str]:
    """Train for two epochs; return the warnings of this package."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with MlflowCheckpoint("loss", run_id=run_id, **arguments) as ours:
            model.fit(X, Y, batch_size=8, epochs=2, verbose=0, shuffle=False, callbacks=[ours])
    return [str(w.message) for w in caught if "epoch_0001" in str(w.message)]


KINDS: dict[str, tuple[Callable[[], keras.Model], str]] = {
    "an activation that is not registered": (
        lambda: model_of(keras.layers.Dense(2, activation=double)),
        "epoch_0001 loads only with custom_objects={'double': double}, because",
    ),
    "a loss and a class that are not registered": (
        lambda: model_of(Local(), loss=distance),
        "epoch_0001 loads only with custom_objects={'Local': Local, 'distance': distance}, because",
    ),
    "a lambda as loss": (
        lambda: model_of(loss=lambda a, b: keras.ops.mean((a - b) ** 2)),
        "epoch_0001 will not load with its compile settings and optimizer.",
    ),
    "a Lambda layer": (
        lambda: model_of(keras.layers.Lambda(lambda x: x)),
        "epoch_0001 will not load. The model holds a Lambda layer",
    ),
    "a constructor that does not fit": (
        lambda: model_of(Renamed()),
        "epoch_0001 will not load. Keras cannot rebuild the model:",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_will_not_load_is_said_at_the_first_save(kind: str) -> None:
    build, expected = KINDS[kind]
    (message,) = train(build(), new_run())
    assert message.startswith(expected)
    if "will not load" in message:
        assert "restore(model, …)" in message
        assert ("form='split'" in message) == ("compile settings" in message)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_what_the_message_advises_works() -> None:
    run_id = new_run()
    model = KINDS["a lambda as loss"][0]()
    assert train(model, run_id)
    split = mlflow_ckpt.load_model(run_id, form="split")
    assert np.array_equal(split.get_weights()[0], model.get_weights()[0])
    point = mlflow_ckpt.restore(KINDS["a lambda as loss"][0](), run_id)
    assert np.array_equal(point.model.get_weights()[0], model.get_weights()[0])


def test_it_is_an_error_where_that_is_asked_for() -> None:
    with pytest.raises(UnsupportedModelError, match="epoch_0001 will not load"):
        train(model_of(keras.layers.Lambda(lambda x: x)), new_run(), on_error="raise")


def test_a_checkpoint_in_the_split_form_and_one_that_is_not_tried() -> None:
    build, _ = KINDS["a Lambda layer"]
    (message,) = train(build(), new_run(), forms=("split",))
    assert message.startswith("epoch_0001 will not load. The model holds a Lambda layer")
    assert train(build(), new_run(), test_load=False) == []


@pytest.mark.usefixtures("http_store")
def test_settings_of_the_training_thread_hold_and_the_spool_is_left_empty() -> None:
    keras.config.enable_unsafe_deserialization()
    try:
        assert train(model_of(keras.layers.Lambda(lambda x: x)), new_run()) == []
    finally:
        keras.src.backend.common.global_state.set_global_attribute("safe_mode_saving", None)
    with keras.saving.custom_object_scope({"double": double}):
        assert train(model_of(keras.layers.Dense(2, activation=double)), new_run()) == []
    keras.config.set_dtype_policy("mixed_float16")
    try:
        run_id = new_run()
        assert train(model_of(), run_id) == []
    finally:
        keras.config.set_dtype_policy("float32")
    assert Spool.default().entries(run_id) == []
    assert not list(Spool.default().root.glob(f"{run_id}/*"))


def noisy() -> keras.Model:
    return model_of(keras.layers.Dropout(0.3), keras.layers.GaussianNoise(0.1))


def traces(*, test_load: bool) -> list[Any]:
    """Everything in this process that a training could tell a trial from."""
    keras.utils.set_random_seed(5)
    model, run_id = noisy(), new_run()
    assert train(model, run_id, test_load=test_load) == []
    assert names(run_id) == ["epoch_0001", "epoch_0002"]
    later = keras.layers.Dropout(0.5)
    number = int(later.name.rpartition("_")[2]) - int(model.layers[0].name.rpartition("_")[2])
    return [
        *[weight.tolist() for weight in model.get_weights()],
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
        tf.random.uniform(()).numpy(),
        keras.random.uniform(()).numpy(),
        later.seed_generator.state.numpy().tolist(),
        number,
    ]


def test_the_training_is_the_same_with_and_without() -> None:
    keras.layers.Dropout(0.5)  # so that all names have a number
    assert traces(test_load=True) == traces(test_load=False)


def test_the_modules_that_keras_uses_are_put_back() -> None:
    with trial_thread.apart_from_training({}):
        assert keras.src.random.seed_generator.python_random is not random
    assert keras.src.random.seed_generator.python_random is random
    assert keras.src.saving.saving_lib.warnings is warnings
