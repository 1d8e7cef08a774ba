"""Reads and checks the user's images in an `.npz` file.

Required arrays: `x_train`, `y_train`, `x_test`, `y_test`. Optional: `class_names`.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from projects.cifar10.errors import UserError

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


@dataclass(frozen=True)
class Arrays:
    """The checked content of a file, with shapes and ranges as in `data.Dataset`."""

    x_train: NDArray[Any]
    y_train: NDArray[np.int64]
    x_test: NDArray[Any]
    y_test: NDArray[np.int64]
    class_names: tuple[str, ...]


def read_npz(path: Path) -> Arrays:
    """Read and check the data set in `path`.

    Images may be (N, H, W, C) or, if grey, (N, H, W); labels (N,) or (N, 1). Integer pixels must be
    in 0..255. Floating-point pixels may be in 0..255, or in 0..1 if no pixel of the file is above
    1; these are multiplied by 255.

    Args:
        path: An existing file.

    Raises:
        UserError: If the file or an array is not as described; names the first problem.
    """
    raw = _read(path)
    x_train, x_test = (_images(name, raw[name]) for name in ("x_train", "x_test"))
    if x_train.shape[1:] != x_test.shape[1:]:
        raise UserError(
            f"x_train and x_test hold images of different shapes: expected one (H, W, C). "
            f"Received: {x_train.shape[1:]} and {x_test.shape[1:]}"
        )
    y_train, y_test = (_labels(name, raw[name]) for name in ("y_train", "y_test"))
    _check_lengths("train", x_train, y_train)
    _check_lengths("test", x_test, y_test)
    class_names = _class_names(raw.get("class_names"), y_train)
    for name, labels in (("y_train", y_train), ("y_test", y_test)):
        _check_range(name, labels, len(class_names))
    x_train, x_test = _pixels(x_train, x_test)
    return Arrays(x_train, y_train, x_test, y_test, class_names)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is not an .npz file: expected one written by numpy.savez with the arrays "
            f"{', '.join(REQUIRED)}."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in REQUIRED if name not in file.files]
            if missing:
                raise UserError(
                    f"{path} lacks {', '.join(missing)}: expected the arrays "
                    f"{', '.join(REQUIRED)}. Received: {', '.join(file.files) or 'no array'}"
                )
            names = [*REQUIRED, *({"class_names"} & set(file.files))]
            return {name: file[name] for name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read: {str(error).rstrip('.')}. "
            "Write it again with numpy.savez and arrays of numbers."
        ) from error


def _images(name: str, x: NDArray[Any]) -> NDArray[Any]:
    """Check shape and dtype of images; add the channel axis to grey ones."""
    if x.ndim == 3:
        x = x[..., np.newaxis]
    if x.ndim != 4 or x.shape[-1] not in CHANNELS:
        raise UserError(
            f"{name} does not hold images: expected shape (N, H, W, C) with C = 1, 3 or 4 as the "
            f"last axis, or (N, H, W). Received: shape {x.shape}"
        )
    if x.size == 0:
        raise UserError(f"{name} is empty: expected at least one image. Received: shape {x.shape}")
    if x.dtype.kind not in "uif":
        raise UserError(
            f"{name} does not hold pixels: expected uint8, or numbers in 0..255 or 0..1. "
            f"Received: dtype {x.dtype}"
        )
    return x


def _labels(name: str, y: NDArray[Any]) -> NDArray[np.int64]:
    """Check shape and dtype of labels; return them as a one-dimensional array."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise UserError(
            f"{name} does not hold one label per image: expected shape (N,) or (N, 1). "
            f"Received: shape {y.shape}; turn one-hot labels into numbers with argmax(axis=1)"
        )
    if y.dtype.kind not in "ui":
        raise UserError(
            f"{name} does not hold class numbers: expected integers from 0. "
            f"Received: dtype {y.dtype}"
        )
    return y.astype(np.int64)


def _check_lengths(split: str, x: NDArray[Any], y: NDArray[Any]) -> None:
    if len(x) != len(y):
        raise UserError(
            f"x_{split} and y_{split} differ in length: expected one label per image. "
            f"Received: {len(x)} images and {len(y)} labels"
        )


def _class_names(names: NDArray[Any] | None, y_train: NDArray[Any]) -> tuple[str, ...]:
    """Return the file's class names, or else the numbers up to the largest training label."""
    if names is not None:
        if names.ndim != 1 or names.dtype.kind != "U" or len(names) < 2:
            raise UserError(
                "class_names does not name the classes: expected at least two strings, shape (n,). "
                f"Received: dtype {names.dtype}, shape {names.shape}"
            )
        return tuple(str(name) for name in names)
    largest = int(y_train.max())
    if largest < 1:
        raise UserError(
            "y_train holds a single class: expected labels 0..n-1 of at least two classes. "
            f"Received: {int(y_train.min())}..{largest}"
        )
    if largest >= len(y_train):
        raise UserError(
            "y_train does not number the classes from 0 to n-1: expected fewer classes than "
            f"training images. Received: label {largest} with {len(y_train)} images"
        )
    return tuple(str(number) for number in range(largest + 1))


def _check_range(name: str, y: NDArray[Any], classes: int) -> None:
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise UserError(
            f"{name} holds labels out of range: expected 0..{classes - 1} for {classes} classes. "
            f"Received: {low}..{high}"
        )


def _pixels(*splits: NDArray[Any]) -> list[NDArray[Any]]:
    """Scale pixels to 0..255: uint8 for integers, float32 for floating-point numbers."""
    for x, name in zip(splits, ("x_train", "x_test"), strict=True):
        _check_pixels(name, x)
    if all(x.dtype.kind in "ui" for x in splits):
        return [x.astype(np.uint8, copy=False) for x in splits]
    # One rule for the whole file, so that all arrays have the same scale.
    scale = np.float32(255 if max(x.max() for x in splits) <= 1 else 1)
    return [x.astype(np.float32) * scale for x in splits]


def _check_pixels(name: str, x: NDArray[Any]) -> None:
    bad = x.size - int(np.isfinite(x).sum()) if x.dtype.kind == "f" else 0
    if bad:
        raise UserError(
            f"{name} holds {bad} pixels that are NaN or infinite: expected numbers in 0..255 "
            "or 0..1."
        )
    if x.min() < 0 or x.max() > 255:
        raise UserError(
            f"{name} holds pixels out of range: expected 0..255, or 0..1 for floating-point "
            f"pixels. Received: {x.min():g}..{x.max():g}"
        )
