"""`mlflow run .` from a fresh clone, in the environment that conda.yaml describes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from mlflow_ckpt import list_checkpoints

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.parametrize("manager", ["local", "uv"])
def test_a_fresh_clone_trains(manager: str, tmp_path: Path) -> None:
    """With uv, MLflow builds an environment from conda.yaml alone: the file is complete."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True, timeout=120)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    binaries = Path(sys.executable).parent
    result = subprocess.run(
        [
            *(sys.executable, "-m", "mlflow", "run", ".", "--env-manager", manager),
            *("-P", "dataset=digits", "-P", "epochs=1"),
        ],
        cwd=clone,
        env={
            **os.environ,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_ENV_ROOT": str(tmp_path / "environments"),
        },
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert shutil.which("uv", path=str(binaries)) or manager != "uv"
    (run,) = MlflowClient(uri).search_runs(["0"])
    assert run.info.status == "FINISHED"
    (saved,) = list_checkpoints(run.info.run_id, tracking_uri=uri)
    assert saved.manifest.epoch == 1
