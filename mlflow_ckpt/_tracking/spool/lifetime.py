"""Whether a spool outlives this machine's container or its temporary files."""

from __future__ import annotations

import os
from pathlib import Path

from mlflow_ckpt._tracking.spool.spool_directory import ENVIRONMENT_VARIABLE, Spool

# What container runtimes put into a container, or its environment.
_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
_VARIABLE = "KUBERNETES_SERVICE_HOST"
_ROOT = Path("/")


def ends_with(spool: Spool) -> str | None:
    """Return what a spool ends with, as a phrase; None if it is not known to end.

    Where `MLFLOW_CKPT_SPOOL` names the directory, whoever set it knows what it is on.
    """
    if spool.is_temporary:
        return "this machine's temporary files"
    if os.environ.get(ENVIRONMENT_VARIABLE) or not _is_in_container():
        return None
    return "this container" if _is_on_root(spool.root) else None


def _is_in_container() -> bool:
    return _VARIABLE in os.environ or any(mark.exists() for mark in _MARKS)


def _is_on_root(path: Path) -> bool:
    """Whether a directory is on the container's own file system, not on a volume."""
    try:
        return path.stat().st_dev == _ROOT.stat().st_dev
    except OSError:
        return False
