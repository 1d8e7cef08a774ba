"""Names of checkpoints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_ckpt._format.layout import CheckpointName, artifact_path

names = st.builds(CheckpointName, st.sampled_from(["epoch", "step"]), st.integers(0, 10**12))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (CheckpointName("epoch", 3), "epoch_0003"),
        (CheckpointName("epoch", 12345), "epoch_12345"),
        (CheckpointName("step", 1500), "step_00001500"),
        (CheckpointName("step", 0), "step_00000000"),
    ],
)
def test_a_checkpoint_is_named_after_its_epoch_or_step(name: CheckpointName, text: str) -> None:
    assert str(name) == text
    assert CheckpointName.parse(text) == name
    assert artifact_path(text) == f"checkpoints/{text}"


@given(names)
def test_every_name_is_read_back(name: CheckpointName) -> None:
    assert CheckpointName.parse(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "epoch", "epoch_", "epoch_3", "epoch_00003", "epoch_0003 ", "Epoch_0003"),
        *("step_1500", "step_0001500", "epoch_0003.tmp", "epoch_0003/", "epoch_-003"),
        *("latest", "epoch_٠٠٠٣", "epoch_0003\n"),
    ],
)
def test_other_directories_are_not_checkpoints(text: str) -> None:
    assert CheckpointName.parse(text) is None


@given(st.text())
def test_parse_never_fails(text: str) -> None:
    name = CheckpointName.parse(text)
    assert name is None or str(name) == text
