"""The page of a run, as one HTML file: what it shows is written down in docs/report.md."""

from __future__ import annotations

from mlflow_ckpt._report.build import build, publish

__all__ = ["build", "publish"]
