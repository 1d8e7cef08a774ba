"""The wheel works outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from devtools.stores import Store
from tests.support.checkpoints import save_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    # From a copy: what an earlier build left in the checkout must not get in.
    source = directory / "source"
    source.mkdir()
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mlflow_ckpt", source / "mlflow_ckpt", ignore=ignored)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", directory, source],
        check=True,
        timeout=300,
    )
    (path,) = directory.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mlflow_ckpt"}
    sources = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "mlflow_ckpt").rglob("*.py")
    } | {"mlflow_ckpt/py.typed"}
    assert sources <= set(names)


def test_a_checkpoint_is_restored_by_the_installed_wheel(
    wheel: Path, local_store: Store, tmp_path: Path
) -> None:
    run_id = save_run()
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel],
        check=True,
        timeout=300,
    )
    script = (
        f"import mlflow_ckpt; assert mlflow_ckpt.__file__.startswith({str(site)!r})\n"
        "from mlflow_ckpt._cli import main\n"
        f"main(['restore', {run_id!r}, '--output', 'out'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "model.keras").is_file()
