"""Small towers of SigLIP's kind, built by open_clip and timm themselves."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

from sclip_lab.network.backbone import Backbone
from sclip_lab.network.loading import load_backbone

NAME = "vit_sclip_test"
# timm finds this by its name; the statistics are those of its SigLIP towers.
default_cfgs = generate_default_cfgs(
    {NAME: {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "num_classes": 0}}
)
TOWER: dict[str, Any] = {
    "img_size": 64,
    "patch_size": 16,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
    "class_token": False,
    "global_pool": "map",
    "init_values": 0.7,
}


@register_model
def vit_sclip_test(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """4 blocks, 4 heads, 4 x 4 patches of 16 px, no class token."""
    options.pop("pretrained_cfg_overlay", None)
    return build_model_with_cfg(VisionTransformer, NAME, pretrained, **{**TOWER, **options})


def architecture(**vision: Any) -> dict[str, Any]:
    """open_clip's config; arguments replace keys of ``vision_cfg``."""
    return {
        "embed_dim": 64,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": {
            "image_size": 64,
            "timm_model_name": NAME,
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
            **vision,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 100,
            "hf_tokenizer_name": "no/such-tokenizer",
            "width": 32,
            "heads": 2,
            "layers": 2,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    }


def network(settings: dict[str, Any] | None = None, **options: Any) -> Backbone:
    """A random one whose biases are not zero, so that a forgotten one shows."""
    backbone = load_backbone(architecture=settings or architecture(), device="cpu", **options)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in backbone.model.named_parameters():
        if name.endswith("bias"):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return backbone
