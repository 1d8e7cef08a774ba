"""The command line `mlflow-ckpt`."""

from __future__ import annotations

from mlflow_ckpt._cli.application import main

__all__ = ["main"]
