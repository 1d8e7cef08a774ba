"""Where images come from: digits, CIFAR-10 with and without a network, and `auto`."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from devtools.stores import free_port
from projects.cifar10.data import Archive, digest, load_dataset
from projects.cifar10.errors import UserError
from tests.projects import servers
from tests.projects.conftest import write_npz


@pytest.fixture
def keras_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; Keras reads the variable only when it is imported."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path))
    return tmp_path


def test_digits_fit_the_network_of_cifar10() -> None:
    data = load_dataset("digits")
    assert data.x_train.shape == (1437, 32, 32, 3)
    assert data.x_test.shape == (360, 32, 32, 3)
    assert data.x_train.dtype == np.uint8
    assert (data.x_train.min(), data.x_train.max()) == (0, 255)
    assert data.class_names == tuple("0123456789")
    assert (data.name, data.reference, data.why) == ("digits", "digits", "asked for")
    assert set(np.bincount(data.y_test)) <= {35, 36, 37}


def test_digits_are_the_same_every_time() -> None:
    first, second = load_dataset("digits"), load_dataset("digits")
    assert digest(first.x_train, first.y_train) == digest(second.x_train, second.y_train)
    assert digest(first.x_test, first.y_test) == digest(second.x_test, second.y_test)


def test_auto_takes_digits_when_the_network_hangs(keras_home: Path) -> None:
    with servers.serving(servers.hang) as host:
        data = load_dataset("auto", Archive(f"http://{host}/cifar.tar.gz", patience=0.5))
    assert str(data) == (
        f"digits (CIFAR-10 cannot be downloaded: {host} did not answer within 0.5 s): "
        "1,437 training and 360 test images of 32x32x3, 10 classes"
    )
    assert not list(keras_home.rglob("cifar*"))


def test_cifar10_without_a_network_is_an_error(keras_home: Path) -> None:
    host = f"127.0.0.1:{free_port()}"
    with pytest.raises(UserError) as caught:
        load_dataset("cifar10", Archive(f"http://{host}/cifar.tar.gz"))
    assert caught.value.message == (
        f"CIFAR-10 cannot be downloaded: {host} cannot be reached (Connection refused). "
        "Use dataset=digits, which needs no network, or the path of an .npz file."
    )


def cifar10_archive() -> bytes:
    """CIFAR-10's archive in its own format: black images, labels 0, 1, … 9, 0, …"""
    batch = {
        b"data": np.zeros((10_000, 3072), np.uint8),
        b"labels": [n % 10 for n in range(10_000)],
    }
    pickled = pickle.dumps(batch)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(pickled)
            archive.addfile(entry, io.BytesIO(pickled))
    return packed.getvalue()


def test_cifar10_is_downloaded_once_and_then_cached(
    keras_home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    body = cifar10_archive()
    sha256 = hashlib.sha256(body).hexdigest()
    get_file = keras.src.datasets.cifar10.get_file

    def get_file_of_the_test(**arguments: Any) -> str:
        # Keras knows the digest of the real archive only.
        return str(get_file(**{**arguments, "file_hash": sha256}))

    monkeypatch.setattr(keras.src.datasets.cifar10, "get_file", get_file_of_the_test)
    with servers.serving(servers.send(body)) as host:
        archive = Archive(f"http://{host}/cifar.tar.gz", sha256)
        first = load_dataset("auto", archive)
        assert f"Downloading from {host}" in capfd.readouterr().out
    second = load_dataset("cifar10", archive)

    assert (first.why, second.why) == ("downloaded", "in Keras's cache")
    assert capfd.readouterr().out == ""
    for data in (first, second):
        assert data.name == "cifar10"
        assert data.x_train.shape == (50_000, 32, 32, 3)
        assert data.x_train.dtype == np.uint8
        assert data.y_test.shape == (10_000,)
        assert data.y_test[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
        assert data.class_names[3] == "cat"


def test_an_npz_is_known_by_its_path(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "own.npz")
    data = load_dataset(str(path))
    assert (data.name, data.reference, data.source) == ("own.npz", str(path), str(path))
    assert str(data) == (
        "own.npz (asked for): 48 training and 16 test images of 28x28x1, 2 classes"
    )


def test_a_wrong_path_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "cifar100"
    with pytest.raises(UserError) as caught:
        load_dataset(str(path))
    assert caught.value.message == (
        f"There is no data set file {path}: expected dataset to be auto, cifar10, digits or the "
        f"path of an .npz file. Received: dataset={path}"
    )


def test_the_digest_sees_every_pixel_and_label() -> None:
    x, y = np.zeros((60, 32, 32, 3), np.uint8), np.zeros(60, np.int64)
    other_x, other_y = x.copy(), y.copy()
    other_x[-1, -1, -1, -1] = 1
    other_y[-1] = 1
    assert len({digest(x, y), digest(other_x, y), digest(x, other_y)}) == 3
    assert len(digest(x, y)) == 32
