"""The command line `mlflow-ckpt`: commands.py defines it, the other files do what it says."""

from __future__ import annotations

from mlflow_ckpt._cli.commands import main

__all__ = ["main"]
