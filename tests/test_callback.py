"""Training with MlflowCheckpoint: what ends up in the run, and when."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store, current
from mlflow_ckpt import MlflowCheckpoint
from mlflow_ckpt.errors import (
    CheckpointExistsError,
    InvalidArgumentError,
    RunNotFoundError,
    UnsupportedModelError,
)
from tests.support.training import BATCHES, Metrics, X, Y, fit, names, small_model, trained
from tests.support.zoo import Regressor, compiled, string_lookup, words

# What touches the server runs on both kinds of store, what is decided before it on the quicker one.
both_stores = pytest.mark.usefixtures("store")
one_store = pytest.mark.usefixtures("local_store")

# For a training whose batches and validation no test looks at.
SHORT: dict[str, Any] = {"batch_size": len(X), "validation_data": None}
METADATA: dict[str, Any] = {
    "class_names": ["猫", "b"],
    "scale": 0.5,
    "names": {10: "ten", 9: "nine"},
    "pair": (1, 2),
}


def tags(run_id: str) -> dict[str, str]:
    """The tags of the run that are ours, without their prefix."""
    all_tags = MlflowClient().get_run(run_id).data.tags
    prefix = "mlflow_ckpt."
    ours = {key.removeprefix(prefix): v for key, v in all_tags.items() if key.startswith(prefix)}
    ours.pop("description", None)
    return ours


def history(run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient().get_metric_history(run_id, metric)]


@dataclass(frozen=True)
class Trained:
    """A training of two epochs by defaults, without an active run. Read its run, never change it.

    Attributes:
        store: Where the run is.
        new: The ids of all runs that the training started.
        active: The active run after the training.
        history: What Keras reported, each metric epoch by epoch.
    """

    store: Store
    new: list[str]
    active: Any
    history: dict[str, list[float]]

    @property
    def run_id(self) -> str:
        (run_id,) = self.new
        return run_id


def all_runs() -> set[str]:
    return {run.info.run_id for run in mlflow.search_runs(output_format="list")}


@pytest.fixture(scope="module", params=["sqlite_store", "server"])
def trained_on(request: pytest.FixtureRequest) -> Trained:
    """The training on each kind of store in turn."""
    store = request.getfixturevalue(request.param)
    model = small_model()
    with current(store):
        before = all_runs()
        fit(model, MlflowCheckpoint(metadata=METADATA))
        active = mlflow.active_run()
        return Trained(store, sorted(all_runs() - before), active, model.history.history)


@pytest.fixture
def once(trained_on: Trained) -> Iterator[Trained]:
    """The training, with its store as MLflow's current one."""
    with current(trained_on.store):
        yield trained_on


def test_every_epoch_is_a_checkpoint_and_a_point_of_each_curve(once: Trained) -> None:
    run_id = once.run_id
    assert names(run_id) == ["epoch_0001", "epoch_0002"]
    checkpoints = mlflow_ckpt.list_checkpoints(run_id)
    for metric in ("loss", "mae", "val_loss", "val_mae"):
        expected = [(i + 1, value) for i, value in enumerate(once.history[metric])]
        assert history(run_id, metric) == expected
        for checkpoint, (_, value) in zip(checkpoints, expected, strict=True):
            assert checkpoint.manifest.metrics[metric] == value
    assert tags(run_id) == {"latest": "epoch_0002", "best": "epoch_0002"}
    assert [c.manifest.step for c in checkpoints] == [BATCHES, 2 * BATCHES]
    assert MlflowClient().get_run(run_id).info.status == "FINISHED"


def test_a_manifest_says_where_a_checkpoint_comes_from(once: Trained) -> None:
    run_id = once.run_id
    manifest = mlflow_ckpt.get_checkpoint(run_id, 1).manifest
    assert (manifest.run_id, manifest.epoch, manifest.name) == (run_id, 1, "epoch_0001")
    assert (manifest.forms, manifest.full_format) == (("full",), "keras")
    assert manifest.metadata.keys() == METADATA.keys()
    assert manifest.metadata["class_names"] == ["猫", "b"]
    assert manifest.metadata["scale"] == 0.5
    assert manifest.monitor is not None
    assert (manifest.monitor.name, manifest.monitor.mode) == ("val_loss", "min")
    assert manifest.versions["keras"] == keras.__version__
    assert manifest.versions["mlflow"] == mlflow.__version__
    assert manifest.versions["mlflow_ckpt"] == mlflow_ckpt.__version__
    assert manifest.versions["keras_backend"] == keras.config.backend()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest.created)


