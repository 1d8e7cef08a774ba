"""The run's description in MLflow's UI: its best and latest checkpoint, and how to use them.

Users may edit the description as well. This package writes a block between two markers; text
outside of it is never changed, an edited block is kept, and a deleted block is not restored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.filesize import decimal

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.text import counted
from mlflow_ckpt._shown.escaping import shown
from mlflow_ckpt._tracking import tags

if TYPE_CHECKING:
    from mlflow.entities import Run

TABLE = layout.artifact_path("index.json")
# Markdown link definitions without references, which are not rendered.
_BEGIN, _END = "[//]: # (mlflow_ckpt begins)", "[//]: # (mlflow_ckpt ends)"
# MLflow truncates tags at 8,000 characters.
_LONGEST = 7_500
_METRICS = 6
# What both CommonMark and MLflow's own converter take after a backslash, and what only the first.
_SPECIAL = "\\|`*_{}[]()#+!~=:-."
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "&#64;"}


def description_tags(manifests: Sequence[Manifest], best: str | None, run: Run) -> dict[str, str]:
    """Return the tags that update the description; empty if the user has changed the block.

    Args:
        manifests: The manifests of all checkpoints of the run, oldest first.
        best: Name of the best checkpoint; None if no metric decides.
        run: The current state of the run.
    """
    text, written = run.data.tags.get(tags.NOTE, ""), run.data.tags.get(tags.DESCRIPTION)
    block = _block(run.info.run_id, run.info.experiment_id, manifests, best)
    before, begin, rest = text.partition(_BEGIN)
    old, end, after = rest.partition(_END)
    if begin and end:
        if written is not None and written != _digest(old):
            return {}  # the user edited it
    elif written is not None or begin or end:
        return {}  # the user deleted it
    else:
        before, after = (f"{text.rstrip()}\n\n" if text.strip() else ""), ""
    new = f"{before}{_BEGIN}{block}{_END}{after}"
    if new == text or len(new) > _LONGEST:
        return {}
    return {tags.NOTE: new, tags.DESCRIPTION: _digest(block)}


def _digest(block: str) -> str:
    return hashlib.sha256(block.encode()).hexdigest()


def _block(run_id: str, experiment_id: str, manifests: Sequence[Manifest], best: str | None) -> str:
    latest = manifests[-1]
    shown = [("latest", latest)]
    if best is not None:
        manifest = next(manifest for manifest in manifests if manifest.name == best)
        monitor = manifest.monitor or latest.monitor
        role = f"best {monitor.name}" if monitor is not None else "best"
        shown.insert(0, (_cell(role), manifest))
    names = list(dict.fromkeys(name for _, m in shown for name in m.metrics))[:_METRICS]
    header = ["", "checkpoint", "epoch", "step", *map(_cell, names), "size"]
    lines = [_row(header), _row(["---"] * len(header))]
    for role, manifest in shown:
        values = [f"{manifest.metrics[n]:.4g}" if n in manifest.metrics else "" for n in names]
        position = [f"`{manifest.name}`", str(manifest.epoch), str(manifest.step)]
        lines.append(_row([role, *position, *values, decimal(manifest.size)]))
    selector = "latest" if best is None else "best"
    served = latest.name if best is None else best
    return "\n".join(
        [
            "",
            "",
            f"### {counted(len(manifests), 'checkpoint')}",
            "",
            *lines,
            "",
            "```",
            f"mlflow-ckpt restore {run_id} --checkpoint {selector}",
            f"mlflow-ckpt resume {run_id} --epochs {latest.epoch + 1}",
            f"mlflow models serve -m runs:/{run_id}/{layout.artifact_path(served)} "
            "--env-manager local",
            "```",
            "",
            # The UI shows the Models table only in the model training view, or through a link.
            f"[all checkpoints](#/experiments/{experiment_id}/runs/{run_id}/artifacts/{TABLE}) · "
            f"[Models table](#/experiments/{experiment_id}/models?workflowType=machine_learning)",
            "",
            "",
        ]
    )


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Return text for a cell of a Markdown table, in which nothing is a link, an image or HTML."""
    return "".join(_ENTITIES.get(c) or (f"\\{c}" if c in _SPECIAL else c) for c in shown(text))
