"""Quantization and LoRA adapters of layers, which their configuration lacks.

- `lora_enabled`, `lora_rank` and `lora_alpha` of layers. Fallback: no layer has adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def adaptation_of(layer: Any) -> dict[str, Any] | None:
    """Return how a layer was quantized, and given LoRA adapters; None if it was not."""
    rank = getattr(layer, "lora_rank", None) if getattr(layer, "lora_enabled", False) else None
    mode = getattr(layer, "quantization_mode", None)
    if rank is None and mode is None:
        return None
    return {"quantized": mode, "rank": rank, "alpha": getattr(layer, "lora_alpha", None)}


def adapt(layer: Any, wanted: Mapping[str, Any]) -> None:
    """Quantize a built layer, and give it LoRA adapters, unless it is so already."""
    if wanted["quantized"] is not None and layer.quantization_mode is None:
        layer.quantize(wanted["quantized"])
    if wanted["rank"] is not None and not layer.lora_enabled:
        layer.enable_lora(wanted["rank"], lora_alpha=wanted["alpha"])
