"""Fuzzing: whatever bytes a parser gets, it returns a value, or raises one of its own errors."""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_ckpt._format.architecture import parse_architecture
from mlflow_ckpt._format.fingerprint import Fingerprint
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.untrusted import json_text, numpy_file, yaml_text, zip_archive
from mlflow_ckpt._format.values import unpack
from mlflow_ckpt._format.weights_file import UNREADABLE, require_safe
from mlflow_ckpt._model.files import training_state
from mlflow_ckpt.errors import IntegrityError

DATA = Path(__file__).parents[1] / "data" / "schema_v1" / "epoch_0002"
FEW = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip


TAGS = st.sampled_from(["$array", "$scalar", "$tuple", "$items", "$float"])


@st.composite
def altered(draw: st.DrawFn, content: Any) -> Any:
    """A value of JSON with one part replaced by another one, at any depth."""
    if isinstance(content, dict) and content and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(content)))
        return {**content, key: draw(altered(content[key]))}
    if isinstance(content, list) and content and draw(st.booleans()):
        index = draw(st.integers(0, len(content) - 1))
        return [*content[:index], draw(altered(content[index])), *content[index + 1 :]]
    return draw(JSON)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes some of which were replaced, removed or added."""
    made = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(made)))
        new = draw(st.binary(max_size=8))
        made[at : at + draw(st.integers(0, 8))] = new
    return bytes(made)


def _content(name: str) -> Any:
    return json.loads((DATA / name).read_text())


@FEW
@given(content=altered(_content("manifest.json")))
def test_manifests(content: Any) -> None:
    from mlflow_ckpt._format import manifest

    if isinstance(content, dict):  # sealed, so that what is inside is looked at
        content = {key: value for key, value in content.items() if key != "manifest_digest"}
        content["manifest_digest"] = str(manifest._seal(content))
    _parses(Manifest.from_json, json.dumps(content))


@FEW
@given(content=altered(_content("fingerprint.json")))
def test_fingerprints(content: Any) -> None:
    _parses(Fingerprint.from_json, json.dumps(content))


@FEW
@given(content=altered(_content("architecture.json")))
def test_architectures(content: Any) -> None:
    _parses(parse_architecture, json.dumps(content))


@FEW
@given(content=altered(_content("training_state.json")))
def test_training_states(tmp_path: Path, content: Any) -> None:
    (tmp_path / "training_state.json").write_text(json.dumps(content))
    (tmp_path / "training_state.npz").write_bytes((DATA / "training_state.npz").read_bytes())
    _parses(training_state.read, tmp_path)


@FEW
@given(
    packed=JSON | st.dictionaries(st.sampled_from(["$array", "$tuple", "$items", "$float"]), JSON)
)
def test_packed_values(packed: Any) -> None:
    with suppress(LookupError, TypeError, ValueError):
        unpack(packed, {"a": np.zeros(2)})


@FEW
@given(text=st.binary(max_size=200) | damaged((DATA / "manifest.json").read_bytes()))
def test_json(text: bytes) -> None:
    _parses(json_text.parse, text, ValueError)


@FEW
@given(text=st.text(max_size=200) | damaged((DATA / "MLmodel").read_bytes()))
def test_yaml(text: str | bytes) -> None:
    _parses(yaml_text.parse, text, ValueError)


@FEW
@given(content=damaged((DATA / "training_state.npz").read_bytes()))
def test_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    _parses(numpy_file.load_arrays, tmp_path / "a.npz", (ValueError, zipfile.BadZipFile))


def _npy() -> bytes:
    made = io.BytesIO()
    np.save(made, np.arange(6.0).reshape(2, 3))
    return made.getvalue()


@FEW
@given(content=st.binary(max_size=100) | damaged(_npy()))
def test_npy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    _parses(numpy_file.load_array, tmp_path / "a.npy", ValueError)


def _hdf5() -> bytes:
    made = io.BytesIO()
    with h5py.File(made, "w") as file:
        file["layers/dense/vars/0"] = np.zeros((4, 3), "float32")
        file["layers/dense"].attrs["name"] = "dense"
    return made.getvalue()


def _keras() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", _hdf5())
    return made.getvalue()


@FEW
@given(content=damaged(_keras()))
def test_archives(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(content)

    def read(path: Path) -> None:
        with zip_archive.open_zip(path) as archive:
            for name in archive.namelist():
                zip_archive.read(archive, name)

    _parses(read, path, (IntegrityError, zipfile.BadZipFile))
    _parses(require_safe, path, UNREADABLE)


@FEW
@given(content=damaged(_hdf5()))
def test_hdf5(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.weights.h5").write_bytes(content)
    _parses(require_safe, tmp_path / "a.weights.h5", UNREADABLE)


def _parses(parse: Any, value: Any, errors: Any = IntegrityError) -> None:
    try:
        parse(value)
    except errors as error:
        assert str(error) or isinstance(error, (KeyError, MemoryError))


def test_what_is_as_deep_as_allowed_is_read() -> None:
    deep = json_text.MOST_DEPTH
    assert json_text.parse("[" * deep + "]" * deep) is not None
    with pytest.raises(IntegrityError, match="nested"):
        json_text.parse("[" * (deep + 1) + "]" * (deep + 1))
