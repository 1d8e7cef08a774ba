"""Signing checkpoints, and refusing what is not signed by whom it should be."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt import MlflowCheckpoint, SigningKey
from mlflow_ckpt._format import layout
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.reference import Query
from mlflow_ckpt._format.signing import library
from mlflow_ckpt._format.signing.trust import Trust
from mlflow_ckpt._tracking.find import find
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import (
    ArgumentTypeError,
    InvalidArgumentError,
    SignatureError,
    SigningError,
    VerificationError,
)
from tests.support import cli
from tests.support.checkpoints import flip_byte, save_run
from tests.support.signing_keys import (
    Certified,
    KeyPair,
    write_certified,
    write_pair,
    write_rsa_pair,
)
from tests.support.training import fit, names, new_run, small_model, trained


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for keys."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def mine(keys: Path) -> KeyPair:
    """The key that signs."""
    return write_pair(keys, "mine")


@pytest.fixture(scope="module")
def other(keys: Path) -> KeyPair:
    """A key of somebody else."""
    return write_pair(keys, "other")


@pytest.fixture(scope="module")
def certified(keys: Path) -> Certified:
    """A key with a certificate."""
    return write_certified(keys, "certified")


@pytest.fixture
def signed(local_store: Store, mine: KeyPair) -> str:
    """A run with two signed checkpoints, of which a test may alter the files."""
    return trained(sign=mine.private, forms=("full", "split"), save_freq="epoch")


def directory_of(run_id: str, name: str = "epoch_0001") -> Path:
    """Return a checkpoint's directory in a local store."""
    directory = RunStore(run_id).local_path(layout.artifact_path(name))
    assert directory is not None
    return directory


def check_with_its_own_command(directory: Path, *options: str | Path) -> int:
    """Verify a signature by `model_signing`'s own command line; return the exit code."""
    command = [sys.executable, "-m", "model_signing", "verify"]
    arguments = [options[0], directory, "--signature", directory / "model.sig", *options[1:]]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True).returncode


# Signing


def test_a_training_signs_every_checkpoint(
    http_store: Store, mine: KeyPair, other: KeyPair, tmp_path: Path
) -> None:
    run_id = trained(sign=mine.private)
    for result in cli_verify(run_id, mine.public):
        assert result["ok"]
        assert result["signed_by"] == str(mine.public)
    uri = f"runs:/{run_id}/checkpoints/epoch_0001"
    copied = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))
    assert check_with_its_own_command(copied, "key", "--public_key", mine.public) == 0
    assert check_with_its_own_command(copied, "key", "--public_key", other.public) == 1
    flip_byte(copied / "manifest.json", 10)
    assert check_with_its_own_command(copied, "key", "--public_key", mine.public) == 1


def cli_verify(run_id: str, signer: Path) -> list[dict[str, object]]:
    """Verify all checkpoints of a run on the command line."""
    result = cli.run("verify", run_id, "--all", "--signed-by", signer, "--json")
    assert result.exit_code == 0, result.output
    results: list[dict[str, object]] = json.loads(result.stdout)
    assert len(results) == 2
    return results


def test_a_certificate_signs(local_store: Store, certified: Certified, keys: Path) -> None:
    key = SigningKey(certified.private, certified.certificate, [certified.root])
    run_id = trained(sign=key, epochs=1)
    assert mlflow_ckpt.verify(run_id, signed_by=certified.root).ok
    stranger = write_certified(keys, "stranger")
    assert not mlflow_ckpt.verify(run_id, signed_by=stranger.root).ok
    options = ("certificate", "--certificate_chain", certified.root)
    assert check_with_its_own_command(directory_of(run_id), *options) == 0


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_other_curves(curve: ec.EllipticCurve, local_store: Store, tmp_path: Path) -> None:
    pair = write_pair(tmp_path, "key", ec.generate_private_key(curve))
    run_id = save_run()
    mlflow_ckpt.sign(run_id, key=pair.private)
    assert mlflow_ckpt.verify(run_id, signed_by=pair.public).ok


