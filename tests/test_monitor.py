"""Which way a metric improves, and which value is the best."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_ckpt._format.monitor import Monitor, infer_mode, is_better
from mlflow_ckpt._format.ranking import best_name

NAN = math.nan


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        *((name, "min") for name in ("loss", "val_loss", "main_loss", "val_main_loss", "mse")),
        *((name, "min") for name in ("mae", "val_mean_absolute_error", "root_mean_squared_error")),
        *((name, "min") for name in ("rmse", "binary_crossentropy", "kl_divergence", "poisson")),
        *((name, "min") for name in ("false_positives", "val_false_negatives", "auc_loss")),
        *((name, "min") for name in ("hinge", "perplexity", "LOSS", "log_cosh")),
        *((name, "max") for name in ("acc", "accuracy", "val_accuracy", "binary_accuracy")),
        *((name, "max") for name in ("sparse_categorical_accuracy", "auc", "val_auc", "auc_1")),
        *((name, "max") for name in ("precision", "recall_2", "f1_score", "mean_iou", "r2_score")),
        *((name, "max") for name in ("true_positives", "head_accuracy", "Accuracy")),
        *(
            (name, None)
            for name in ("", "lr", "learning_rate", "score", "my_metric", "temperature")
        ),
    ],
)
def test_the_name_of_a_metric_tells_which_way_it_improves(metric: str, mode: str | None) -> None:
    assert infer_mode(metric) == mode


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("min", [3.0, 1.0, 2.0], 1),
        ("max", [3.0, 1.0, 2.0], 0),
        pytest.param("min", [2.0, 1.0, 1.0], 1, id="the first of equals"),
        pytest.param("max", [2.0, 2.0, 1.0], 0, id="the first of equals, max"),
        pytest.param("min", [NAN, 5.0, NAN], 1, id="NaN never wins"),
        pytest.param("max", [5.0, NAN], 0, id="NaN never replaces"),
        pytest.param("min", [NAN, NAN], None, id="nothing but NaN"),
        pytest.param("min", [], None, id="nothing"),
        pytest.param("max", [-math.inf], 0, id="even the worst beats none"),
        pytest.param("min", [math.inf, 1.0], 1, id="infinity loses"),
    ],
)
def test_the_best_of_several_values(mode: str, values: list[float], best: int | None) -> None:
    assert position_of_best(values, mode) == best


@given(st.lists(st.floats()), st.sampled_from(["min", "max"]))
def test_nothing_beats_the_best(values: list[float], mode: str) -> None:
    position = position_of_best(values, mode)
    if position is None:
        assert all(math.isnan(value) for value in values)
    else:
        assert not any(is_better(value, values[position], mode) for value in values)
        assert values.index(values[position]) == position


def position_of_best(values: list[float], mode: str) -> int | None:
    """Return the position of the best checkpoint; None if no metric decides."""
    name = best_name([Saved(str(i), {"metric": v}, mode) for i, v in enumerate(values)])
    return None if name is None else int(name)


@dataclass(frozen=True)
class Saved:
    """What is recorded with a checkpoint."""

    name: str
    metrics: dict[str, float]
    mode: str

    @property
    def monitor(self) -> Monitor:
        return Monitor("metric", self.mode)
