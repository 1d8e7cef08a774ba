"""Verification names exactly what is missing, extra or altered, down to the tensor."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import mlflow
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlflow_ckpt
from devtools.stores import Store, current
from mlflow_ckpt._format import layout
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.fingerprint import Fingerprint
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.verification import read_manifest, verify_directory
from mlflow_ckpt.errors import ManifestError, VerificationError

FILES = {
    "keras": [
        *("MLmodel", "architecture.json", "architecture.yaml", "conda.yaml"),
        *("data/keras_module.txt", "data/model.keras", "fingerprint.json", "model.weights.h5"),
        *("python_env.yaml", "requirements.txt", "training_state.json", "training_state.npz"),
    ],
    "h5": [
        *("MLmodel", "architecture.json", "architecture.yaml", "conda.yaml"),
        *("data/keras_module.txt", "data/model.h5", "data/save_format.txt", "fingerprint.json"),
        *("model.weights.h5", "python_env.yaml", "requirements.txt", "training_state.json"),
        "training_state.npz",
    ],
}
ALL_FILES = [(fmt, path) for fmt, paths in FILES.items() for path in paths]


@pytest.fixture(scope="module")
def originals(sqlite_store: Store) -> dict[str, Path]:
    """A real checkpoint in each full format."""
    directories = {}
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6)).astype("float32"), rng.normal(size=(32, 2)).astype("float32")
    for full_format in FILES:
        keras.utils.set_random_seed(3)
        inputs = keras.Input((6,))
        hidden = keras.layers.Dropout(0.1)(keras.layers.Dense(7, name="hidden")(inputs))
        model = keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))
        model.compile("adam", "mse")
        callback = mlflow_ckpt.MlflowCheckpoint(
            "loss", forms=("full", "split"), full_format=full_format
        )
        with current(sqlite_store), mlflow.start_run() as run:
            model.fit(x, y, epochs=1, verbose=0, callbacks=[callback])
        directories[full_format] = sqlite_store.checkpoint_directory(run.info.run_id, "epoch_0001")
    return directories


@pytest.fixture
def copy(originals: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Gives a copy of the checkpoint in a format, to be damaged."""

    def make(full_format: str) -> Path:
        return Path(shutil.copytree(originals[full_format], tmp_path / "checkpoint"))

    return make


@pytest.mark.parametrize("full_format", FILES)
def test_a_checkpoint_is_what_its_manifest_says(
    full_format: str, originals: dict[str, Path]
) -> None:
    directory = originals[full_format]
    manifest = read_manifest(directory)
    assert sorted(entry.path for entry in manifest.files) == FILES[full_format]
    result = verify_directory(directory, manifest)
    assert result.ok
    result.raise_if_damaged()
    assert str(result) == (
        f"epoch_0001: ok, {len(FILES[full_format])} files, {manifest.size} bytes"
    )


