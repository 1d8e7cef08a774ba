"""Loads the images to train on: CIFAR-10, scikit-learn's digits, or the user's `.npz`.

Pixels are raw values in 0..255 for any source; the model scales them.
"""

import contextlib
import hashlib
import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from projects.cifar10.download import download
from projects.cifar10.errors import DownloadError, UserError
from projects.cifar10.npz import read_npz

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
# sklearn.datasets.load_digits is a copy of the test half of this data set.
DIGITS_SOURCE = "https://archive.ics.uci.edu/dataset/80"
CHOICES = "auto, cifar10, digits or the path of an .npz file"


@dataclass(frozen=True)
class Archive:
    """The archive of CIFAR-10, and how long to wait for it.

    Attributes:
        url: URL of the archive that `keras.datasets.cifar10` reads.
        sha256: Its SHA-256, in hex.
        patience: Seconds to wait for an answer.
    """

    # As in keras/src/datasets/cifar10.py, Keras 3.15.1.
    url: str = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    sha256: str = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    patience: float = 10.0


CIFAR10 = Archive()


@dataclass(frozen=True)
class Dataset:
    """Images and labels, split for training and for evaluation.

    Attributes:
        x_train: Images, (N, height, width, channels), uint8 or float32, 0..255.
        y_train: Class numbers, (N,), int64.
        x_test: As `x_train`.
        y_test: As `y_train`.
        class_names: Names of the classes, by number.
        name: Short display name.
        reference: The `--dataset` that loads it again: `cifar10`, `digits` or an absolute path.
        source: URL or path of the images.
        why: Why this data set was chosen.
    """

    x_train: NDArray[Any]
    y_train: NDArray[np.int64]
    x_test: NDArray[Any]
    y_test: NDArray[np.int64]
    class_names: tuple[str, ...]
    name: str
    reference: str
    source: str
    why: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    def __str__(self) -> str:
        """Return a one-line description."""
        height, width, channels = self.image_shape
        return (
            f"{self.name} ({self.why}): {len(self.x_train):,} training and {len(self.x_test):,} "
            f"test images of {height}x{width}x{channels}, {len(self.class_names)} classes"
        )


def digest(x: NDArray[Any], y: NDArray[Any]) -> str:
    """SHA-256 of all pixels and labels, cut to 32 hex digits, as MLflow allows at most 36."""
    sha256 = hashlib.sha256(np.ascontiguousarray(x).data)
    sha256.update(np.ascontiguousarray(y).data)
    return sha256.hexdigest()[:32]


def load_dataset(choice: str, archive: Archive = CIFAR10) -> Dataset:
    """Load the data set that `choice` names.

    Args:
        choice: `cifar10`, `digits`, the path of an `.npz` file, or `auto`: CIFAR-10 if it is in
            Keras's cache or can be downloaded, else digits.
        archive: The archive to download CIFAR-10 from.

    Returns:
        The data set; its `why` says why it was chosen.

    Raises:
        UserError: If the data set is not available, or the file contains no valid data set.
    """
    if choice == "auto":
        try:
            return load_cifar10(archive)
        except DownloadError as error:
            return load_digits_32(f"CIFAR-10 cannot be downloaded: {error.message}")
    if choice == "cifar10":
        try:
            return load_cifar10(archive)
        except DownloadError as error:
            raise UserError(
                f"CIFAR-10 cannot be downloaded: {error.message}. "
                "Use dataset=digits, which needs no network, or the path of an .npz file."
            ) from error
    if choice == "digits":
        return load_digits_32("asked for")
    return load_npz(choice)


def load_npz(choice: str) -> Dataset:
    """Load the user's images from the `.npz` file at `choice`.

    Raises:
        UserError: If the file does not exist or contains no valid data set.
    """
    path = Path(choice).expanduser().absolute()
    if not path.exists():
        raise UserError(
            f"There is no data set file {path}: expected dataset to be {CHOICES}. "
            f"Received: dataset={choice}"
        )
    arrays = read_npz(path)
    return Dataset(
        **vars(arrays),
        name=path.name,
        reference=str(path),
        source=str(path),
        why="asked for",
    )


def load_digits_32(why: str) -> Dataset:
    """Load scikit-learn's 8x8 digits as 32x32 RGB images, as the network for CIFAR-10 takes them.

    Args:
        why: Why this data set was chosen.

    Returns:
        1,437 training and 360 test images, always in the same split.
    """
    digits = load_digits()
    # The pixels are integers from 0 to 16.
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    grey = np.stack(
        [np.asarray(Image.fromarray(p).resize((32, 32), Image.Resampling.BILINEAR)) for p in pixels]
    )
    images = np.repeat(grey[..., np.newaxis], 3, axis=-1)
    labels = digits.target.astype(np.int64)
    # A fixed seed keeps runs with different seeds comparable.
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=0.2, random_state=0, stratify=labels
    )
    return Dataset(
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        class_names=tuple(str(name) for name in digits.target_names),
        name="digits",
        reference="digits",
        source=DIGITS_SOURCE,
        why=why,
    )


def load_cifar10(archive: Archive = CIFAR10) -> Dataset:
    """Load CIFAR-10 with Keras, after downloading it to Keras's cache if necessary.

    Args:
        archive: The archive to download it from.

    Raises:
        DownloadError: If it is not cached and cannot be downloaded.
        UserError: If the cache cannot be written or read.
    """
    cached = _cached_archive()
    why = "in Keras's cache"
    try:
        if not _is_archive(cached, archive):
            why = "downloaded"
            _fill_cache(archive)
        (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
    except OSError as error:
        raise UserError(
            f"CIFAR-10 cannot be kept in Keras's cache {cached.parent}: {error}. "
            "Free space there, or delete its cifar-10-* entries, and try again."
        ) from error
    return Dataset(
        x_train=x_train,
        y_train=y_train.reshape(-1).astype(np.int64),
        x_test=x_test,
        y_test=y_test.reshape(-1).astype(np.int64),
        class_names=CIFAR10_CLASSES,
        name="cifar10",
        reference="cifar10",
        source=archive.url,
        why=why,
    )


def _cached_archive() -> Path:
    """Return the path of CIFAR-10's archive in the cache of `keras.utils.get_file`."""
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    if not os.access(home, os.W_OK):
        home = Path(tempfile.gettempdir()) / ".keras"
    return home / "datasets" / "cifar-10-batches-py-target_archive"


def _is_archive(path: Path, archive: Archive) -> bool:
    """Whether Keras would use the file at `path` instead of downloading it."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == archive.sha256


def _fill_cache(archive: Archive) -> None:
    """Download the archive to Keras's cache, with timeouts, which Keras's download lacks."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cifar-10-python.tar.gz"
        download(archive.url, file, sha256=archive.sha256, patience=archive.patience)
        with contextlib.redirect_stdout(io.StringIO()):  # the progress bar of a local copy
            keras.utils.get_file(
                "cifar-10-batches-py-target",
                origin=file.as_uri(),
                extract=True,
                file_hash=archive.sha256,
            )
