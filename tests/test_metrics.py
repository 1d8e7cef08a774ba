"""Metrics under any name: MLflow takes what is made of it, and none takes another's place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric

from mlflow_ckpt._tracking.metric_names import allowed_names

PARTS = ("", ".", "..", "a", "b.", ".c", "é", "@", "x y", "z" * 249)
odd = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("/".join)
names = st.lists(st.text(max_size=8) | odd, unique=True, max_size=6)


@given(names)
def test_mlflow_takes_every_name_and_none_meets_another(given_names: list[str]) -> None:
    allowed = allowed_names(given_names)
    assert list(allowed) == given_names
    assert len(set(allowed.values())) == len(given_names)
    for name in allowed.values():
        _validate_metric(name, 1.0, 0, 0)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("val_loss", "val_loss"),
        ("group/loss", "group/loss"),
        ("Ünï: 1-2", "Ünï: 1-2"),
        ("recall@10", "recall_10"),
        ("/abs", "_abs"),
        ("a//b", "_a__b"),
        ("..", "_"),
        ("", "_"),
        ("z" * 300, "z" * 250),
    ],
)
def test_a_name_is_changed_only_where_it_must_be(name: str, allowed: str) -> None:
    assert allowed_names([name]) == {name: allowed}


def test_two_names_that_differ_in_what_is_refused_stay_two() -> None:
    assert allowed_names(["q?", "q!", "q_"]) == {"q?": "q__2", "q!": "q__3", "q_": "q_"}
