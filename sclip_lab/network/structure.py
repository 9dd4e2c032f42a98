"""What a network computes besides its weights, for digests."""

from __future__ import annotations

from typing import Any

from torch import nn

# Attributes of modules that change what they compute, whatever the library.
ATTRIBUTES = (
    *("approximate", "eps", "final_ln_after_pool", "gate_last", "global_pool", "grid_indexing"),
    *("grid_offset", "groups", "in_pixels", "no_embed_class", "num_heads", "num_kv_heads"),
    *("num_prefix_tokens", "padding", "pool", "pool_include_prefix", "pool_type", "rotate_half"),
    *("attn_pool_type", "scale", "stride", "temperature", "text_pool_type", "window_size"),
    *("downsample_ratio", "encoder_pool", "merge_size", "pos_embed_ar_preserving", "rope_theta"),
    "use_clipped",
)


def structure(model: nn.Module) -> list[tuple[str, str, dict[str, Any]]]:
    """List (name, class, settings) of every module but those that do nothing in evaluation.

    Two networks with equal weights and equal structure compute the same thing.
    """
    entries = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in ("Dropout", "Identity", "DropPath", "PatchDropout"):  # nothing in evaluation
            continue
        values = {key: getattr(module, key) for key in ATTRIBUTES if key in vars(module)}
        entries.append((name, kind, {key: _plain(value) for key, value in values.items()}))
    return entries


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