def test_an_encrypted_key(
    local_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = write_pair(tmp_path, "key", password="open sesame")
    run_id = save_run()
    with pytest.raises(SigningError, match="MLFLOW_CKPT_SIGNING_PASSWORD"):
        mlflow_ckpt.sign(run_id, key=pair.private)
    monkeypatch.setenv("MLFLOW_CKPT_SIGNING_PASSWORD", "open sesame")
    mlflow_ckpt.sign(run_id, key=pair.private)
    assert mlflow_ckpt.verify(run_id, signed_by=pair.public).ok


def test_the_command_signs_all(http_store: Store, mine: KeyPair, other: KeyPair) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    result = cli.run("sign", run_id, "--all", "--key", mine.private)
    assert (result.exit_code, result.stdout) == (
        0,
        f"Signed epoch_0001 of run {run_id}\nSigned epoch_0002 of run {run_id}\n",
    )
    assert all(mlflow_ckpt.verify(run_id, epoch, signed_by=mine.public).ok for epoch in (1, 2))
    # Another signature replaces it.
    assert cli.run("sign", run_id, "--checkpoint", "1", "--key", other.private).exit_code == 0
    assert mlflow_ckpt.verify(run_id, 1, signed_by=other.public).ok
    assert not mlflow_ckpt.verify(run_id, 1, signed_by=mine.public).ok
    assert mlflow_ckpt.verify(run_id, 1, signed_by=[mine.public, other.public]).ok


def test_what_is_damaged_is_not_signed(local_store: Store, mine: KeyPair) -> None:
    run_id = save_run()
    flip_byte(directory_of(run_id) / "data" / "model.keras")
    with pytest.raises(VerificationError):
        mlflow_ckpt.sign(run_id, key=mine.private)
    assert not (directory_of(run_id) / "model.sig").exists()


def test_a_key_that_the_environment_names(
    local_store: Store, mine: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_CKPT_SIGNING_KEY", str(mine.private))
    run_id = trained(epochs=1)
    assert mlflow_ckpt.verify(run_id, signed_by=mine.public).ok
    # A training that is resumed signs as well, though the checkpoint does not name the key.
    point = mlflow_ckpt.resume(run_id, in_place=True)
    fit(point.model, *point.callbacks, initial_epoch=1, epochs=2)
    assert mlflow_ckpt.verify(run_id, 2, signed_by=mine.public).ok


def test_two_callbacks_of_which_one_signs(local_store: Store, mine: KeyPair) -> None:
    run_id = new_run()
    both = [
        MlflowCheckpoint("loss", run_id=run_id),
        MlflowCheckpoint("loss", run_id=run_id, forms=("split",), sign=mine.private),
    ]
    fit(small_model(), *both, epochs=1)
    assert mlflow_ckpt.verify(run_id, signed_by=mine.public).ok


def test_the_key_is_in_no_file_of_the_run(signed: str, mine: KeyPair) -> None:
    secrets = [mine.private.read_bytes(), str(mine.private).encode()]
    secrets += [line for line in mine.private.read_bytes().splitlines() if b"--" not in line]
    root = directory_of(signed).parents[1]
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) > 20
    contents = b"".join(path.read_bytes() for path in files)
    run = mlflow.get_run(signed)
    contents += json.dumps([run.data.tags, run.data.params]).encode()
    assert not [secret for secret in secrets if secret in contents]


def test_a_copied_callback_signs(local_store: Store, mine: KeyPair) -> None:
    run_id = new_run()
    original = MlflowCheckpoint("loss", run_id=run_id, sign=mine.private)
    fit(small_model(), copy.deepcopy(original), epochs=1)
    assert mlflow_ckpt.verify(run_id, signed_by=mine.public).ok


def test_a_key_that_is_gone_costs_the_signature_only(
    local_store: Store, mine: KeyPair, tmp_path: Path
) -> None:
    key = tmp_path / "key.pem"
    shutil.copyfile(mine.private, key)
    callback = MlflowCheckpoint("loss", run_id=new_run(), sign=key)
    key.unlink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(small_model(), callback, epochs=3)
    run_id = str(callback.run_id)
    (message,) = [str(w.message) for w in caught if "signature" in str(w.message)]
    assert "epoch_0001 is saved without a signature" in message
    assert f"mlflow-ckpt sign {run_id} --all" in message
    assert names(run_id) == ["epoch_0001", "epoch_0002", "epoch_0003"]
    assert cli.run("sign", run_id, "--all", "--key", mine.private).exit_code == 0
    assert mlflow_ckpt.verify(run_id, 1, signed_by=mine.public).ok


def test_a_key_that_is_gone_raises_if_wanted(
    local_store: Store, mine: KeyPair, tmp_path: Path
) -> None:
    key = tmp_path / "key.pem"
    shutil.copyfile(mine.private, key)
    callback = MlflowCheckpoint("loss", run_id=new_run(), sign=key, on_error="raise")
    key.unlink()
    with pytest.raises(SigningError), callback:
        fit(small_model(), callback)
    assert names(str(callback.run_id)) != []


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("missing.pem", InvalidArgumentError),
        (7, ArgumentTypeError),
        (SigningKey("missing.pem"), InvalidArgumentError),
        (SigningKey(__file__, certificate=__file__), InvalidArgumentError),
    ],
)
def test_what_cannot_sign(value: object, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        MlflowCheckpoint(sign=value)  # type: ignore[arg-type]
    assert "Expected" in str(caught.value)


def test_keys_that_cannot_be_used(local_store: Store, tmp_path: Path) -> None:
    run_id = save_run()
    garbage = tmp_path / "garbage.pem"
    garbage.write_bytes(b"\0" * 100)
    unsupported = [
        garbage,
        write_rsa_pair(tmp_path).private,
        write_pair(tmp_path, "bitcoin", ec.generate_private_key(ec.SECP256K1())).private,
    ]
    for key in unsupported:
        result = cli.run("sign", run_id, "--key", key)
        assert result.exit_code == 6
        assert result.stderr.startswith(f"Error: Signing with {key} failed: ")
        assert result.stderr.count("\n") == 1
    assert cli.run("sign", run_id).exit_code == 2
    assert not (directory_of(run_id) / "model.sig").exists()


def test_sigstore_needs_an_identity(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = save_run()
    monkeypatch.delenv("SIGSTORE_ID_TOKEN", raising=False)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    with pytest.raises(SigningError, match="SIGSTORE_ID_TOKEN"):
        mlflow_ckpt.sign(run_id, key="sigstore")


# Verifying


def ways_to_open(run_id: str, **signed_by: object) -> dict[str, Callable[[], object]]:
    """Return the public functions that open a checkpoint."""
    return {
        "load_model": lambda: mlflow_ckpt.load_model(run_id, 1, **signed_by),
        "load_split": lambda: mlflow_ckpt.load_model(run_id, 1, "split", **signed_by),
        "load_architecture": lambda: mlflow_ckpt.load_architecture(run_id, 1, **signed_by),
        "load_weights": lambda: mlflow_ckpt.load_weights(small_model(), run_id, 1, **signed_by),
        "restore": lambda: mlflow_ckpt.restore(small_model(), run_id, 1, **signed_by),
        "resume": lambda: mlflow_ckpt.resume(run_id, 1, **signed_by),
        "resume latest": lambda: mlflow_ckpt.resume(run_id, **signed_by),
        "diff": lambda: mlflow_ckpt.diff(run_id, f"ckpt:/{run_id}/1", **signed_by),
        "register": lambda: mlflow_ckpt.register(run_id, 1, name="signed", **signed_by),
    }


WAYS = list(ways_to_open(""))


@pytest.mark.parametrize("way", WAYS)
def test_whatever_opens_a_checkpoint(way: str, signed: str, mine: KeyPair, other: KeyPair) -> None:
    ways_to_open(signed, signed_by=mine.public)[way]()
    with pytest.raises(SignatureError) as caught:
        ways_to_open(signed, signed_by=other.public)[way]()
    assert "is not signed by" in str(caught.value)
    for name in names(signed):
        (directory_of(signed, name) / "model.sig").unlink()
    with pytest.raises(SignatureError, match=r"is not signed\. Expected a signature"):
        ways_to_open(signed, signed_by=mine.public)[way]()


COMMANDS = {
    "verify": (),
    "restore": ("--overwrite",),
    "predict": ("input.npy",),
    "register": ("--name", "signed"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(
    command: str,
    signed: str,
    mine: KeyPair,
    other: KeyPair,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "input.npy", np.ones((2, 4), "float32"))
    arguments = (command, signed, *COMMANDS[command], "--signed-by")
    accepted = cli.run(*arguments, mine.public)
    assert accepted.exit_code == 0, accepted.output
    refused = cli.run(*arguments, other.public)
    assert refused.exit_code == 4, refused.output
    assert "is not signed by" in refused.output


def test_diff_on_the_command_line(signed: str, mine: KeyPair, other: KeyPair) -> None:
    pair = ("diff", f"ckpt:/{signed}/1", f"ckpt:/{signed}/1", "--signed-by")
    assert cli.run(*pair, mine.public).exit_code == 0
    assert cli.run(*pair, other.public).exit_code == 4


def test_nobody_else_can_write_to_what_was_verified(signed: str, mine: KeyPair) -> None:
    """Whoever saved a checkpoint may let everybody write to its files, but not to the copies."""
    for path in (directory_of(signed), *directory_of(signed).rglob("*")):
        path.chmod(0o777)
    with find(Query(signed, 1, signed_by=mine.public)).open() as opened:
        copies = [opened.directory, *opened.directory.rglob("*")]
        assert len(copies) > 10
        assert [path for path in copies if path.stat().st_mode & 0o022] == []


def test_a_policy_of_the_environment(
    signed: str, mine: KeyPair, other: KeyPair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unsigned = save_run(forms=("full", "split"))
    monkeypatch.setenv("MLFLOW_CKPT_SIGNED_BY", f"{other.public}; {mine.public}  # both")
    for opening in ways_to_open(signed).values():
        opening()
    for opening in ways_to_open(unsigned).values():
        with pytest.raises(SignatureError):
            opening()
    uri = f"ckpt:/{unsigned}/latest"
    with pytest.raises(mlflow.MlflowException, match="is not signed"):
        mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path))
    delivered = mlflow.artifacts.download_artifacts(f"ckpt:/{signed}/1", dst_path=str(tmp_path))
    options = ("key", "--public_key", mine.public)
    assert check_with_its_own_command(Path(delivered), *options) == 0
    # An argument adds to what the policy requires.
    with pytest.raises(SignatureError):
        mlflow_ckpt.load_model(signed, signed_by=other.public)
    # Only what is opened needs a signature.
    assert names(unsigned) == ["epoch_0001"]
    assert cli.run("list", unsigned).exit_code == 0
    assert cli.run("sign", unsigned, "--key", mine.private).exit_code == 0
    mlflow_ckpt.load_model(unsigned)


def test_a_policy_is_for_other_tools_models_too(
    local_store: Store, mine: KeyPair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = small_model()
    model.save(tmp_path / "model_01.keras")
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(tmp_path / "model_01.keras"))
    uri = f"runs:/{run.info.run_id}/model_01.keras"
    monkeypatch.setenv("MLFLOW_CKPT_SIGNED_BY", str(mine.public))
    with pytest.raises(SignatureError, match="another tool"):
        mlflow_ckpt.load_model(uri, allow_unverified=True)
    with pytest.raises(SignatureError, match="is not signed"):
        mlflow_ckpt.import_checkpoints(tmp_path, run_id=new_run())


@pytest.mark.parametrize("place", ["machine", "user"])
def test_a_policy_file(
    place: str, signed: str, mine: KeyPair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variable = {"machine": "XDG_CONFIG_DIRS", "user": "XDG_CONFIG_HOME"}[place]
    monkeypatch.setenv(variable, str(tmp_path))
    policy = tmp_path / "mlflow_ckpt" / "signed_by"
    policy.parent.mkdir()
    shutil.copyfile(mine.public, policy.parent / "team.pub")
    policy.write_text("# whom we trust\nteam.pub\n")
    mlflow_ckpt.load_model(signed)
    unsigned = save_run()
    with pytest.raises(SignatureError, match=r"Expected a signature \(model.sig\) by team.pub"):
        mlflow_ckpt.load_model(unsigned)
    for text in ("# nobody\n", "missing.pub\n", ""):
        policy.write_text(text)
        with pytest.raises(InvalidArgumentError, match=str(policy)):
            mlflow_ckpt.load_model(signed)


def test_a_policy_behind_the_directories_of_a_desktop(
    mine: KeyPair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    policy = tmp_path / "xdg" / "mlflow_ckpt" / "signed_by"
    policy.parent.mkdir(parents=True)
    policy.write_text(str(mine.public))
    monkeypatch.setenv("XDG_CONFIG_DIRS", f"{tmp_path / 'desktop'}{os.pathsep}{tmp_path / 'xdg'}")
    assert str(Trust.of()) == str(mine.public)


def test_a_policy_that_cannot_be_looked_for_refuses_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(loop))
    with pytest.raises(InvalidArgumentError, match=r"signed_by', which cannot be read"):
        Trust.of()


def test_what_was_altered_and_sealed_again(signed: str, mine: KeyPair) -> None:
    file = directory_of(signed) / "manifest.json"
    manifest = Manifest.from_json(file.read_bytes())
    file.write_text(replace(manifest, metrics={"val_loss": 0.0}).to_json())
    assert mlflow_ckpt.verify(signed, 1).ok
    result = mlflow_ckpt.verify(signed, 1, signed_by=mine.public)
    assert not result.ok
    assert result.error is not None
    assert "Signature mismatch" in result.error


def test_a_signed_checkpoint_under_another_name(signed: str, mine: KeyPair) -> None:
    second = directory_of(signed, "epoch_0002")
    shutil.rmtree(second)
    shutil.copytree(directory_of(signed), second)
    with pytest.raises(mlflow_ckpt.errors.IntegrityError, match="epoch_0001"):
        mlflow_ckpt.load_model(signed, 2, signed_by=mine.public)


def test_files_that_are_no_signature(signed: str, mine: KeyPair) -> None:
    directory = directory_of(signed)
    good = (directory / "model.sig").read_bytes()
    deep = b"[" * 100_000
    for content in (
        b"",
        b"{}",
        b"null",
        deep,
        good[:-10],
        good.replace(b'"payload":"', b'"payload":"AAAA').replace(
            b'"payload": "', b'"payload": "AAAA'
        ),
        good * 2,
    ):
        (directory / "model.sig").write_bytes(content)
        check_refused(signed, mine)
    (directory / "model.sig").unlink()
    (directory / "model.sig").mkdir()
    check_refused(signed, mine)
    (directory / "model.sig").rmdir()
    with (directory / "model.sig").open("wb") as file:
        file.truncate(2**25)
    check_refused(signed, mine)


def check_refused(run_id: str, key: KeyPair) -> None:
    with pytest.raises(SignatureError) as caught:
        mlflow_ckpt.load_architecture(run_id, 1, signed_by=key.public)
    assert str(caught.value).startswith(f"The checkpoint epoch_0001 of run {run_id} ")


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=200), position=st.integers(0, 10**6))
def test_altered_signatures(
    content: bytes, position: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("signatures")
    pair = write_pair(directory, "key")
    digests = {"a": Digest.of_bytes(b"a"), "b/c": Digest.of_bytes(b"c")}
    file = directory / "model.sig"
    library.sign("name", digests, SigningKey(pair.private), file)
    trust = Trust.of(pair.public)
    trust.require(file, digests, "It")
    with pytest.raises(SignatureError):
        trust.require(file, {"a": digests["a"]}, "It")
    good = file.read_bytes()
    position %= len(good)
    file.write_bytes(good[:position] + content + good[position + len(content) :])
    try:
        trust.require(file, digests, "It")
    except SignatureError:
        return
    # Only what is not signed was altered, such as spaces.
    with pytest.raises(SignatureError):
        trust.require(file, {**digests, "a": Digest.of_bytes(b"b")}, "It")


@pytest.mark.parametrize(
    "value",
    ["missing.pub", __file__, "sigstore:", "sigstore:me@example.com", "sigstore:me,http://issuer"],
)
def test_what_is_no_signer(value: str, signed: str) -> None:
    with pytest.raises(InvalidArgumentError, match="Unrecognized signer"):
        mlflow_ckpt.load_model(signed, signed_by=value)


@pytest.mark.parametrize("value", [None, 7, [None], b"key.pub"])
def test_what_is_no_name_of_a_signer(value: object) -> None:
    with pytest.raises(ArgumentTypeError, match="Unrecognized signer"):
        Trust.of(value)  # type: ignore[arg-type]


def test_an_empty_list_of_signers(signed: str) -> None:
    with pytest.raises(InvalidArgumentError, match="names nobody"):
        mlflow_ckpt.load_model(signed, signed_by=[])


def test_a_key_in_the_home_directory(
    local_store: Store, mine: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copyfile(mine.private, tmp_path / "key.pem")
    monkeypatch.setenv("MLFLOW_CKPT_SIGNING_KEY", "~/key.pem")
    run_id = trained(epochs=1)
    assert mlflow_ckpt.verify(run_id, signed_by=mine.public).ok


def test_a_private_key_is_no_signer(signed: str, mine: KeyPair) -> None:
    with pytest.raises(InvalidArgumentError, match="Pass the public one"):
        mlflow_ckpt.load_model(signed, signed_by=mine.private)


def test_another_identity_of_sigstore(signed: str) -> None:
    # Without a network, Sigstore's own root of trust cannot be had: refused as well.
    with pytest.raises(SignatureError, match=r"is not signed by sigstore:me@example\.com"):
        mlflow_ckpt.load_model(signed, signed_by="sigstore:me@example.com,https://issuer.example")


def test_without_the_library(signed: str, mine: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_ckpt._format.signing.library.is_installed", lambda: False)
    with pytest.raises(SignatureError, match=r"pip install 'mlflow-ckpt\[signing\]'"):
        mlflow_ckpt.load_model(signed, signed_by=mine.public)
    with pytest.raises(SigningError, match=r"pip install 'mlflow-ckpt\[signing\]'"):
        mlflow_ckpt.sign(signed, key=mine.private)
    mlflow_ckpt.load_model(signed)
