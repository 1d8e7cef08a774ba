"""Lineage of a training: the checkpoint that it was resumed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a training was resumed from.

    Attributes:
        run_id: The checkpoint's run.
        name: The checkpoint's name, such as `epoch_0003`.
        weights_digest: Digest of its weights.
        tracking_uri: Tracking server that holds it; empty if unknown.
    """

    run_id: str
    name: str
    weights_digest: str
    tracking_uri: str = ""

    def __str__(self) -> str:
        """Return the value of the tag `mlflow_ckpt.resumed_from`: `<run_id>/<name>`."""
        return f"{self.run_id}/{self.name}"

    def to_dict(self) -> dict[str, str]:
        """Return the content of a manifest's `lineage`."""
        return {
            "run_id": self.run_id,
            "checkpoint": self.name,
            "weights_digest": self.weights_digest,
        }

    @classmethod
    def of(cls, lineage: Mapping[str, Any]) -> Origin | None:
        """Parse a manifest's `lineage`; None if the training was not resumed."""
        try:
            return cls(
                str(lineage["run_id"]), str(lineage["checkpoint"]), str(lineage["weights_digest"])
            )
        except KeyError:
            return None
