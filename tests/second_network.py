"""A small random ViT of timm's as the second network."""

from __future__ import annotations

from functools import cache
from typing import Any

from sclip_lab.attention.variant import Variant
from sclip_lab.network.guidance import Guide, load_guidance

SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2}


@cache
def guide(name: str = "vit_tiny_patch16_224", **options: Any) -> Guide:
    """Patches of 16 px, 32 channels; options as for `load_guidance`."""
    return load_guidance(name, device="cpu", options=SMALL, **options)


def seen(variant: Variant) -> Guide | None:
    """The guide of a variant that looks at one."""
    return guide() if "guidance" in variant.uses else None
