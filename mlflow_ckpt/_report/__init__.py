"""The report of a run as one HTML file (docs/report.md)."""

from __future__ import annotations

from mlflow_ckpt._report.build import build, publish

__all__ = ["build", "publish"]
