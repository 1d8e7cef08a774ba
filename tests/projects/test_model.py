"""The network."""

from __future__ import annotations

import numpy as np
import pytest

from projects.cifar10.errors import UserError
from projects.cifar10.model import build_model


def test_the_network_of_the_mission() -> None:
    model = build_model((32, 32, 3), 10, 0.001)
    assert model.count_params() == 258_762
    kinds = [type(layer).__name__ for layer in model.layers if layer.count_params()]
    assert kinds == ["Conv2D"] * 3 + ["Dense"] * 3
    assert [layer.bias.shape[0] for layer in model.layers if layer.count_params()] == [
        *(32, 64, 128),
        *(256, 128, 10),
    ]
    assert not model.loss.get_config()["from_logits"]


def test_raw_pixels_in_and_probabilities_out() -> None:
    model = build_model((32, 32, 3), 10, 0.001)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    probabilities = model.predict(pixels, verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(model.layers[0](pixels), pixels / 255, rtol=1e-6)


@pytest.mark.parametrize("shape", [(22, 22, 1), (28, 28, 1), (40, 64, 4)])
def test_other_images_and_classes(shape: tuple[int, int, int]) -> None:
    model = build_model(shape, 3, 0.001)
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, 3)


def test_too_small_images_are_one_sentence() -> None:
    with pytest.raises(UserError) as caught:
        build_model((64, 21, 3), 10, 0.001)
    assert caught.value.message == (
        "The images are too small for this network: expected at least 22x22 pixels. "
        "Received: 64x21; enlarge them first"
    )
