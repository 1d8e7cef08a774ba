"""Selectors and references, and the errors for those that do not parse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.reference import Reference, Selector
from mlflow_ckpt.errors import InvalidArgumentError, SelectorError

EXPECTED = "Expected 'latest', 'best', an epoch such as '3' or 'epoch:3', or a step: 'step:1500'"
RUN = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
LATEST, BEST = Selector("latest"), Selector("best")
EPOCH_3, STEP_1500 = Selector("epoch", 3), Selector("step", 1500)


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("latest", LATEST),
        ("best", BEST),
        (" best\n", BEST),
        (3, EPOCH_3),
        (0, Selector("epoch", 0)),
        ("3", EPOCH_3),
        ("0003", EPOCH_3),
        ("epoch:3", EPOCH_3),
        ("epoch-3", EPOCH_3),
        ("epoch_0003", EPOCH_3),
        ("step:1500", STEP_1500),
        ("step-1500", STEP_1500),
        ("step_00001500", STEP_1500),
    ],
)
def test_a_selector_is_understood(text: str | int, selector: Selector) -> None:
    assert Selector.parse(text) == selector


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "newest", "LATEST", "epoch", "epoch:", "epoch:x", "epoch:-1", "-1", "1.5"),
        *("step", "step:1e3", "batch:3", "epoch::3", "epoch 3", "latest/", "٣", "3 4", -1),
    ],
)
def test_any_other_selector_is_refused_with_what_was_expected(text: str | int) -> None:
    with pytest.raises(SelectorError) as caught:
        Selector.parse(text)
    expected = f"The checkpoint selector {str(text)!r} was not understood. {EXPECTED}."
    assert str(caught.value) == expected
    assert caught.value.received == str(text)
    assert isinstance(caught.value, (InvalidArgumentError, ValueError))


@pytest.mark.parametrize("value", [None, 1.0, True, ["latest"], b"latest", np.float32(3)])
def test_a_selector_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(SelectorError) as caught:
        Selector.parse(value)
    assert str(caught.value) == (
        f"The checkpoint selector is not text or a number. {EXPECTED}. Received: {value!r}"
    )


@pytest.mark.parametrize(
    "text", ["9" * 5000, "epoch:" + "9" * 5000, 10**5000], ids=["text", "epoch", "number"]
)
def test_a_number_too_long_for_python_is_refused(text: str | int) -> None:
    with pytest.raises(SelectorError, match="was not understood"):
        Selector.parse(text)


@given(st.text() | st.integers())
def test_parse_raises_nothing_but_selector_error(text: str | int) -> None:
    try:
        selector = Selector.parse(text)
    except SelectorError:
        return
    assert Selector.parse(str(selector)) == selector


@given(st.sampled_from(["epoch", "step"]), st.integers(0, 10**15))
def test_a_checkpoint_name_is_a_selector(unit: str, number: int) -> None:
    name = CheckpointName(unit, number)
    selector = Selector.parse(str(name))
    assert selector.name == name
    assert str(selector) == f"{unit}:{number}"


@pytest.mark.parametrize(
    ("run", "checkpoint", "reference"),
    [
        (RUN, "latest", Reference(RUN, LATEST)),
        (f" {RUN}\n", 3, Reference(RUN, EPOCH_3)),
        (f"ckpt:/{RUN}", "latest", Reference(RUN, LATEST)),
        (f"ckpt:/{RUN}/", "latest", Reference(RUN, LATEST)),
        (f"ckpt:/{RUN}", "best", Reference(RUN, BEST)),
        (f"ckpt:/{RUN}/best", "latest", Reference(RUN, BEST)),
        (f"ckpt:/{RUN}/best", "best", Reference(RUN, BEST)),
        (f"ckpt:/{RUN}/epoch:3", "latest", Reference(RUN, EPOCH_3)),
        (f"ckpt:/{RUN}/epoch-3", 3, Reference(RUN, EPOCH_3)),
        (f"ckpt:///{RUN}/step_00001500", "latest", Reference(RUN, STEP_1500)),
    ],
)
def test_a_reference_is_understood(run: str, checkpoint: str | int, reference: Reference) -> None:
    assert Reference.parse(run, checkpoint) == reference


@pytest.mark.parametrize(
    ("run", "checkpoint", "message"),
    [
        ("", "latest", "Expected a run id or a URI such as ckpt:/<run_id>/latest. Received: ''"),
        (
            None,
            "latest",
            "Expected a run id or a URI such as ckpt:/<run_id>/latest. Received: None",
        ),
        (
            f"runs:/{RUN}/model",
            "latest",
            f"The URI 'runs:/{RUN}/model' names no checkpoint. "
            "Expected runs:/<run_id>/checkpoints/<name>, such as "
            "runs:/0a1b2c…/checkpoints/epoch_0003.",
        ),
        (
            f"{RUN}/best",
            "latest",
            f"'{RUN}/best' is neither a run id nor a checkpoint URI. Expected a run id such as "
            "0a1b2c…, ckpt:/<run_id>/<selector>, runs:/<run_id>/checkpoints/<name>, or "
            "models:/<name>@<alias>.",
        ),
        (
            "ckpt:/",
            "latest",
            "The checkpoint URI 'ckpt:/' was not understood. "
            "Expected ckpt:/<run_id>/<selector>, such as ckpt:/0a1b2c…/best.",
        ),
        (
            f"ckpt:/{RUN}/best/data",
            "latest",
            f"The checkpoint URI 'ckpt:/{RUN}/best/data' was not understood. "
            "Expected ckpt:/<run_id>/<selector>, such as ckpt:/0a1b2c…/best.",
        ),
        (
            f"ckpt:/{RUN}/newest",
            "latest",
            f"The checkpoint selector 'newest' was not understood. {EXPECTED}.",
        ),
        (
            f"ckpt:/{RUN}/best",
            3,
            f"Two checkpoints were named: best in 'ckpt:/{RUN}/best', and epoch:3 "
            "separately. Name only one.",
        ),
    ],
)
def test_any_other_reference_is_refused(run: Any, checkpoint: Any, message: str) -> None:
    with pytest.raises(SelectorError) as caught:
        Reference.parse(run, checkpoint)
    assert str(caught.value) == message


@given(st.text() | st.text().map("ckpt:/{}".format), st.text() | st.integers() | st.just("latest"))
def test_a_reference_that_parses_survives_being_printed(run: str, checkpoint: str | int) -> None:
    try:
        reference = Reference.parse(run, checkpoint)
    except SelectorError:
        return
    assert Reference.parse(str(reference)) == reference
