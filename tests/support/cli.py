"""Runs `mlflow-ckpt`: in this process, where TensorFlow is loaded already, or in one of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import IO

from click.testing import CliRunner, Result

from mlflow_ckpt._cli import main
from tests.support import processes


def run(*arguments: str | Path, color: bool = False) -> Result:
    """Run a command in this process; an exception that is not an error of ours is raised.

    With `color`, its output is as in a terminal: click removes terminal codes elsewhere.
    """
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], color=color)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_process(
    *arguments: str | Path, cwd: Path | None = None, stdout: IO[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return processes.run_command(*arguments, cwd=cwd, stdout=stdout)