@pytest.mark.parametrize("value", [object(), math.nan, {1, 2}, b"bytes"])
def test_metadata_that_cannot_be_written_is_refused_at_once(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="metadata"):
        MlflowCheckpoint(metadata={"value": value})


def test_metadata_with_number_keys_survives(once: Trained) -> None:
    metadata = mlflow_ckpt.get_checkpoint(once.run_id).manifest.metadata
    assert metadata["names"] == {"10": "ten", "9": "nine"}
    assert metadata["pair"] == [1, 2]


@both_stores
def test_save_best_only_saves_what_improved() -> None:
    with mlflow.start_run() as run:
        fit(
            small_model(),
            Metrics("score", [3.0, 2.0, 3.0, 4.0]),
            MlflowCheckpoint("score", mode="max", save_best_only=True),
            epochs=4,
            **SHORT,
        )
    assert names(run.info.run_id) == ["epoch_0001", "epoch_0004"]
    assert tags(run.info.run_id) == {"latest": "epoch_0004", "best": "epoch_0004"}
    assert len(history(run.info.run_id, "loss")) == 4


@one_store
@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("min", [2.0, 1.0, 3.0], "epoch_0002"),
        ("max", [2.0, 1.0, 3.0], "epoch_0003"),
        ("max", [3.0, 3.0], "epoch_0001"),
    ],
)
def test_the_best_tag_follows_the_mode(mode: str, values: list[float], best: str) -> None:
    with mlflow.start_run() as run:
        fit(
            small_model(),
            Metrics("score", values),
            MlflowCheckpoint("score", mode=mode),
            epochs=len(values),
            **SHORT,
        )
    assert tags(run.info.run_id) == {"latest": f"epoch_{len(values):04d}", "best": best}
    assert mlflow_ckpt.get_checkpoint(run.info.run_id, "best").name == best


@one_store
def test_a_metric_that_is_nan_is_warned_of_once_and_never_the_best() -> None:
    with mlflow.start_run() as run, pytest.warns(UserWarning, match="score is NaN") as caught:
        fit(
            small_model(),
            Metrics("score", [math.nan, 5.0, math.nan]),
            MlflowCheckpoint("score", mode="min"),
            epochs=3,
            **SHORT,
        )
    (message,) = [str(w.message) for w in caught if w.category is UserWarning]
    assert message == "score is NaN: the model diverged. It is never the best."
    assert tags(run.info.run_id) == {"latest": "epoch_0003", "best": "epoch_0002"}
    assert mlflow_ckpt.get_checkpoint(run.info.run_id, "best").name == "epoch_0002"


@both_stores
def test_a_metric_of_infinite_value_is_kept() -> None:
    with mlflow.start_run() as run:
        fit(
            small_model(),
            Metrics("score", [math.inf, -math.inf]),
            MlflowCheckpoint("score", mode="max"),
            **SHORT,
        )
    scores = [c.manifest.metrics["score"] for c in mlflow_ckpt.list_checkpoints(run.info.run_id)]
    assert scores == [math.inf, -math.inf]
    assert mlflow_ckpt.get_checkpoint(run.info.run_id, "best").name == "epoch_0001"


@one_store
def test_the_initial_threshold_must_be_beaten() -> None:
    with mlflow.start_run() as run:
        fit(
            small_model(),
            Metrics("val_loss", [0.6, 0.5, 0.4]),
            MlflowCheckpoint(save_best_only=True, initial_value_threshold=0.5),
            epochs=3,
            **SHORT,
        )
    assert names(run.info.run_id) == ["epoch_0003"]


@one_store
def test_a_metric_object_tells_its_own_direction() -> None:
    model = small_model(metrics=[keras.metrics.R2Score(name="fit")])
    with mlflow.start_run() as run:
        fit(model, MlflowCheckpoint("val_fit"), epochs=1, batch_size=len(X))
    monitor = mlflow_ckpt.get_checkpoint(run.info.run_id).manifest.monitor
    assert monitor is not None
    assert (monitor.name, monitor.mode) == ("val_fit", "max")


@one_store
def test_a_metric_of_unknown_direction_marks_nothing_as_best() -> None:
    with (
        mlflow.start_run() as run,
        pytest.warns(UserWarning, match="Whether a high or a low 'score' is better") as caught,
    ):
        fit(small_model(), Metrics("score", [1.0, 2.0]), MlflowCheckpoint("score"), **SHORT)
    assert len([w for w in caught if w.category is UserWarning]) == 1
    assert tags(run.info.run_id) == {"latest": "epoch_0002"}


