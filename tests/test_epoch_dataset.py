"""The order of an EpochDataset depends on seed and epoch alone, and loses no sample."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlflow_ckpt
from mlflow_ckpt import EpochDataset
from mlflow_ckpt.errors import InvalidArgumentError
from tests.support.training import fit, small_model

X = np.arange(50)
ORDER_OF_SEED_3_EPOCH_2 = [7, 6, 4, 5, 1, 0, 3, 2]


def order(data: EpochDataset) -> list[int]:
    return [int(sample) for i in range(len(data)) for sample in data[i][0]]


@given(
    samples=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 10_000),
    data=st.data(),
)
def test_every_sample_once_and_the_rest_of_an_epoch_is_its_rest(
    samples: int, batch_size: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    dataset = EpochDataset(np.arange(samples), batch_size=batch_size, seed=seed)
    dataset.begin(epoch)
    whole = order(dataset)
    assert sorted(whole) == list(range(samples))
    other = EpochDataset(np.arange(samples), batch_size=batch_size, seed=seed)
    batch = data.draw(st.integers(0, dataset.batches - 1))
    other.begin(epoch + 1)
    other.begin(epoch, batch)
    assert order(other) == whole[batch * batch_size :]
    assert len(other) == dataset.batches - batch


def test_the_order_is_the_same_in_every_version_of_this_package() -> None:
    dataset = EpochDataset(np.arange(8), batch_size=8, seed=3)
    dataset.begin(2)
    assert order(dataset) == ORDER_OF_SEED_3_EPOCH_2


def test_epochs_and_seeds_differ() -> None:
    orders = set()
    for seed in range(3):
        for epoch in range(3):
            dataset = EpochDataset(X, seed=seed)
            dataset.begin(epoch)
            orders.add(tuple(order(dataset)))
    assert len(orders) == 9


def test_several_inputs_targets_and_weights_stay_together() -> None:
    dataset = EpochDataset({"a": X, "b": X * 2}, X * 3, sample_weight=X * 4, batch_size=7, seed=1)
    x, y, weight = dataset[0]
    assert np.array_equal(x["b"], 2 * x["a"])
    assert np.array_equal(y, 3 * x["a"])
    assert np.array_equal(weight, 4 * x["a"])


class Seen(keras.callbacks.Callback):
    """The first sample of each batch, as the model sees it."""

    def __init__(self, data: EpochDataset) -> None:
        super().__init__()
        self.data = data
        self.epochs: list[int | None] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch == 0:
            self.epochs.append(self.data.epoch)


@pytest.mark.usefixtures("local_store")
def test_the_callback_tells_the_epoch() -> None:
    x = np.zeros((20, 4), "float32")
    data = EpochDataset(x, x[:, :1], batch_size=5)
    seen = Seen(data)
    model = small_model()
    model.fit(data, epochs=3, verbose=0, callbacks=[mlflow_ckpt.MlflowCheckpoint("loss"), seen])
    assert seen.epochs == [0, 1, 2]


@pytest.mark.filterwarnings("error")
def test_fit_gets_the_same_batches_without_the_callback() -> None:
    x = np.zeros((20, 4), "float32")
    x[:, 0] = np.arange(20)
    seen: list[list[float]] = []

    class Recording(keras.Sequential):
        def train_step(self, data: Any) -> Any:
            seen[-1] += list(keras.ops.convert_to_numpy(data[0][:, 0]))
            return super().train_step(data)

    class Epochs(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            seen.append([])

    model = Recording([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    data = EpochDataset(x, x[:, :1], batch_size=5, seed=4)
    # What evaluates in between does not count as an epoch.
    model.fit(
        data, epochs=5, initial_epoch=3, validation_data=data, verbose=0, callbacks=[Epochs()]
    )
    expected = EpochDataset(x, batch_size=20, seed=4)
    for epoch, rows in enumerate(seen, 3):
        expected.begin(epoch)
        assert rows == list(expected[0][0][:, 0])


def test_a_loop_of_ones_own_is_warned_that_the_order_repeats() -> None:
    data = EpochDataset(np.arange(20), batch_size=5)
    order(data)
    with pytest.warns(UserWarning, match=r"Call begin\(epoch\)"):
        order(data)


@pytest.mark.usefixtures("local_store")
def test_fit_cannot_cut_its_epochs() -> None:
    x = np.zeros((20, 4), "float32")
    with pytest.raises(InvalidArgumentError, match="steps_per_epoch=2"):
        small_model().fit(
            EpochDataset(x, x[:, :1], batch_size=5),
            steps_per_epoch=2,
            verbose=0,
            callbacks=[mlflow_ckpt.MlflowCheckpoint("loss")],
        )


def test_a_function_gives_each_epoch() -> None:
    asked = []

    def batches(epoch: int) -> list[tuple[Any, ...]]:
        asked.append(epoch)
        return [(np.array([10 * epoch + i]),) for i in range(4)]

    dataset = EpochDataset.from_function(batches)
    dataset.begin(2)
    assert order(dataset) == [20, 21, 22, 23]
    dataset.begin(3, 2)
    assert order(dataset) == [32, 33]
    assert order(dataset) == [32, 33]  # as Keras looks at the first batches before it begins
    assert asked[0] == 0


def test_a_function_that_does_not_give_what_it_said_is_told() -> None:
    dataset = EpochDataset.from_function(lambda epoch: iter([(X,)]), batches=2)
    with pytest.raises(ValueError, match=r"returned 1 batches. Expected 2"):
        order(dataset)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EpochDataset(X, X[:3]), "Received: 3, 50"),
        (lambda: EpochDataset(X[:0]), "at least 1"),
        (lambda: EpochDataset(X, batch_size=0), "batch_size"),
        (lambda: EpochDataset(X, seed=-1), "seed"),
        (lambda: EpochDataset.from_function(lambda epoch: iter(())), "Pass batches="),
        (lambda: EpochDataset.from_function(lambda epoch: []), "at least 1 batch"),
        (lambda: EpochDataset(X).begin(0, 2), "from 0 to 1"),
    ],
)
def test_bad_arguments(make: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        make()


def test_a_description_tells_data_sets_apart() -> None:
    described = EpochDataset(X, seed=1).describe()
    assert EpochDataset(X.copy(), seed=1).describe() == described
    changed = X.copy()
    changed[7] = 0
    assert EpochDataset(changed, seed=1).describe()["digest"] != described["digest"]


def test_it_is_an_ordinary_data_set_for_everything_else() -> None:
    x = np.zeros((20, 4), "float32")
    model = small_model()
    fit(model)
    assert model.evaluate(EpochDataset(x, x[:, :1], shuffle=False), verbose=0)
