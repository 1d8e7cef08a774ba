"""What imports what: the rules between rooms, and what the package loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mlflow_ckpt

ROOT = Path(__file__).parents[1]


def test_the_rooms_keep_their_import_rules() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(
        [*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
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
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr


def test_listing_and_verifying_never_load_keras(trained_run: object) -> None:
    code = (
        "import sys, mlflow_ckpt; "
        f"run, uri = {trained_run.run_id!r}, {trained_run.store.uri!r}; "
        "assert mlflow_ckpt.verify(run, tracking_uri=uri).ok; "
        "assert len(mlflow_ckpt.list_checkpoints(run, tracking_uri=uri)) == 2; "
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


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
