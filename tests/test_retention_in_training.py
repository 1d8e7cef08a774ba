"""Retention during training: old checkpoints go as new ones come, and what counts stays."""

from __future__ import annotations

from typing import Any

import mlflow
import pytest

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt import AnyOf, BestN, EveryN, LatestN, MlflowCheckpoint, RetentionPolicy
from mlflow_ckpt.errors import InvalidArgumentError
from tests.support.training import BATCHES, Metrics, X, fit, names, small_model
from tests.test_callback import tags

one_store = pytest.mark.usefixtures("local_store")


def kept_after(epochs: int, values: list[float] | None = None, **arguments: Any) -> list[str]:
    """Train with a metric that takes these values, and return what is kept."""
    scores = values or [float(epoch) for epoch in range(epochs)]
    with mlflow.start_run() as run:
        fit(
            small_model(),
            Metrics("score", scores),
            MlflowCheckpoint("score", mode="max", **arguments),
            epochs=epochs,
            batch_size=len(X),
            validation_data=None,
        )
    run_id = run.info.run_id
    kept = names(run_id)
    assert all(mlflow_ckpt.verify(run_id, name).ok for name in kept)
    assert tags(run_id)["latest"] == kept[-1] == f"epoch_{epochs:04d}"
    assert tags(run_id)["best"] == f"epoch_{scores.index(max(scores)) + 1:04d}"
    return kept


def test_max_to_keep_keeps_the_newest_and_the_files_of_others_are_gone(store: Store) -> None:
    with mlflow.start_run() as run:
        fit(small_model(), MlflowCheckpoint("loss", max_to_keep=2), epochs=4, validation_data=None)
    run_id = run.info.run_id
    assert names(run_id) == ["epoch_0003", "epoch_0004"]
    directory = store.checkpoint_directory(run_id, "epoch_0004").parent
    assert sorted(path.name for path in directory.rglob("manifest.json")) == ["manifest.json"] * 2
    directories = {path.relative_to(directory).parts[0] for path in directory.rglob("*.keras")}
    assert directories == {"epoch_0003", "epoch_0004"}
    assert mlflow_ckpt.load_model(run_id).built


@one_store
@pytest.mark.parametrize(
    ("retention", "values", "kept"),
    [
        (LatestN(1), [0.0, 1.0, 2.0, 3.0], [4]),
        (LatestN(1), [0.0, 9.0, 2.0, 3.0], [2, 4]),
        (BestN(2), [0.0, 9.0, 8.0, 3.0], [2, 3, 4]),
        (EveryN(2), [9.0, 1.0, 2.0, 3.0], [1, 2, 4]),
        (AnyOf(LatestN(2), BestN(2)), [8.0, 9.0, 1.0, 0.0, 2.0], [1, 2, 4, 5]),
        (EveryN(3) | LatestN(2), [9.0, 1.0, 1.0, 1.0, 1.0], [1, 3, 4, 5]),
        (BestN(1, "loss", "min"), [9.0, 1.0, 1.0], [1, 3]),
    ],
)
def test_a_policy(retention: RetentionPolicy, values: list[float], kept: list[int]) -> None:
    remaining = kept_after(len(values), values, retention=retention)
    assert remaining == [f"epoch_{epoch:04d}" for epoch in kept]


def test_the_best_stays_beside_max_to_keep(store: Store) -> None:
    assert kept_after(4, [1.0, 9.0, 2.0, 3.0], max_to_keep=1) == ["epoch_0002", "epoch_0004"]


@one_store
def test_inside_epochs() -> None:
    with mlflow.start_run() as run:
        fit(small_model(), MlflowCheckpoint("loss", save_freq=2, max_to_keep=2))
    steps = [
        checkpoint.manifest.step for checkpoint in mlflow_ckpt.list_checkpoints(run.info.run_id)
    ]
    assert steps[-2:] == [2 * BATCHES - 2, 2 * BATCHES]
    assert len(steps) <= 3, "the newest two, and the best if that is another"


@one_store
def test_only_the_best_are_saved_and_the_last_of_them_kept() -> None:
    with mlflow.start_run() as run:
        fit(
            small_model(),
            Metrics("score", [1.0, 3.0, 2.0, 4.0, 0.0]),
            MlflowCheckpoint("score", mode="max", save_best_only=True, max_to_keep=1),
            epochs=5,
            batch_size=len(X),
            validation_data=None,
        )
    assert names(run.info.run_id) == ["epoch_0004"]


def test_what_an_earlier_training_left_counts(store: Store) -> None:
    with mlflow.start_run() as run:
        fit(small_model(), MlflowCheckpoint(), epochs=3)
    run_id = run.info.run_id
    fit(
        mlflow_ckpt.load_model(run_id),
        MlflowCheckpoint(run_id=run_id, max_to_keep=2),
        initial_epoch=3,
        epochs=4,
    )
    assert names(run_id) == ["epoch_0003", "epoch_0004"]


@one_store
def test_a_policy_that_cannot_judge_keeps_everything_and_says_so_once() -> None:
    with mlflow.start_run() as run, pytest.warns(UserWarning) as caught:
        fit(small_model(), MlflowCheckpoint(retention=BestN(1, "val_auc", "max")), epochs=3)
    assert len(names(run.info.run_id)) == 3
    (message,) = [str(w.message) for w in caught if w.category is UserWarning]
    assert message == (
        "No checkpoint of the run recorded the metric 'val_auc', so the best checkpoints cannot "
        "be determined. Choose another metric: monitor=… (--monitor); recorded: loss, mae, "
        "val_loss, val_mae."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"max_to_keep": 2, "retention": LatestN(2)},
            "max_to_keep and retention contradict each other. Expected one of them. "
            "Received: max_to_keep=2, retention=LatestN(n=2)",
        ),
        ({"max_to_keep": 0}, "Expected LatestN's n to be an int >= 1. Received: n=0"),
        (
            {"retention": 3},
            "Expected a retention policy, such as LatestN(3) or LatestN(3) | BestN(1). Received: 3",
        ),
    ],
)
def test_a_wrong_argument_is_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        MlflowCheckpoint(**arguments)
    assert str(caught.value) == message
