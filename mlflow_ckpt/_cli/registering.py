"""What `register` prints."""

from __future__ import annotations

from typing import Any

from mlflow_ckpt._tracking.registry.register import Registered


def to_dict(registered: Registered) -> dict[str, Any]:
    """Return what was registered as plain values."""
    return {
        "run_id": registered.checkpoint.run_id,
        "checkpoint": registered.checkpoint.name,
        "name": registered.name,
        "version": registered.version,
        "alias": registered.alias,
        "source": registered.source,
        "uri": registered.uri,
        "created": registered.is_new,
    }


def to_text(registered: Registered) -> str:
    """Return what was registered, and how to use it."""
    found = registered.checkpoint
    verb = "is now" if registered.is_new else "was already"
    alias = "" if registered.alias is None else f", alias {registered.alias}"
    return "\n".join(
        [
            f"{found.name} of run {found.run_id} {verb} {registered.name} version "
            f"{registered.version}{alias}",
            f'  model = mlflow_ckpt.load_model("{registered.uri}")',
            f"  mlflow models serve -m {registered.uri} --env-manager local",
        ]
    )
