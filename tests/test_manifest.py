"""The manifest survives a round trip, and an altered one is noticed."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.manifest import FileEntry, Manifest, _seal, hash_files
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt.errors import IntegrityError, ManifestError, NewerSchemaError
from tests.support.strategies import manifests

MANIFEST = Manifest(
    run_id="0a1b2c3d4e5f60718293a4b5c6d7e8f9",
    name="epoch_0003",
    epoch=3,
    step=12345,
    created="2026-01-02T03:04:05+00:00",
    forms=("full",),
    full_format="keras",
    files=(
        FileEntry("MLmodel", 700, Digest.of_bytes(b"MLmodel")),
        FileEntry("data/model.keras", 123456, Digest.of_bytes(b"model")),
        *(FileEntry(path, 10, Digest.of_bytes(path.encode())) for path in layout.ALWAYS),
    ),
    weights_digest=Digest.of_bytes(b"weights"),
    architecture_digest=Digest.of_bytes(b"architecture"),
    metrics={"loss": 1e-05, "val_loss": 0.25, "accuracy": math.nan},
    monitor=Monitor("val_loss", "min"),
    versions={"keras": "3.15.1"},
    metadata={"class_names": ["Schäfer", "猫"], "scale": 255},
)


def comparable(manifest: Manifest) -> Any:
    """A manifest with NaN made equal to itself, and its files in order."""
    metrics = {name: repr(value) for name, value in manifest.metrics.items()}
    files = tuple(sorted(manifest.files, key=lambda entry: entry.path))
    return replace(manifest, metrics=metrics, files=files)


@given(manifests())
def test_a_manifest_survives_being_written_and_read(manifest: Manifest) -> None:
    text = manifest.to_json()
    assert comparable(Manifest.from_json(text)) == comparable(manifest)
    assert comparable(Manifest.from_json(text.encode())) == comparable(manifest)
    assert Manifest.from_json(text).to_json() == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1 + 0.2])
def test_a_metric_of_any_value_survives(value: float) -> None:
    text = replace(MANIFEST, metrics={"loss": value}).to_json()
    assert repr(Manifest.from_json(text).metrics["loss"]) == repr(value)
    # Strict JSON, which has no NaN: other languages can read it.
    json.loads(text, parse_constant=pytest.fail)


def test_unicode_is_readable_in_the_file() -> None:
    assert "Schäfer" in MANIFEST.to_json()


def test_the_seal_is_sha256_of_the_canonical_json_without_itself() -> None:
    content = json.loads(MANIFEST.to_json())
    sealed = content.pop("manifest_digest")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert sealed == str(Digest.of_bytes(canonical.encode()))


@given(st.data())
def test_any_altered_byte_is_noticed(data: st.DataObject) -> None:
    original = MANIFEST.to_json().encode()
    position = data.draw(st.integers(0, len(original) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != original[position]))
    altered = original[:position] + bytes([byte]) + original[position + 1 :]
    assert_noticed(altered)


def test_every_digit_altered_in_every_way_is_noticed() -> None:
    original = MANIFEST.to_json().encode()
    for digit in re.finditer(rb"\d", original):
        for byte in b'0123456789.eE+-"NI ':
            if byte != digit[0][0]:
                assert_noticed(original[: digit.start()] + bytes([byte]) + original[digit.end() :])


def assert_noticed(altered: bytes) -> None:
    try:
        manifest = Manifest.from_json(altered)
    except ManifestError:
        return
    # White space, or another spelling of the same number, alters nothing.
    assert manifest.to_json() == MANIFEST.to_json()


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_what_is_no_manifest_is_said_to_be_none(text: bytes | str) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json is not a manifest"):
        Manifest.from_json(text)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "3", "{", "[" * 100_000, "1e999"])
def test_other_json_is_no_manifest(text: str) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json is not a manifest"):
        Manifest.from_json(text)


@pytest.mark.parametrize("key", json.loads(MANIFEST.to_json()))
def test_a_manifest_that_lacks_a_key_is_refused(key: str) -> None:
    content = json.loads(MANIFEST.to_json())
    del content[key]
    with pytest.raises(ManifestError):
        Manifest.from_json(resealed(content) if key != "manifest_digest" else json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": math.inf},
        {"step": "many"},
        {"full_format": "zip"},
        {"monitor": {"name": "loss", "mode": "upwards"}},
        {"weights_digest": "md5:0"},
        {"files": []},
        {"files": {"MLmodel": {"size": 1}}},
        {"metrics": {"loss": "high"}},
        {"metrics": None},
    ],
)
def test_a_manifest_with_a_value_of_the_wrong_kind_is_refused(change: dict[str, Any]) -> None:
    content = json.loads(MANIFEST.to_json()) | change
    with pytest.raises(ManifestError, match=r"manifest\.json is not a manifest"):
        Manifest.from_json(resealed(content))


def test_an_added_key_breaks_the_seal() -> None:
    content = json.loads(MANIFEST.to_json()) | {"note": "harmless?"}
    with pytest.raises(ManifestError, match="altered after it was written"):
        Manifest.from_json(json.dumps(content))


def test_a_newer_schema_is_told_as_such() -> None:
    content = json.loads(MANIFEST.to_json()) | {"schema_version": 2, "unheard_of": True}
    with pytest.raises(NewerSchemaError) as caught:
        Manifest.from_json(json.dumps(content))
    assert str(caught.value) == (
        "The manifest has schema version 2; this mlflow_ckpt reads up to 1. "
        "Install a newer mlflow-ckpt."
    )
    assert (caught.value.found, caught.value.supported) == (2, 1)
    assert isinstance(caught.value, (ManifestError, IntegrityError))


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "..", "../other", "data/../../other", ".", "data\\..\\other", "//x"],
)
def test_a_manifest_never_leads_out_of_its_directory(path: str) -> None:
    content = json.loads(MANIFEST.to_json())
    content["files"] = {path: {"size": 1, "digest": str(Digest.of_bytes(b""))}}
    with pytest.raises(ManifestError, match="names a file outside its directory"):
        Manifest.from_json(resealed(content))


def test_files_are_measured_and_hashed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b").write_bytes(b"12345")
    (tmp_path / "a").write_bytes(b"")
    assert hash_files(tmp_path, ["data/b", "a"]) == (
        FileEntry("a", 0, Digest.of_bytes(b"")),
        FileEntry("data/b", 5, Digest.of_bytes(b"12345")),
    )


def test_size_is_that_of_all_files() -> None:
    assert MANIFEST.size == 124196
    assert MANIFEST.full_file == "data/model.keras"
    assert replace(MANIFEST, full_format=None).full_file is None


def resealed(content: dict[str, Any]) -> str:
    """A manifest that somebody altered on purpose, seal and all."""
    rest = {key: value for key, value in content.items() if key != "manifest_digest"}
    return json.dumps({**rest, "manifest_digest": str(_seal(rest))})


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 4},
        {"epoch": -1},
        {"epoch": True},
        {"epoch": 2.5},
        {"step": 2**63},
        {"forms": "full"},
        {"forms": []},
        {"forms": ["weird"]},
        {"forms": ["full", "split"]},
        {"full_format": None},
        {"full_format": "h5"},
        {"created": "yesterday"},
        {"created": "2026-01-01T00:00:00"},
        {"files": {}},
        {"name": "epoch_3"},
        {"monitor": {"name": ["x"], "mode": "min"}},
        {"metadata": {"x": "\ud800"}},
        {"schema_version": -1},
        {"schema_version": "1"},
    ],
    ids=str,
)
def test_a_manifest_that_contradicts_itself_is_refused_though_it_is_sealed(
    change: dict[str, object],
) -> None:
    content = {**MANIFEST.to_dict(), **change}
    try:
        seal = _seal(content)
    except UnicodeEncodeError:
        seal = Digest.of_bytes(b"")
    text = json.dumps({**content, "manifest_digest": str(seal)})
    with pytest.raises(ManifestError):
        Manifest.from_json(text)
