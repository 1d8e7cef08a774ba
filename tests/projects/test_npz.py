"""Users' own images: what is taken, and the sentence for everything that is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from projects.cifar10.errors import UserError
from projects.cifar10.npz import read_npz
from tests.projects.conftest import CLASS_NAMES, write_npz

X = np.full((48, 28, 28, 3), 200, np.uint8)
X_TEST = X[:16]
NAN = X.astype(np.float32)
NAN[0, 0, 0, :2] = np.nan, np.inf
LABELS = np.arange(48) % 3


def test_grey_images_get_a_channel_axis_and_labels_lose_theirs(tmp_path: Path) -> None:
    column = (np.arange(48) % 2).reshape(-1, 1).astype(np.uint8)
    arrays = read_npz(write_npz(tmp_path / "d.npz", y_train=column))
    assert arrays.x_train.shape == (48, 28, 28, 1)
    assert arrays.y_train.shape == (48,)
    assert arrays.y_train.dtype == np.int64
    assert list(arrays.class_names) == CLASS_NAMES


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(channels: int, tmp_path: Path) -> None:
    x = np.zeros((48, 40, 30, channels), np.uint8)
    arrays = read_npz(write_npz(tmp_path / "d.npz", x_train=x, x_test=x[:16]))
    assert arrays.x_train.shape == (48, 40, 30, channels)


def test_without_class_names_classes_are_numbered(tmp_path: Path) -> None:
    arrays = read_npz(write_npz(tmp_path / "d.npz", class_names=None, y_train=LABELS))
    assert arrays.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (X, X),
        (X.astype(np.int64), X),
        (X / np.float64(255), X.astype(np.float32)),
        ((X / 255).astype(np.float16), X.astype(np.float32)),
        (X.astype(np.float32), X.astype(np.float32)),
    ],
    ids=["uint8", "int64", "float64 0..1", "float16 0..1", "float32 0..255"],
)
def test_every_kind_of_pixel_ends_in_0_to_255(
    stored: np.ndarray, read: np.ndarray, tmp_path: Path
) -> None:
    arrays = read_npz(write_npz(tmp_path / "d.npz", x_train=stored, x_test=stored[:16]))
    assert arrays.x_train.dtype == read.dtype
    np.testing.assert_allclose(arrays.x_train, read, rtol=1e-3)
    np.testing.assert_allclose(arrays.x_test, read[:16], rtol=1e-3)


def test_dark_test_images_keep_the_scale_of_the_file(tmp_path: Path) -> None:
    x = X.astype(np.float32)
    arrays = read_npz(write_npz(tmp_path / "d.npz", x_train=x, x_test=x[:16] / 200))
    assert arrays.x_test.max() == 1


IMAGES = "expected shape (N, H, W, C) with C = 1, 3 or 4 as the last axis, or (N, H, W)"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"y_train": None, "x_test": None},
            "{path} lacks y_train, x_test: expected the arrays x_train, y_train, x_test, y_test. "
            "Received: x_train, y_test, class_names",
        ),
        (
            {"y_test": np.array([{}], object)},
            "{path} cannot be read: Object arrays cannot be loaded when allow_pickle=False. "
            "Write it again with numpy.savez and arrays of numbers.",
        ),
        (
            {"x_train": np.zeros((48, 784), np.uint8)},
            f"x_train does not hold images: {IMAGES}. Received: shape (48, 784)",
        ),
        (
            {"x_test": np.zeros((16, 3, 28, 28), np.uint8)},
            f"x_test does not hold images: {IMAGES}. Received: shape (16, 3, 28, 28)",
        ),
        (
            {"x_train": np.zeros((0, 28, 28, 1), np.uint8)},
            "x_train is empty: expected at least one image. Received: shape (0, 28, 28, 1)",
        ),
        (
            {"x_train": np.full((48, 28, 28), "a")},
            "x_train does not hold pixels: expected uint8, or numbers in 0..255 or 0..1. "
            "Received: dtype <U1",
        ),
        (
            {"x_test": np.zeros((16, 32, 32, 3), np.uint8)},
            "x_train and x_test hold images of different shapes: expected one (H, W, C). "
            "Received: (28, 28, 1) and (32, 32, 3)",
        ),
        (
            {"y_train": np.eye(48, 2, dtype=int)},
            "y_train does not hold one label per image: expected shape (N,) or (N, 1). "
            "Received: shape (48, 2); turn one-hot labels into numbers with argmax(axis=1)",
        ),
        (
            {"y_test": np.zeros(16)},
            "y_test does not hold class numbers: expected integers from 0. Received: dtype float64",
        ),
        (
            {"y_train": np.arange(47) % 2},
            "x_train and y_train differ in length: expected one label per image. "
            "Received: 48 images and 47 labels",
        ),
        (
            {"y_test": np.arange(17) % 2},
            "x_test and y_test differ in length: expected one label per image. "
            "Received: 16 images and 17 labels",
        ),
        (
            {"y_train": np.arange(48) % 2 - 1},
            "y_train holds labels out of range: expected 0..1 for 2 classes. Received: -1..0",
        ),
        (
            {"y_test": np.arange(16) % 3},
            "y_test holds labels out of range: expected 0..1 for 2 classes. Received: 0..2",
        ),
        (
            {"class_names": None, "y_train": LABELS, "y_test": np.arange(16) % 4},
            "y_test holds labels out of range: expected 0..2 for 3 classes. Received: 0..3",
        ),
        (
            {"class_names": None, "y_train": np.zeros(48, int)},
            "y_train holds a single class: expected labels 0..n-1 of at least two classes. "
            "Received: 0..0",
        ),
        (
            {"class_names": None, "y_train": LABELS * 5000},
            "y_train does not number the classes from 0 to n-1: expected fewer classes than "
            "training images. Received: label 10000 with 48 images",
        ),
        (
            {"class_names": np.array([1, 2])},
            "class_names does not name the classes: expected at least two strings, shape (n,). "
            "Received: dtype int64, shape (2,)",
        ),
        (
            {"x_train": NAN, "x_test": X_TEST},
            "x_train holds 2 pixels that are NaN or infinite: expected numbers in 0..255 or 0..1.",
        ),
        (
            {"x_train": X.astype(np.int16) + 60, "x_test": X_TEST},
            "x_train holds pixels out of range: expected 0..255, or 0..1 for floating-point "
            "pixels. Received: 260..260",
        ),
        (
            {"x_train": X, "x_test": X_TEST / -255},
            "x_test holds pixels out of range: expected 0..255, or 0..1 for floating-point "
            "pixels. Received: -0.784314..-0.784314",
        ),
    ],
)
def test_a_bad_array_is_one_sentence(
    changes: dict[str, np.ndarray | None], sentence: str, tmp_path: Path
) -> None:
    path = write_npz(tmp_path / "d.npz", **changes)
    with pytest.raises(UserError) as caught:
        read_npz(path)
    assert caught.value.message == sentence.format(path=path)


@pytest.mark.parametrize("content", ["text", "npy", "folder", "empty"])
def test_what_is_no_npz_is_one_sentence(content: str, tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    if content == "folder":
        path.mkdir()
    elif content == "npy":
        with path.open("wb") as file:
            np.save(file, X)
    else:
        path.write_text("not images" if content == "text" else "")
    with pytest.raises(UserError) as caught:
        read_npz(path)
    assert caught.value.message == (
        f"{path} is not an .npz file: expected one written by numpy.savez with the arrays "
        "x_train, y_train, x_test, y_test."
    )


def test_a_damaged_npz_is_one_sentence(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "d.npz")
    content = bytearray(path.read_bytes())
    content[5000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_npz(path)
    assert caught.value.message == (
        f"{path} cannot be read: Bad CRC-32 for file 'x_train.npy'. "
        "Write it again with numpy.savez and arrays of numbers."
    )
