"""A spool that somebody else can write to: nothing of it is followed, sent or removed."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store, free_port
from mlflow_ckpt._tracking import artifact_servers
from mlflow_ckpt._tracking.spool import disk, entries, servers
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from tests.hostile.listener import Listener, listening
from tests.support.checkpoints import put_checkpoint, save_run
from tests.support.cli import run
from tests.support.training import new_run

RUN = "a" * 32
TOKEN = "00000000000000000001-deadbeef"
SECRET = "my-secret-token"
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture(autouse=True)
def own_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_CKPT_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "spool"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """A server that the user never named, while credentials for another are set."""
    with listening() as listener:
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield listener


def plant(spool: Path, uri: str, token: str = TOKEN, **values: object) -> Path:
    """Write an entry by hand."""
    entry = spool / RUN / token
    (entry / "files").mkdir(parents=True)
    content = {
        "schema_version": 1,
        "kind": "metrics",
        "run_id": RUN,
        "tracking_uri": uri,
        "metrics": {"loss": 1.0},
    }
    (entry / "entry.json").write_text(json.dumps({**content, **values}))
    return entry


def modes(directory: Path) -> set[tuple[str, int]]:
    """Return kind and mode of a directory and all below it."""
    return {
        ("dir" if path.is_dir() else "file", stat.S_IMODE(path.stat().st_mode))
        for path in (directory, *directory.rglob("*"))
    }


@pytest.mark.parametrize("umask", [0, 0o277])
def test_a_spool_is_its_user_s_alone(umask: int, own_spool: Path) -> None:
    if umask and os.geteuid() != 0:
        umask = 0o077
    before = os.umask(umask)
    try:
        put_checkpoint(RUN, "http://127.0.0.1:9")
        Spool.default().put(RUN, kind="tags", tracking_uri="http://127.0.0.1:9", tags={"a": "b"})
        with Spool.default().draft(RUN) as draft:
            (draft.files / "half").write_text("half")
            assert stat.S_IMODE(draft.path.stat().st_mode) == 0o700
        assert len(Spool.default().entries()) == 2
    finally:
        os.umask(before)
    assert modes(own_spool) == {("dir", 0o700), ("file", 0o600)}


def test_a_checkpoint_that_is_being_tried_is_its_user_s_alone(own_spool: Path) -> None:
    """While the first checkpoint is loaded from links to its files, it can be sent."""
    spool = Spool.default()
    before = os.umask(0o002)
    try:
        with spool.draft(RUN) as draft, spool.draft(RUN) as trial:
            file = draft.files / "weights"
            file.write_text("weights")
            os.link(file, trial.files / file.name)
            entry = draft.commit(
                kind="checkpoint", run_id=RUN, tracking_uri="http://127.0.0.1:9", name="epoch_0001"
            )
            assert modes(entry.path) == {("dir", 0o700), ("file", 0o600)}
            assert disk.reason_against_all(entry.path) is None
    finally:
        os.umask(before)


@pytest.mark.parametrize("command", [("flush",), ("flush", RUN), ("list", RUN)])
def test_an_older_spool_becomes_its_user_s_alone(
    command: tuple[str, ...], local_store: Store, own_spool: Path
) -> None:
    put_checkpoint(RUN, "http://127.0.0.1:9")
    for path in (own_spool, *own_spool.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o644)
    run(*command)
    assert modes(own_spool) == {("dir", 0o700), ("file", 0o600)}


def test_what_else_is_in_the_directory_of_the_spool_keeps_its_modes(own_spool: Path) -> None:
    """A user may have named a directory that is used for other things too."""
    script, empty = own_spool / "project" / "train.sh", own_spool / "results"
    for directory in (script.parent, empty):
        directory.mkdir(parents=True)
    script.touch()
    script.chmod(0o775)
    own_spool.chmod(0o775)
    entry = put_checkpoint(RUN, "http://127.0.0.1:9")
    entry.path.parent.chmod(0o775)
    Spool.default().entries()
    assert stat.S_IMODE(script.stat().st_mode) == 0o775
    assert stat.S_IMODE(own_spool.stat().st_mode) == 0o775
    assert modes(entry.path.parent) == {("dir", 0o700), ("file", 0o600)}


# Draft, what its place.json names, and whether that is what our own drafts look like.
PLACES: dict[str, Callable[[Path], tuple[str, Path]]] = {
    "a directory of a dot file": lambda home: ("ssh.draft", home / ".ssh"),
    "its name with a token": lambda home: (f"{TOKEN}.draft", home / ".ssh"),
    "by way of ..": lambda home: ("ssh.draft", home / "x" / ".." / ".ssh"),
    "a link to it": lambda home: (f"{TOKEN}.draft", home / f".{TOKEN}"),
    "home itself": lambda home: ("draft", home),
    "the root": lambda home: (".draft", Path("/")),
    "relative": lambda home: ("ssh.draft", Path(os.path.relpath(home / ".ssh"))),
}


@pytest.mark.parametrize("what", PLACES)
@pytest.mark.parametrize("command", ["flush", "training"])
def test_a_place_never_leads_to_what_is_not_a_draft(
    what: str,
    command: str,
    local_store: Store,
    own_spool: Path,
    tmp_path: Path,
    record_property: pytest.RecordProperty,
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_rsa").write_text("precious")
    (home / f".{TOKEN}").symlink_to(home / ".ssh")
    name, place = PLACES[what](home)
    draft = own_spool / RUN / name
    draft.mkdir(parents=True)
    content = {"host": socket.gethostname(), "files": str(place)}
    (draft / "place.json").write_text(json.dumps(content))
    (draft / "entry.json").symlink_to(home / ".ssh" / "id_rsa")
    if command == "flush":
        run("flush")
    else:
        Spool.default().sweep(RUN)
    assert (home / ".ssh" / "id_rsa").read_text() == "precious"
    record_property("hostile", f"place.json: {what} | {command} | harmless")


def link_run(spool: Path, entry: Path, home: Path) -> None:
    entry.parent.rename(home / "run")
    entry.parent.symlink_to(home / "run")


def link_entry(spool: Path, entry: Path, home: Path) -> None:
    entry.rename(home / "entry")
    entry.symlink_to(home / "entry")


def link_description(spool: Path, entry: Path, home: Path) -> None:
    (entry / "entry.json").rename(home / "entry.json")
    (entry / "entry.json").symlink_to(home / "entry.json")


def link_file(spool: Path, entry: Path, home: Path) -> None:
    (entry / "files" / "model.weights.h5").unlink()
    (entry / "files" / "model.weights.h5").symlink_to(home / "secret")


def link_files(spool: Path, entry: Path, home: Path) -> None:
    (entry / "files").rename(home / "files")
    (entry / "files").symlink_to(home / "files")


def pipe(spool: Path, entry: Path, home: Path) -> None:
    os.mkfifo(entry / "files" / "pipe")


def writable(spool: Path, entry: Path, home: Path) -> None:
    """Of an entry that another user may write to, and that is not made private for that."""
    give_away(entry / "files" / "manifest.json")


def give_away(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


def foreign_entry(spool: Path, entry: Path, home: Path) -> None:
    for path in (entry, *entry.rglob("*")):
        give_away(path)


def foreign_run(spool: Path, entry: Path, home: Path) -> None:
    for path in (entry.parent, *entry.parent.rglob("*")):
        give_away(path)


def foreign_description(spool: Path, entry: Path, home: Path) -> None:
    give_away(entry / "entry.json")


PLANTED = [
    *(link_run, link_entry, link_description, link_file, link_files, pipe),
    *(
        pytest.param(planted, marks=as_root)
        for planted in (foreign_entry, foreign_run, foreign_description, writable)
    ),
]


@pytest.mark.parametrize("planted", PLANTED)
def test_an_entry_that_others_may_have_written_is_left_alone(
    planted: Callable[[Path, Path, Path], None],
    local_store: Store,
    own_spool: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    record_property: pytest.RecordProperty,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret").write_text("precious")
    run_id = new_run()
    entry = put_checkpoint(run_id, local_store.uri)
    planted(own_spool, entry.path, home)
    result = run("flush", run_id)
    assert "Sent" not in result.output
    told = result.output + caplog.text
    assert "left alone, because" in told or "cannot be trusted" in told, told
    assert mlflow.MlflowClient().list_artifacts(run_id) == []
    assert (home / "secret").read_text() == "precious"
    Spool.default().sweep()
    assert os.path.lexists(entry.path)
    record_property("hostile", f"spool: {planted.__name__} | flush | refused")


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "command"},
        {"kind": "checkpoint", "name": "../../../etc"},
        {"kind": "announcement", "name": "epoch_0001/../../x"},
        {"kind": "announcement"},
        {"metrics": [1]},
        {"metrics": {"a": "b"}},
        {"kind": "tags", "tags": {"a": {}}},
        {"step": "x"},
        {"run_id": ["a"]},
        {"tracking_uri": None},
        {"unknown": 1},
        {"path": "/etc"},
    ],
    ids=str,
)
def test_an_entry_with_values_that_none_has_is_left_alone(
    values: dict[str, object],
    own_spool: Path,
    caplog: pytest.LogCaptureFixture,
    record_property: pytest.RecordProperty,
) -> None:
    entry = plant(own_spool, "http://127.0.0.1:9", **values)
    assert Spool.default().entries() == []
    assert f"{entry} is left alone, because it cannot be read" in caplog.text
    record_property("hostile", f"entry.json: {values} | spool | refused")


def test_a_token_goes_to_no_server_that_the_user_never_named(
    http_store: Store, elsewhere: Listener, own_spool: Path, record_property: pytest.RecordProperty
) -> None:
    entry = plant(own_spool, elsewhere.uri)
    result = run("flush")
    assert result.exit_code == 7
    assert f"Left metrics of step 0 of run {RUN} in {entry}: It is for the server" in result.stdout
    assert elsewhere.requests == []
    assert entry.is_dir()
    record_property("hostile", "an entry for another server | flush | refused")
    run("flush", "--tracking-uri", elsewhere.uri)  # the user named it
    assert elsewhere.secrets != []


def test_the_server_of_a_training_was_named(own_spool: Path, tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    assert servers.address_of(uri) is None
    Spool.default().put(RUN, kind=entries.METRICS, tracking_uri=uri, metrics={"loss": 1.0})
    assert servers.address_of(uri) == uri
    noted = tmp_path / "state" / "mlflow_ckpt" / "servers"
    assert stat.S_IMODE(noted.stat().st_mode) == 0o600
    noted.chmod(0o666)
    assert servers.address_of(uri) is None


def test_credentials_in_an_address_are_stored_and_shown_nowhere(
    http_store: Store, own_spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = http_store.uri.replace("://", "://user:pass@word@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    mlflow.set_tracking_uri(address)
    run_id = new_run()
    entry = put_checkpoint(run_id, address)
    stored = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert not any(b"word" in content for content in stored)
    assert entry.tracking_uri == http_store.uri
    shown = [run("list", run_id), run("list", run_id, "--json"), run("list", "0" * 32)]
    shown += [run("flush", run_id)]
    assert shown[-1].exit_code == 0
    assert mlflow_ckpt.verify(run_id).ok
    shown += [run(*c) for c in (("show", run_id), ("register", run_id, "--name", "x"))]
    shown += [run("report", run_id, "-o", tmp_path / "page.html")]
    assert not any("word" in result.output for result in shown)
    assert "word" not in (tmp_path / "page.html").read_text()
    tags = MlflowClient().get_run(run_id).data.tags
    assert "word" not in str(tags)


def test_credentials_are_in_no_message_of_an_error(
    monkeypatch: pytest.MonkeyPatch, local_store: Store
) -> None:
    address = f"http://user:pass@word@127.0.0.1:{free_port()}/?token=other-word"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for command in (("list", RUN), ("verify", RUN), ("resume", RUN, "--epochs", "3")):
        result = run(*command, "--tracking-uri", address)
        assert result.exit_code == 7
        assert "word" not in result.output
    with pytest.raises(mlflow_ckpt.errors.TrackingError) as caught:
        mlflow_ckpt.load_model(RUN, tracking_uri=address)
    error: BaseException | None = caught.value
    while error is not None:
        assert "word" not in f"{error} {error.args}"
        error = error.__cause__ or error.__context__


def test_artifacts_at_another_server_get_no_token(
    local_store: Store,
    elsewhere: Listener,
    monkeypatch: pytest.MonkeyPatch,
    record_property: pytest.RecordProperty,
) -> None:
    location = f"{elsewhere.uri}/api/2.0/mlflow-artifacts/artifacts/x"
    experiment = MlflowClient().create_experiment("elsewhere", artifact_location=location)
    run_id = MlflowClient().create_run(experiment).info.run_id
    for command in (("list", run_id), ("verify", run_id), ("report", run_id, "-o", "/dev/full")):
        result = run(*command)
        assert result.exit_code in (6, 7), (command, result.output)
    with pytest.raises(mlflow_ckpt.errors.TrackingError, match="MLFLOW_CKPT_ARTIFACT_HOSTS"):
        mlflow_ckpt.load_model(run_id)
    record_property("hostile", "artifacts at another server | list, verify, load_model | refused")
    assert elsewhere.requests == []
    host = elsewhere.uri.removeprefix("http://")
    monkeypatch.setenv("MLFLOW_CKPT_ARTIFACT_HOSTS", f"other:80, {host}")
    run("list", run_id)
    assert elsewhere.requests != []


SERVER = "http://user@mlflow.example/path"
OWN = (
    "mlflow-artifacts:/1/x",
    "HTTPS://mlflow.example/x",
    "http://mlflow.example:80/x",
    "s3://bucket/x",
    "/tmp/x",
)
OTHERS = (
    *("http://evil.example/x", "mlflow-artifacts://evil.example/x"),
    *("http://mlflow.example@evil.example/x", "http://mlflow.example:8080/x"),
    "http://mlflow.example:x/",
)


def test_tokens_are_not_sent_in_the_clear(elsewhere: Listener) -> None:
    with pytest.raises(mlflow_ckpt.errors.TrackingError):
        artifact_servers.require_own("http://mlflow.example/x", "https://mlflow.example")


@pytest.mark.parametrize("location", [*OWN, *OTHERS])
def test_a_server_is_its_host_and_port(location: str, elsewhere: Listener) -> None:
    refused = pytest.raises(mlflow_ckpt.errors.TrackingError, match="which is not the tracking")
    with refused if location in OTHERS else nullcontext():
        artifact_servers.require_own(location, SERVER)


def test_a_redirection_takes_no_token_along(
    elsewhere: Listener, record_property: pytest.RecordProperty
) -> None:
    with listening() as server:
        server.redirects_to = elsewhere.uri.replace("127.0.0.1", "localhost")
        for command in (("list", RUN), ("flush", RUN), ("load",)):
            if command == ("load",):
                with pytest.raises(mlflow_ckpt.errors.MlflowCkptError):
                    mlflow_ckpt.load_model(RUN, tracking_uri=server.uri)
            else:
                run(*command, "--tracking-uri", server.uri)
        assert server.secrets != []
    assert elsewhere.secrets == []
    record_property("hostile", "a server that redirects elsewhere | list, load | harmless")


def test_a_shared_artifact_store_stays_readable(local_store: Store) -> None:
    """What is uploaded to a directory does not get the mode of the spool's files."""
    run_id = save_run()
    directory = local_store.artifacts_of(run_id) / "checkpoints" / "epoch_0001"
    put_checkpoint(run_id, local_store.uri, epoch=2)
    assert run("flush", run_id).exit_code == 0
    sent = directory.parent / "epoch_0002"
    plain = directory.parent / "plain"
    plain.touch()
    assert {stat.S_IMODE(p.stat().st_mode) for p in sent.rglob("*") if p.is_file()} == {
        stat.S_IMODE(plain.stat().st_mode)
    }
