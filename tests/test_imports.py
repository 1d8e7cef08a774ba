"""What imports what: the rules between rooms, and what the package loads."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlflow_ckpt
from devtools.stores import current
from mlflow_ckpt._model import keras_private
from tests.conftest import TrainedRun
from tests.support.checkpoints import save_run
from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]


def test_the_rooms_keep_their_import_rules() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(
        [*command, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import mlflow_ckpt",
        "import mlflow_ckpt.errors, mlflow_ckpt._cli",
        "from mlflow_ckpt import VerificationResult, Fingerprint",
    ],
)
def test_importing_the_package_loads_neither_keras_nor_mlflow(statement: str) -> None:
    code = (
        f"import sys; {statement}; "
        "print(sorted({'tensorflow', 'keras', 'mlflow', 'jax', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.stdout == "[]\n", done.stderr


WITHOUT_A_BACKEND = """
import json, sys
from click.testing import CliRunner
import mlflow_ckpt
from mlflow_ckpt._cli import main

def require_unloaded(what, *names):
    assert not set(names) & set(sys.modules), (what, sorted(set(names) & set(sys.modules)))

assert CliRunner().invoke(main, ["--help"]).exit_code == 0
require_unloaded("--help", "keras", "tensorflow", "mlflow")
run = sys.argv[1]
assert mlflow_ckpt.verify(run).ok
assert len(mlflow_ckpt.list_checkpoints(run)) == 2
require_unloaded("functions", "keras", "tensorflow")
for arguments, code in json.loads(sys.argv[2]):
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == code, (arguments, done.output)
    require_unloaded(arguments, "keras", "tensorflow")
"""


def test_what_only_reads_and_removes_loads_no_backend(trained_run: TrainedRun) -> None:
    run_id = trained_run.run_id
    with current(trained_run.store):
        pruned = save_run(losses=(0.1, 0.5, 0.3))
        commands = [
            (["list", run_id], 0),
            (["show", run_id], 0),
            (["verify", run_id], 0),
            (["diff", f"ckpt:/{run_id}/1", run_id], 1),
            (["prune", pruned, "--keep-last", "1"], 0),
        ]
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_A_BACKEND, run_id, json.dumps(commands)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        assert len(mlflow_ckpt.list_checkpoints(pruned)) == 2


def test_public_names_are_sorted_and_importable() -> None:
    for module in (mlflow_ckpt, mlflow_ckpt.errors):
        assert sorted(module.__all__) == module.__all__
        for name in module.__all__:
            assert getattr(module, name) is not None
    assert set(mlflow_ckpt.__all__) <= set(dir(mlflow_ckpt))


def test_every_error_is_public_and_in_one_tree() -> None:
    for name in mlflow_ckpt.errors.__all__:
        error = getattr(mlflow_ckpt.errors, name)
        assert issubclass(error, mlflow_ckpt.errors.MlflowCkptError)
        assert error.__doc__
        assert f"{name}" in (mlflow_ckpt.errors.__doc__ or "")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="attribute nothing"):
        mlflow_ckpt.nothing  # noqa: B018


PACKAGE = ROOT / "mlflow_ckpt"
GUARDED = PACKAGE / "_model" / "keras_private"
# Python's own modules, and the file of MLflow's private names.
PYTHON = ("sys", "random")
ELSEWHERE = PACKAGE / "_tracking" / "mlflow_private.py"


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def foreign_private_names(file: Path) -> Iterator[str]:
    """Yield the private names of others that a file refers to, and where."""
    nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    own |= {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
    }
    for node in nodes:
        found = private_attribute(node, own) or inner_module(node)
        if found is not None and found.partition(".")[0] not in PYTHON:
            yield f"{file.name}:{node.lineno}: {found}"


def private_attribute(node: ast.AST, own: set[str]) -> str | None:
    """Return the private attribute that code refers to, unless it is the file's own."""
    if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
        return ast.unparse(node)
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
        name = node.args[1]
        if isinstance(name, ast.Constant) and is_private(name.value):
            return f"{ast.unparse(node.args[0])}.{name.value}"
    return None


def inner_module(node: ast.AST) -> str | None:
    """Return the inner module of Keras or TensorFlow that code imports or names."""
    found = None
    if isinstance(node, ast.ImportFrom):
        found = node.module
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        found = node.value
    return found if str(found).startswith(("keras.src", "tensorflow.python")) else None


def test_private_names_of_keras_are_used_in_one_package() -> None:
    files = [
        file
        for file in sorted(PACKAGE.rglob("*.py"))
        if GUARDED not in file.parents and file != ELSEWHERE
    ]
    assert len(files) > 100
    assert [name for file in files for name in foreign_private_names(file)] == []
    assert len([name for file in GUARDED.glob("*.py") for name in foreign_private_names(file)]) > 80


def test_every_module_of_private_names_is_in_the_overview_and_lists_its_own() -> None:
    overview = keras_private.__doc__ or ""
    for file in sorted(GUARDED.glob("*.py")):
        if file.stem != "__init__":
            assert f"\n- `{file.stem}`: " in overview
            listed = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
            assert "\n- " in listed, file.name
            assert "fallback" in listed.lower(), file.name