@one_store
def test_save_best_only_needs_a_direction() -> None:
    with (
        mlflow.start_run(),
        pytest.raises(InvalidArgumentError, match="Pass mode='min' or mode='max'"),
    ):
        fit(
            small_model(),
            Metrics("score", [1.0, 2.0]),
            MlflowCheckpoint("score", save_best_only=True),
            **SHORT,
        )


@one_store
def test_a_missing_monitor_is_warned_of_once() -> None:
    with mlflow.start_run() as run, pytest.warns(UserWarning, match="'val_loss' was not") as caught:
        fit(small_model(), MlflowCheckpoint(), **SHORT)
    (message,) = [str(w.message) for w in caught if w.category is UserWarning]
    assert message == (
        "The monitored metric 'val_loss' was not reported (reported: loss, mae), so every "
        "checkpoint is saved and none is marked as best. Pass monitor=… or validation data."
    )
    assert names(run.info.run_id) == ["epoch_0001", "epoch_0002"]
    assert tags(run.info.run_id) == {"latest": "epoch_0002"}


# Four batches an epoch, so that a save after three of them is inside it.
FOUR_BATCHES: dict[str, Any] = {"batch_size": len(X) // 4, "validation_data": None}


@pytest.mark.parametrize(
    ("store", "save_freq", "per_execution", "steps"),
    [
        ("sqlite", 1, 1, [1, 2, 3, 4, 5, 6, 7, 8]),
        ("sqlite", 3, 1, [3, 6]),
        ("http", 3, 1, [3, 6]),
        ("sqlite", 5, 1, [5]),
        ("sqlite", 2, 2, [2, 4, 6, 8]),
        ("sqlite", 3, 2, [4, 8]),
        ("sqlite", 100, 1, []),
    ],
    indirect=["store"],
)
def test_a_number_of_batches_between_saves(
    store: Store, save_freq: int, per_execution: int, steps: list[int]
) -> None:
    model = small_model(steps_per_execution=per_execution, run_eagerly=per_execution == 1)
    with mlflow.start_run() as run:
        fit(model, MlflowCheckpoint("loss", save_freq=save_freq), **FOUR_BATCHES)
    checkpoints = mlflow_ckpt.list_checkpoints(run.info.run_id)
    assert [c.manifest.step for c in checkpoints] == steps
    assert [c.name for c in checkpoints] == [f"step_{step:08d}" for step in steps]
    assert [c.manifest.epoch for c in checkpoints] == [step // 4 for step in steps]
    assert len(history(run.info.run_id, "loss")) == 2


@one_store
def test_a_save_inside_an_epoch_holds_that_moment() -> None:
    seen: dict[int, np.ndarray[Any, Any]] = {}

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            weights = self.model.get_layer("head").kernel
            seen[int(self.model.optimizer.iterations.numpy())] = weights.numpy().copy()

    with mlflow.start_run() as run:
        fit(small_model(), Watch(), MlflowCheckpoint("loss", save_freq=3), **FOUR_BATCHES)
    for step in (3, 6):
        loaded = mlflow_ckpt.load_model(run.info.run_id, f"step:{step}")
        assert np.array_equal(loaded.get_layer("head").kernel.numpy(), seen[step])


@both_stores
def test_a_given_run_is_used() -> None:
    client = MlflowClient()
    experiment = mlflow.get_experiment(mlflow.tracking.fluent._get_experiment_id())
    run_id = client.create_run(experiment.experiment_id).info.run_id
    fit(small_model(), MlflowCheckpoint("loss", run_id=run_id), epochs=1, **SHORT)
    assert names(run_id) == ["epoch_0001"]
    assert mlflow.active_run() is None
    # Whoever created the run ends it.
    assert client.get_run(run_id).info.status == "RUNNING"


def test_without_a_run_one_is_started_and_ended(once: Trained) -> None:
    assert once.active is None
    (new,) = once.new
    assert MlflowClient().get_run(new).info.status == "FINISHED"
    assert names(new) == ["epoch_0001", "epoch_0002"]


@one_store
def test_the_active_run_goes_on_after_training() -> None:
    with mlflow.start_run() as run:
        fit(small_model(), MlflowCheckpoint("loss"), epochs=1, **SHORT)
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == run.info.run_id


@both_stores
def test_an_unknown_run_is_told_before_training() -> None:
    model = small_model()
    with pytest.raises(RunNotFoundError, match="There is no run 'feedbeef'"):
        fit(model, MlflowCheckpoint(run_id="feedbeef"))
    assert int(model.optimizer.iterations.numpy()) == 0


@both_stores
def test_metrics_can_be_left_to_others() -> None:
    run_id = trained(epochs=1, log_metrics=False)
    assert MlflowClient().get_run(run_id).data.metrics == {}
    assert "val_loss" in mlflow_ckpt.get_checkpoint(run_id).manifest.metrics


# A training that is refused does not wait for what its run has still to send.
@pytest.mark.filterwarnings("ignore:NOT EVERYTHING OF RUN")
def test_training_the_same_run_again_is_refused_before_any_training(once: Trained) -> None:
    run_id = once.run_id
    digests = [c.manifest.weights_digest for c in mlflow_ckpt.list_checkpoints(run_id)]
    model = small_model()
    with pytest.raises(CheckpointExistsError) as caught:
        fit(model, MlflowCheckpoint(run_id=run_id))
    assert str(caught.value) == (
        f"The run {run_id} has checkpoints up to epoch 2, but this training starts at epoch 0: it "
        "would overwrite some of them. Pass initial_epoch=2 to fit to continue, or train in "
        "another run."
    )
    assert (caught.value.run_id, caught.value.name) == (run_id, "epoch_0002")
    assert int(model.optimizer.iterations.numpy()) == 0
    assert [c.manifest.weights_digest for c in mlflow_ckpt.list_checkpoints(run_id)] == digests


@both_stores
def test_training_goes_on_in_the_same_run() -> None:
    run_id = trained(epochs=1)
    model = mlflow_ckpt.load_model(run_id)
    fit(model, MlflowCheckpoint(run_id=run_id), initial_epoch=1, epochs=3)
    assert names(run_id) == ["epoch_0001", "epoch_0002", "epoch_0003"]
    assert [step for step, _ in history(run_id, "loss")] == [1, 2, 3]
    steps = [c.manifest.step for c in mlflow_ckpt.list_checkpoints(run_id)]
    assert steps == [BATCHES * i for i in (1, 2, 3)]


@one_store
def test_the_best_of_an_earlier_training_is_remembered() -> None:
    with mlflow.start_run() as run:
        fit(small_model(), Metrics("val_loss", [0.2, 0.3]), MlflowCheckpoint(), **SHORT)
    run_id = run.info.run_id
    fit(
        mlflow_ckpt.load_model(run_id),
        Metrics("val_loss", [0.0, 0.0, 0.25, 0.1]),
        MlflowCheckpoint(run_id=run_id),
        initial_epoch=2,
        epochs=3,
        **SHORT,
    )
    assert tags(run_id) == {"latest": "epoch_0003", "best": "epoch_0001"}


@one_store
def test_an_optimizer_that_starts_anew_does_not_confuse_latest() -> None:
    run_id = trained(epochs=1)
    model = mlflow_ckpt.load_model(run_id, form="split")
    model.compile("sgd", "mse", run_eagerly=True)
    fit(model, MlflowCheckpoint("loss", run_id=run_id), initial_epoch=1, epochs=2, **SHORT)
    assert names(run_id) == ["epoch_0001", "epoch_0002"]
    steps = [c.manifest.step for c in mlflow_ckpt.list_checkpoints(run_id)]
    assert steps == [BATCHES, 1], "the later checkpoint has the lower step"
    assert mlflow_ckpt.get_checkpoint(run_id, "latest").name == "epoch_0002"


@both_stores
def test_weights_that_went_nan_are_said_loudly() -> None:
    class Poison(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            kernel = self.model.get_layer("head").kernel
            kernel.assign(np.full(kernel.shape, np.nan, "float32"))

    with mlflow.start_run() as run, pytest.warns(UserWarning) as caught:
        fit(small_model(), Poison(), MlflowCheckpoint(), epochs=1, batch_size=len(X))
    messages = [str(w.message) for w in caught if w.category is UserWarning]
    assert messages[0] == "val_loss is NaN: the model diverged. It is never the best."
    (message,) = messages[1:]
    assert message.startswith(
        "THE MODEL DIVERGED: checkpoint epoch_0001 holds NaN or infinite values in "
    )
    assert "head/kernel (3 NaN, 0 Inf of 3)" in message
    checkpoint = mlflow_ckpt.get_checkpoint(run.info.run_id)
    assert math.isnan(checkpoint.manifest.metrics["val_loss"])
    assert mlflow_ckpt.verify(run.info.run_id).ok
    loaded = mlflow_ckpt.load_model(run.info.run_id)
    assert np.isnan(loaded.get_layer("head").kernel.numpy()).all()


@one_store
def test_verbose_prints_one_line_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    run_id = trained(verbose=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "checkpoint" in line]
    assert len(lines) == 2
    assert re.fullmatch(
        rf"Saved checkpoint epoch_0002 of run {run_id}: 0\.\d MB, weights sha256:[0-9a-f]{{12}}…, "
        r"val_loss=\d+\.\d{4} is the best so far",
        lines[1],
    )


@one_store
def test_silent_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    trained(epochs=1)
    assert "checkpoint" not in capsys.readouterr().out


class NoConfig(keras.Model):
    """A subclassed model whose constructor arguments Keras does not know."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(units)
        self.units = object()
        self._auto_config = None

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError("NoConfig has no configuration")


def refused(model: keras.Model, **arguments: Any) -> str:
    """Train a model that cannot be saved; return the error, raised before any training."""
    with mlflow.start_run() as run, pytest.raises(UnsupportedModelError) as caught:
        fit(model, MlflowCheckpoint("loss", **arguments), epochs=1, **SHORT)
    assert int(model.optimizer.iterations.numpy()) == 0, "it was trained"
    assert names(run.info.run_id) == []
    return str(caught.value)


@one_store
def test_a_model_that_cannot_describe_itself_is_refused_before_training() -> None:
    model = NoConfig(1)
    model.compile("adam", "mse", run_eagerly=True)
    message = refused(model)
    assert "cannot be described" in message
    assert "get_config()" in message


@one_store
def test_a_loss_that_cannot_be_described_is_refused_before_training() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", partial(keras.losses.huber, delta=0.5), run_eagerly=True)
    message = refused(model)
    assert "functools.partial(<function huber" in message
    assert "get_config()" not in message


@one_store
def test_hdf5_of_a_subclassed_model_is_refused_before_training() -> None:
    model = compiled(Regressor(2))
    assert refused(model, full_format="h5") == (
        "Keras cannot rebuild the subclassed model 'Regressor' from HDF5, which is for sequential "
        "and functional models. Save with full_format='keras'."
    )


@one_store
@pytest.mark.parametrize(
    "arguments", [{"forms": ("full", "split")}, {"forms": "split"}, {"full_format": "h5"}]
)
def test_a_vocabulary_that_a_form_would_lose_is_refused_before_training(
    arguments: dict[str, Any],
) -> None:
    model = string_lookup()
    with mlflow.start_run(), pytest.raises(UnsupportedModelError, match="adapted vocabulary"):
        model.fit(*words(), verbose=0, callbacks=[MlflowCheckpoint("loss", **arguments)])
    assert int(model.optimizer.iterations.numpy()) == 0


@one_store
def test_hdf5_of_bfloat16_weights_is_refused_before_training() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, dtype="bfloat16")])
    model.compile("sgd", "mse", run_eagerly=True)
    assert "bfloat16" in refused(model, full_format="h5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            (
                {"save_freq": value},
                "Unrecognized save_freq. Expected 'epoch' or a number of batches, 1 or more. "
                f"Received: save_freq={value!r}",
            )
            for value in (0, -1, True, "batch", 1.5, None)
        ),
        *(
            (
                {"run_id": value},
                "Unrecognized run_id. Expected a run id, such as mlflow.start_run().info.run_id, "
                f"or None. Received: run_id={value!r}",
            )
            for value in ("", " ", 7, b"0")
        ),
        *(
            (
                {name: value},
                f"Unrecognized {name}. Expected True or False. Received: {name}={value!r}",
            )
            for name in ("save_best_only", "log_metrics", "weight_metrics", "test_load")
            for value in ("no", None, [])
        ),
        *(
            (
                {"monitor": value},
                "Unrecognized monitor. Expected the name of a metric, such as 'val_loss'. "
                f"Received: monitor={value!r}",
            )
            for value in ("", None, ["loss"])
        ),
        *(
            (
                {"initial_value_threshold": value},
                "Unrecognized initial_value_threshold. Expected a number or None. "
                f"Received: initial_value_threshold={value!r}",
            )
            for value in (True, "0.5")
        ),
        ({"verbose": "auto"}, "Unrecognized verbose. Expected 0 or 1. Received: verbose='auto'"),
        (
            {"report": "always"},
            "Unrecognized report. Expected True, False or 'auto'. Received: report='always'",
        ),
        (
            {"drain_timeout": "1"},
            "Unrecognized drain_timeout. Expected a number of seconds, 0 or more. "
            "Received: drain_timeout='1'",
        ),
        (
            {"data_state_limit": 1.5},
            "Unrecognized data_state_limit. Expected a number of bytes, 0 or more. "
            "Received: data_state_limit=1.5",
        ),
        (
            {"on_error": ["warn"]},
            "Unrecognized on_error. Expected 'warn' or 'raise'. Received: on_error=['warn']",
        ),
        ({"max_to_keep": True}, "Expected LatestN's n to be an int >= 1. Received: n=True"),
        *(
            (
                {"forms": value},
                "Unrecognized forms. Expected ('full',), ('split',) or ('full', 'split'). "
                f"Received: forms={value!r}",
            )
            for value in (None, 5, [["full"]])
        ),
        (
            {"full_format": ["h5"]},
            "Unrecognized full_format. Expected 'keras' or 'h5'. Received: ['h5']",
        ),
        (
            {"forms": ("half",)},
            "Unrecognized forms. Expected ('full',), ('split',) or ('full', 'split'). "
            "Received: forms=('half',)",
        ),
        (
            {"forms": ()},
            "Unrecognized forms. Expected ('full',), ('split',) or ('full', 'split'). "
            "Received: forms=()",
        ),
        (
            {"full_format": "zip"},
            "Unrecognized full_format. Expected 'keras' or 'h5'. Received: 'zip'",
        ),
    ],
)
def test_a_wrong_argument_is_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        MlflowCheckpoint(**arguments)
    assert str(caught.value) == message


def test_numbers_of_numpy_are_numbers() -> None:
    callback = MlflowCheckpoint(
        verbose=True,  # type: ignore[arg-type]
        save_best_only=np.bool_(True),  # type: ignore[arg-type]
        save_freq=np.int64(5),  # type: ignore[arg-type]
        initial_value_threshold=np.float32(0.5),  # type: ignore[arg-type]
    )
    assert (callback.verbose, callback.save_best_only, callback.save_freq) == (1, True, 5)
    assert callback.best == 0.5


@pytest.mark.parametrize("mode", ["up", 3, None])
def test_an_unknown_mode_is_warned_of_and_inferred(mode: Any) -> None:
    with pytest.warns(UserWarning, match=f"Received: mode={mode!r}. 'auto' is used") as caught:
        assert MlflowCheckpoint(mode=mode).mode == "auto"
    assert caught[0].filename == __file__


@one_store
def test_saving_as_hdf5_elsewhere_does_not_cost_the_optimizer(tmp_path: Any) -> None:
    """Keras's own `model.save("x.h5")` takes the optimizer out of the compile settings."""

    class SaveLegacy(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.save(tmp_path / "theirs.h5")

    with mlflow.start_run() as run:
        model = small_model(optimizer=keras.optimizers.Adam(0.01))
        fit(model, SaveLegacy(), MlflowCheckpoint("loss"), **SHORT)
    loaded = mlflow_ckpt.load_model(run.info.run_id)
    assert isinstance(loaded.optimizer, keras.optimizers.Adam)
    assert loaded.optimizer.learning_rate.numpy() == np.float32(0.01)
    before = loaded.evaluate(X, Y, verbose=0)[0]
    fit(loaded, epochs=3, **SHORT)
    assert loaded.evaluate(X, Y, verbose=0)[0] < before


@one_store
def test_save_best_only_goes_on_after_an_epoch_of_nan() -> None:
    with mlflow.start_run() as run, pytest.warns(UserWarning) as caught:
        fit(
            small_model(),
            Metrics("score", [1.0, math.nan, 2.0]),
            MlflowCheckpoint("score", mode="max", save_best_only=True),
            epochs=3,
            **SHORT,
        )
    (message,) = [str(w.message) for w in caught if w.category is UserWarning]
    assert message == "score is NaN: the model diverged. Such an epoch is not saved."
    assert names(run.info.run_id) == ["epoch_0001", "epoch_0003"]