@pytest.mark.parametrize(("full_format", "path"), ALL_FILES)
def test_one_flipped_byte_is_found(
    full_format: str, path: str, copy: Callable[[str], Path]
) -> None:
    directory = copy(full_format)
    content = bytearray((directory / path).read_bytes())
    content[len(content) // 2] ^= 0x01
    (directory / path).write_bytes(content)
    result = verify_directory(directory, read_manifest(directory))
    assert [mismatch.expected.path for mismatch in result.mismatched] == [path]
    assert (result.missing, result.extra, result.error) == ((), (), None)
    (mismatch,) = result.mismatched
    assert mismatch.digest == Digest.of_bytes(bytes(content))
    assert f"{path} has {mismatch.digest} instead of {mismatch.expected.digest}" in str(result)
    with pytest.raises(VerificationError, match=path) as caught:
        result.raise_if_damaged()
    assert caught.value.result is result


@pytest.mark.parametrize(("full_format", "path"), ALL_FILES)
def test_a_truncated_file_is_found(
    full_format: str, path: str, copy: Callable[[str], Path]
) -> None:
    directory = copy(full_format)
    content = (directory / path).read_bytes()
    (directory / path).write_bytes(content[:-1])
    result = verify_directory(directory, read_manifest(directory))
    assert [mismatch.expected.path for mismatch in result.mismatched] == [path]
    assert f"{path} has {len(content) - 1} bytes instead of {len(content)}" in str(result)
    assert not result.ok


@pytest.mark.parametrize(("full_format", "path"), ALL_FILES)
def test_a_missing_file_is_found(full_format: str, path: str, copy: Callable[[str], Path]) -> None:
    directory = copy(full_format)
    (directory / path).unlink()
    result = verify_directory(directory, read_manifest(directory))
    assert result.missing == (path,)
    assert (result.extra, result.mismatched) == ((), ())
    assert str(result) == f"epoch_0001: missing {path}"


@pytest.mark.parametrize("path", ["notes.txt", "data/more.bin", "deep/er/file", ".hidden"])
def test_an_extra_file_is_found(path: str, copy: Callable[[str], Path]) -> None:
    directory = copy("keras")
    (directory / path).parent.mkdir(parents=True, exist_ok=True)
    (directory / path).write_text("from elsewhere")
    result = verify_directory(directory, read_manifest(directory))
    assert result.extra == (path,)
    assert (result.missing, result.mismatched) == ((), ())
    assert str(result) == f"epoch_0001: not in the manifest {path}"


def test_what_mlflow_itself_adds_is_no_damage(copy: Callable[[str], Path]) -> None:
    directory = copy("keras")
    (directory / "registered_model_meta").write_text("model_name: cnn\n")
    assert verify_directory(directory, read_manifest(directory)).ok


def test_several_problems_are_told_together(copy: Callable[[str], Path]) -> None:
    directory = copy("keras")
    (directory / "conda.yaml").unlink()
    (directory / "MLmodel").write_text("")
    (directory / "extra").write_text("")
    result = verify_directory(directory, read_manifest(directory))
    assert str(result).startswith(
        "epoch_0001: missing conda.yaml; not in the manifest extra; MLmodel has 0 bytes instead of "
    )


@pytest.mark.parametrize(
    ("full_format", "path"),
    [
        ("keras", layout.FULL_KERAS),
        ("keras", layout.WEIGHTS),
        ("h5", layout.FULL_H5),
        ("h5", layout.WEIGHTS),
    ],
)
def test_a_byte_flipped_inside_a_tensor_names_the_tensor(
    full_format: str, path: str, copy: Callable[[str], Path]
) -> None:
    directory = copy(full_format)
    fingerprint = Fingerprint.from_json((directory / layout.FINGERPRINT).read_text())
    kernels = {"layers/dense/vars/0": (6, 7), "layers/dense_1/vars/0": (7, 2)}
    for name, shape in kernels.items():
        assert fingerprint[name].shape == shape
        values = tensor_bytes(directory, name)
        content = bytearray((directory / path).read_bytes())
        assert content.count(values) == 1
        content[content.index(values) + 5] ^= 0x40
        (directory / path).write_bytes(content)
        result = verify_directory(directory, read_manifest(directory))
        assert [(m.expected.path, m.tensors) for m in result.mismatched] == [(path, (name,))]
        assert f"(tensors: {name})" in str(result)
        content[content.index(values[:5]) + 5] ^= 0x40
        (directory / path).write_bytes(content)
        assert verify_directory(directory, read_manifest(directory)).ok


def tensor_bytes(directory: Path, name: str) -> bytes:
    """The bytes of a tensor, read from the split form."""
    with h5py.File(io.BytesIO((directory / layout.WEIGHTS).read_bytes())) as file:
        values: bytes = file[name][()].tobytes()
    return values


def test_an_optimizer_variable_is_named_too(copy: Callable[[str], Path]) -> None:
    directory = copy("keras")
    archive = directory / layout.FULL_KERAS
    with zipfile.ZipFile(archive) as file:
        weights = file.read(layout.WEIGHTS_IN_ARCHIVE)
    with h5py.File(io.BytesIO(weights)) as file:
        momentum = file["optimizer/vars/2"][()].tobytes()
    content = archive.read_bytes()
    assert content.count(momentum) == 1
    archive.write_bytes(content.replace(momentum, bytes(len(momentum))))
    (mismatch,) = verify_directory(directory, read_manifest(directory)).mismatched
    assert mismatch.tensors == ("optimizer/vars/2",)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), path=st.sampled_from([layout.FULL_KERAS, layout.WEIGHTS]))
def test_damage_anywhere_in_a_weights_file_is_found_and_never_crashes(
    data: st.DataObject, path: str, originals: dict[str, Path], tmp_path: Path
) -> None:
    directory = tmp_path / "damaged"
    shutil.copytree(originals["keras"], directory, dirs_exist_ok=True)
    content = bytearray((directory / path).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    (directory / path).write_bytes(content)
    result = verify_directory(directory, read_manifest(directory))
    assert [mismatch.expected.path for mismatch in result.mismatched] == [path]


def test_a_damaged_fingerprint_does_not_hide_a_damaged_model(copy: Callable[[str], Path]) -> None:
    directory = copy("keras")
    (directory / layout.FINGERPRINT).write_text("{}")
    (directory / layout.FULL_KERAS).write_bytes(b"no archive")
    result = verify_directory(directory, read_manifest(directory))
    assert [m.expected.path for m in result.mismatched] == ["data/model.keras", "fingerprint.json"]


def test_a_directory_without_a_manifest_is_no_checkpoint(copy: Callable[[str], Path]) -> None:
    directory = copy("keras")
    (directory / layout.MANIFEST).unlink()
    with pytest.raises(ManifestError, match=r"There is no manifest\.json in .*not a complete"):
        read_manifest(directory)


def test_the_manifest_is_plain_json_that_names_every_file(originals: dict[str, Path]) -> None:
    content = json.loads((originals["keras"] / layout.MANIFEST).read_text())
    assert sorted(content["files"]) == FILES["keras"]
    for path, entry in content["files"].items():
        file = originals["keras"] / path
        assert entry == {"size": file.stat().st_size, "digest": str(Digest.of_file(file))}
    assert Manifest.from_json(json.dumps(content)).step == 1
