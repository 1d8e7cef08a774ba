"""Which layers of a user's model differ from the saved ones: all that do, and no others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import layers, ops

from mlflow_ckpt._model.rebuild import differing_layers
from tests.support.kinds import KINDS
from tests.support.kinds.program import fresh

Build = Callable[[], keras.Model]


@keras.saving.register_keras_serializable("differing")
class Scaled(layers.Layer):
    """A layer without a configuration of its own."""

    def call(self, x: Any) -> Any:
        return 2 * x


def described(model: keras.Model) -> dict[str, Any]:
    return dict(json.loads(model.to_json()))


def differences(saved: keras.Model, own: keras.Model) -> list[str]:
    found = differing_layers.differences(described(saved), described(own))
    return [f"{what} {how}" for what, how in found]


def functional(compute: Callable[[Any, Any], Any]) -> keras.Model:
    x = keras.Input((4,), name="x")
    hidden = layers.Dense(4, name="hidden")(x)
    return keras.Model(x, compute(x, hidden))


def called_twice(x: Any, hidden: Any) -> Any:
    shared = layers.Dense(4)
    return shared(shared(x) + hidden)


def wrapped(activation: str) -> keras.Model:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, activation, name="inner")])
    return keras.Sequential([keras.Input((3, 4)), layers.TimeDistributed(inner, name="each")])


def random() -> keras.Model:
    zoom = layers.Pipeline([layers.RandomZoom(0.2, seed=1), layers.RandomErasing()])
    return keras.Sequential([keras.Input((8, 8, 3)), zoom])


SAME: dict[str, Build] = {
    "arithmetic": lambda: functional(lambda x, hidden: 2 * x - hidden + ops.tanh(x)),
    "own layers": lambda: functional(lambda x, hidden: Scaled()(hidden)),
    "layers called with names": lambda: functional(
        lambda x, hidden: layers.Attention()([x[:, None], hidden[:, None]])
    ),
    "a layer called twice": lambda: functional(called_twice),
    "several outputs": lambda: functional(lambda x, hidden: {"a": hidden, "b": x}),
    "a model in a wrapper": lambda: wrapped("relu"),
    "a pipeline": random,
}


@pytest.mark.parametrize("build", SAME.values(), ids=SAME)
def test_a_model_built_twice_does_not_differ(build: Build) -> None:
    assert differences(build(), build()) == []


def test_a_setting_inside_a_model_inside_a_wrapper() -> None:
    assert differences(wrapped("relu"), wrapped("tanh")) == [
        "layer 'inner': `activation` was 'relu' and is 'tanh'"
    ]


def test_a_layer_called_on_another_one() -> None:
    def model(skips: bool) -> keras.Model:
        return functional(
            lambda x, hidden: layers.Add(name="sum")([hidden, x if skips else hidden])
        )

    assert differences(model(skips=True), model(skips=False)) == [
        "layer 'sum': inputs were ['hidden', 'x'] and are ['hidden', 'hidden']"
    ]


def test_a_constant_in_an_expression() -> None:
    found = differences(
        functional(lambda x, hidden: 2 * hidden), functional(lambda x, hidden: 3 * hidden)
    )
    assert len(found) == 1
    assert "multiply" in found[0]


def test_outputs_in_another_order() -> None:
    (found,) = differences(
        functional(lambda x, hidden: [hidden, x]), functional(lambda x, hidden: [x, hidden])
    )
    assert "`output_layers` were ['hidden', 'x'] and are ['x', 'hidden']" in found


def test_another_operation() -> None:
    (found,) = differences(
        functional(lambda x, hidden: x + hidden), functional(lambda x, hidden: x - hidden)
    )
    assert "was a Add and is a Subtract" in found


@pytest.mark.kinds
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.timeout(1800)
def test_no_kind_of_model_differs_from_itself() -> None:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    wrong, compared = {}, 0
    for name, kind in KINDS.items():
        if backend not in kind.backends:
            continue
        fresh(1)
        try:
            first, second = described(kind.build()), described(kind.build())
        except NotImplementedError:  # a class of the user's that has no configuration
            continue
        compared += 1
        if found := list(differing_layers.differences(first, second)):
            wrong[name] = found
    assert wrong == {}
    assert compared > 200
