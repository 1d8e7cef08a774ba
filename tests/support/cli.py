"""Runs `mlflow-ckpt`: in this process, where TensorFlow is already loaded, or in a new one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import IO

from click.testing import CliRunner, Result

from mlflow_ckpt._cli import main
from tests.support import processes


def run(*arguments: str | Path, color: bool = False) -> Result:
    """Run a command in this process; raise exceptions other than this package's errors.

    With `color`, its output is as in a terminal: click removes terminal codes elsewhere.
    """
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], color=color)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_process(
    *arguments: str | Path, cwd: Path | None = None, stdout: IO[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a new process."""
    return processes.run_command(*arguments, cwd=cwd, stdout=stdout)
