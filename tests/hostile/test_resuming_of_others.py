"""`mlflow-ckpt resume` of a run that somebody else wrote: nothing starts without a yes."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import mlflow
import pytest

from mlflow_ckpt._tracking.project import ProjectRun, _unquoted
from tests.support.cli import run, run_process
from tests.support.processes import COMMAND, Process
from tests.support.training import trained
from tests.test_cli_resume import MLPROJECT

pytestmark = pytest.mark.usefixtures("local_store")

# Prints its arguments, and leaves a file that must not be there.
TRAIN = "import pathlib, sys; pathlib.Path('{canary}').touch(); print('TRAINS', sys.argv[1:])"


def make_project(directory: Path, canary: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "MLproject").write_text(MLPROJECT.replace("PARAMETER", "resume_from"))
    (directory / "train.py").write_text(TRAIN.format(canary=canary))
    return directory


@pytest.fixture(scope="module")
def once() -> dict[str, str]:
    """The run of the tests that only change its tags."""
    return {}


def run_of(once: dict[str, str], source: str, **others: str) -> str:
    """Return a run whose tags name a project."""
    run_id = once.get("run_id") or once.setdefault("run_id", trained())
    client = mlflow.MlflowClient()
    tags = {
        "mlflow.source.type": "PROJECT",
        "mlflow.source.name": source,
        "mlflow.project.entryPoint": "main",
        "mlflow.project.env": "local",
        "mlflow.source.git.commit": "0" * 40,
    } | {name.replace("__", "."): value for name, value in others.items()}
    for name, value in tags.items():
        client.set_tag(run_id, name, value)
    return run_id


COMMIT, ENVIRONMENT = "mlflow__source__git__commit", "mlflow__project__env"
ENTRY_POINT = "mlflow__project__entryPoint"
ELSEWHERE = "https://127.0.0.1:9/somebody/else"
# What is said of a run's tags: part of the source, other tags, and part of the refusal.
TAGS: dict[str, tuple[str, dict[str, str], str]] = {
    "a repository elsewhere": (ELSEWHERE, {}, "only if you agree"),
    "a directory elsewhere": ("PROJECT", {}, "only if you agree"),
    "a subdirectory that leads elsewhere": ("HERE#../elsewhere", {}, "only if you agree"),
    "a clone in the repository": ("CLONE", {}, "only if you agree"),
    "an option as environment": ("HERE", {ENVIRONMENT: "--backend=local"}, "names the environment"),
    "options as environment": (ELSEWHERE, {ENVIRONMENT: "local -A x"}, "names the environment"),
    "an option as commit": (ELSEWHERE, {COMMIT: "--upload-pack=touch CANARY"}, "names the commit"),
    "a branch as commit": (ELSEWHERE, {COMMIT: "main"}, "names the commit"),
    "a command as transport": ("ext::sh -c touch% CANARY", {}, "names the project"),
    "a descriptor as transport": ("fd::17", {}, "names the project"),
    "no address": ("http://[", {}, "only if you agree"),
    "a name too long": ("x" * 5000, {}, "names the project"),
    "a zero": ("/tmp/\x00", {}, "names the project"),
    "an option as source": ("--backend-config={}", {}, "names the project"),
    "an option as host": ("ssh://-oProxyCommand=touch CANARY/x", {}, "names the project"),
    "a script outside the project": (
        "HERE",
        {ENTRY_POINT: "../elsewhere/train.py"},
        "no parameter",
    ),
    "a command as entry point": ("HERE", {ENTRY_POINT: "x; touch CANARY.sh"}, "no parameter"),
}


@pytest.mark.parametrize("what", TAGS)
def test_what_a_run_names_is_refused(
    what: str,
    once: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: pytest.RecordProperty,
) -> None:
    canary = tmp_path / "canary"
    here = make_project(tmp_path / "here", canary)
    (here / ".git").mkdir()
    elsewhere = make_project(tmp_path / "elsewhere", canary)
    clone = make_project(here / "clone", canary)
    (clone / ".git").mkdir()
    places = {"HERE": here.as_uri(), "PROJECT": str(elsewhere), "CLONE": str(clone)}
    source, tags, refusal = TAGS[what]

    def filled(text: str) -> str:
        for name, place in {**places, "CANARY": str(canary)}.items():
            text = text.replace(name, place)
        return text

    run_id = run_of(once, filled(source), **{name: filled(tag) for name, tag in tags.items()})
    monkeypatch.chdir(here)
    result = run("resume", run_id, "--epochs", "5")
    assert result.exit_code == 2, result.output
    assert refusal in result.stderr
    assert result.stderr.count("\n") == 1
    assert not canary.exists()
    record_property("hostile", f"{what} | mlflow-ckpt resume | refused")


@pytest.mark.parametrize(
    "address",
    [
        "git@github.com:me/mine.git",
        "org-123@github.com:me/mine.git#train",
        "ssh://git@host.example/me/mine",
        "https://host.example/mine.zip",
    ],
)
def test_addresses_that_people_have(address: str) -> None:
    ProjectRun(address, None, "main", "local", {}, "0", None).require_plausible()


def test_what_would_start_is_shown_without_what_moves_it_off_the_screen(
    once: dict[str, str], tmp_path: Path
) -> None:
    project = make_project(tmp_path / "elsewhere", tmp_path / "canary")
    run_id = run_of(once, str(project), **{ENTRY_POINT: "main"})
    mlflow.MlflowClient().log_param(run_id, "note", "'\n\x1b[2J source  mine'")
    result = run("resume", run_id, "--epochs", "5")
    assert "  parameter    note=\\n\\x1b[2J source  mine\n" in result.stdout
    assert "  command      mlflow run, entry point main: python train.py {epochs}" in result.stdout
    assert result.stdout.endswith(f"  commit       {'0' * 40}\n  source       {project}\n")
    token = run_of(once, "https://secret@github.com/somebody/else")
    assert "secret" not in run("resume", token, "--epochs", "5").output


def test_on_a_terminal_it_asks(once: dict[str, str], tmp_path: Path) -> None:
    project = make_project(tmp_path / "elsewhere", tmp_path / "canary")
    run_id = run_of(once, str(project))
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    with os.fdopen(theirs) as terminal:
        process = Process(COMMAND, "resume", run_id, "--epochs", "5", stdin=terminal)  # type: ignore[arg-type]
        ended = process.wait()
    os.close(ours)
    assert "Start it? [y/N]: " in ended.stdout
    assert ended.returncode == 1
    assert not (tmp_path / "canary").exists()


def test_in_its_own_repository_it_starts_and_nothing_else_does(
    once: dict[str, str], tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    """MLflow is the installed one, and parameters stay what they were."""
    canary = tmp_path / "canary"
    here = make_project(tmp_path / "here", tmp_path / "trained")
    (here / ".git").mkdir()
    (here / "mlflow.py").write_text(f"open({str(canary)!r}, 'w')")
    (here / "mlflow").mkdir()
    (here / "mlflow" / "__init__.py").write_text(f"open({str(canary)!r}, 'w')")
    run_id = trained()
    run_of({"run_id": run_id}, here.as_uri(), **{ENTRY_POINT: "main"})
    note = f'"it\'s" $(touch {canary}) `touch {canary}`\n; touch {canary} --backend=local'
    mlflow.MlflowClient().log_param(run_id, "note", note)
    ended = run_process("resume", run_id, "--epochs", "5", cwd=here)
    assert ended.returncode == 0, ended.stderr
    assert f"TRAINS {['5', run_id, note]}" in ended.stdout
    assert not canary.exists()
    record_property("hostile", "an mlflow.py in the directory | mlflow-ckpt resume | harmless")
    record_property("hostile", "quotes and commands in parameters | mlflow-ckpt resume | harmless")


def test_a_parameter_that_mlflow_downloads_takes_no_token_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: pytest.RecordProperty
) -> None:
    here = make_project(tmp_path / "here", tmp_path / "canary")
    (here / ".git").mkdir()
    text = (here / "MLproject").read_text()
    (here / "MLproject").write_text(text.replace("note: {type: string", "note: {type: path"))
    run_id = trained()
    run_of({"run_id": run_id}, here.as_uri(), **{ENTRY_POINT: "main"})
    mlflow.MlflowClient().log_param(run_id, "note", "http://127.0.0.1:9/x")
    monkeypatch.chdir(here)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    result = run("resume", run_id, "--epochs", "5")
    assert result.exit_code == 7
    assert "which is not the tracking server" in result.stderr
    record_property("hostile", "a path at another server | mlflow-ckpt resume | refused")


@pytest.mark.parametrize("value", ["'two words'", "it's", "-5", "''", "a\nb", "'a' 'b'", '"', "\\"])
def test_a_recorded_parameter_is_what_mlflow_quoted_or_as_it_is(value: str) -> None:
    expected = {"'two words'": "two words", "''": "", "a\nb": "a\nb"}.get(value, value)
    assert _unquoted(value) == expected
