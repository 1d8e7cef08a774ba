"""The group of commands: a file for each, imported when it is needed, and documented."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_ckpt._cli import main
from tests.conftest import TrainedRun
from tests.support.cli import run
from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]
NAMES = sorted(
    path.stem.removeprefix("cmd_")
    for path in (ROOT / "mlflow_ckpt" / "_cli" / "commands").glob("cmd_*.py")
)
# Prints which of the command modules and of the heavy packages each call has imported.
SCRIPT = """
import contextlib, io, json, sys
from mlflow_ckpt._cli import main

def loaded():
    commands = {name for name in sys.modules if ".cmd_" in name}
    return commands | sys.modules.keys() & {"h5py", "keras", "mlflow", "numpy", "rich"}

before = loaded()
imported = [sorted(before)]
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()):
        main(arguments, standalone_mode=False)
    imported.append(sorted(loaded() - before))
    before = loaded()
print(json.dumps(imported))
"""


def imported_by(*calls: list[str]) -> list[list[str]]:
    """Return what importing the command line imports, and what each call does after it."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(calls)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def module(name: str) -> str:
    return f"mlflow_ckpt._cli.commands.cmd_{name}"


def test_the_commands_are_the_files_in_their_directory() -> None:
    assert {"import", "list"} < set(NAMES)
    assert list(main.commands) == NAMES
    assert all(main.commands[name].name == name for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_command_has_help_and_a_section_in_the_docs(name: str) -> None:
    result = run(name, "--help")
    words = (main.commands[name].help or "").split()
    assert result.exit_code == 0
    assert words
    assert " ".join(words) in " ".join(result.output.split())
    assert re.search(rf"^  {name} +\w", run("--help").output, re.MULTILINE)
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE)
    options = set(re.findall(r"--[a-z][a-z-]+", result.output)) - {"--help"}
    assert options <= set(re.findall(r"--[a-z][a-z-]+", section))


def test_each_command_is_imported_alone_and_imports_nothing_heavy() -> None:
    at_first, *later = imported_by(*([name, "--help"] for name in NAMES))
    assert at_first == []
    assert later == [[module(name)] for name in NAMES]


def test_the_list_of_commands_imports_nothing_heavy() -> None:
    assert imported_by(["--help"]) == [[], [module(name) for name in NAMES]]


def test_a_command_that_runs_imports_no_other(trained_run: TrainedRun) -> None:
    arguments = ["list", trained_run.run_id, "--tracking-uri", trained_run.store.uri]
    _, imported = imported_by(arguments)
    assert module("list") in imported
    assert not {"keras", *map(module, NAMES)} - {module("list")} & set(imported)


def test_a_mistyped_command_is_told_with_the_one_that_was_meant() -> None:
    result = run("lits")
    assert result.exit_code == 2
    assert "No such command 'lits'. Did you mean 'list'?" in result.output
