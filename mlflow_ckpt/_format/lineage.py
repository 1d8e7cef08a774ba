"""Where a training came from: the checkpoint that it goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a training was resumed from.

    Attributes:
        run_id: Its run.
        name: Its name, such as `epoch_0003`.
        weights_digest: The digest of its weights.
        tracking_uri: The server that has it; empty if unknown.
    """

    run_id: str
    name: str
    weights_digest: str
    tracking_uri: str = ""

    def __str__(self) -> str:
        """Return it as the tag `mlflow_ckpt.resumed_from` says it: `<run_id>/<name>`."""
        return f"{self.run_id}/{self.name}"

    def to_dict(self) -> dict[str, str]:
        """Return it as a manifest's `lineage` says it."""
        return {
            "run_id": self.run_id,
            "checkpoint": self.name,
            "weights_digest": self.weights_digest,
        }

    @classmethod
    def of(cls, lineage: Mapping[str, Any]) -> Origin | None:
        """Read a manifest's `lineage`; None if the training started fresh."""
        try:
            return cls(
                str(lineage["run_id"]), str(lineage["checkpoint"]), str(lineage["weights_digest"])
            )
        except KeyError:
            return None
