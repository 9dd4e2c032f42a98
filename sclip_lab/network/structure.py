"""What a network computes besides its weights, for digests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

# Attributes of modules that change what they compute, whatever the library.
ATTRIBUTES = (
    *("approximate", "eps", "final_ln_after_pool", "gate_last", "global_pool", "grid_indexing"),
    *("grid_offset", "groups", "in_pixels", "no_embed_class", "num_heads", "num_kv_heads"),
    *("num_prefix_tokens", "padding", "pool", "pool_include_prefix", "pool_type", "rotate_half"),
    *("attn_pool_type", "scale", "stride", "temperature", "text_pool_type", "window_size"),
)


def structure(model: nn.Module, part: str = "") -> list[tuple[str, str, Mapping[str, Any]]]:
    """(name, class, settings) of every module with weights or an activation.

    Two networks with equal weights and equal structure compute the same thing.

    Args:
        model: of any library.
        part: prefix of the names that count, such as ``visual.``; "" for all.
    """
    return [entry for entry in _entries(model) if entry[0].startswith(part)]


def _entries(model: nn.Module) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in ("Dropout", "Identity", "DropPath", "PatchDropout"):  # nothing in evaluation
            continue
        values = {key: getattr(module, key) for key in ATTRIBUTES if key in vars(module)}
        yield name, kind, {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
