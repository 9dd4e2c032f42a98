"""Weights in the layouts of other libraries, renamed to open_clip's and timm's.

transformers' CLIP, SigLIP, ViT and DINOv2 are renamed here. For what timm and open_clip convert
themselves (Facebook's DINOv2 and SAM, DINOv3, PE, Apple's MobileCLIP) their own converters are
called, in `sclip_lab.network.fit`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sclip_lab.core.errors import LabError

Weights = dict[str, Tensor]
VIT = "transformers' ViT layout"
VIT_EPSILON = 1e-12
# transformers' names of activations -> ours, see `activation`.
ACTIVATIONS = {
    "gelu": "GELU",
    "quick_gelu": "QuickGELU",
    "gelu_pytorch_tanh": "GELU with tanh",
    "gelu_new": "GELU with tanh",
}
# A block's part in transformers' old and new layouts, its name in timm, its name in open_clip.
SELF = r"(?:attention\.attention|attention|self_attn)"
PARTS = (
    (rf"{SELF}\.q(?:uery|_proj)", "attn.q", "attn.q"),
    (rf"{SELF}\.k(?:ey|_proj)", "attn.k", "attn.k"),
    (rf"{SELF}\.v(?:alue|_proj)", "attn.v", "attn.v"),
    (
        r"(?:attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)",
        *("attn.proj", "attn.out_proj"),
    ),
    (r"(?:layernorm_before|layer_norm1|norm1)", "norm1", "ln_1"),
    (r"(?:layernorm_after|layer_norm2|norm2)", "norm2", "ln_2"),
    (r"(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)", "mlp.fc1", "mlp.c_fc"),
    (r"(?:output\.dense|mlp\.fc2|mlp\.weights_out)", "mlp.fc2", "mlp.c_proj"),
    (r"layer_scale1\.lambda1", "ls1.gamma", "ls_1.gamma"),
    (r"layer_scale2\.lambda1", "ls2.gamma", "ls_2.gamma"),
)
BLOCK = re.compile(r"(?:encoder\.layers|encoder\.layer|layers)\.(\d+)\.(.+)")


def activation(module: Any) -> str:
    """Return the name of an activation, such as ``QuickGELU`` or ``GELU with tanh``."""
    tanh = getattr(module, "approximate", "none") == "tanh" or type(module).__name__ == "GELUTanh"
    return "GELU with tanh" if tanh else type(module).__name__


def of_clip(weights: Mapping[str, Tensor]) -> tuple[Weights, str] | None:
    """Rename weights of transformers' CLIPModel or SiglipModel to open_clip's layout. Returns them
    with the name of their layout, or None for weights in another one."""
    if "pre_layrnorm.weight" in weights:  # CLIPVisionModel, as later releases save it
        weights = {f"vision_model.{name}": weight for name, weight in weights.items()}
    if not any(name.startswith("vision_model.") for name in weights):
        return None
    if "vision_model.head.probe" in weights:
        return _siglip(weights), "transformers' SigLIP"
    return _clip(weights), "transformers' CLIP"


def of_vit(weights: Mapping[str, Tensor]) -> tuple[Weights, str] | None:
    """Rename weights of transformers' ViTModel or Dinov2Model to timm's layout. Returns them with
    the name of their layout, or None for weights in another one."""
    models = ("vit.", "dinov2.", "dinov2_with_registers.", "")
    prefix = [p for p in models if f"{p}embeddings.patch_embeddings.projection.weight" in weights]
    if not prefix:
        return None
    inner = {n.removeprefix(prefix[0]): w for n, w in weights.items() if n.startswith(prefix[0])}
    names = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "layernorm": "norm",
    }
    renamed = _renamed(inner, names) | _blocks(inner)
    if "embeddings.register_tokens" in inner:
        # timm adds the class token's position embedding to the token itself.
        renamed["reg_token"] = inner["embeddings.register_tokens"]
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
    scaled = any(".ls1." in name for name in renamed)
    return renamed, "transformers' DINOv2 layout" if scaled else VIT


def _clip(weights: Mapping[str, Tensor]) -> Weights:
    vision, text = (_inside(weights, f"{part}_model.") for part in ("vision", "text"))
    names = {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "pre_layrnorm": "ln_pre",  # transformers' spelling
        "post_layernorm": "ln_post",
    }
    visual = _renamed(vision, names) | _blocks(vision, of_open_clip=True)
    renamed = {f"visual.{name}": weight for name, weight in visual.items()} | _text(text)
    for old, new in (("visual_projection", "visual.proj"), ("text_projection", "text_projection")):
        if f"{old}.weight" in weights:
            renamed[new] = weights[f"{old}.weight"].T
    return renamed | _renamed(weights, {"logit_scale": "logit_scale"})


def _text(text: Mapping[str, Tensor]) -> Weights:
    names = {
        "embeddings.token_embedding": "token_embedding",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm": "ln_final",
        "head": "text_projection",
    }
    return _renamed(text, names) | _blocks(text, of_open_clip=True)


def _siglip(weights: Mapping[str, Tensor]) -> Weights:
    vision, text = (_inside(weights, f"{part}_model.") for part in ("vision", "text"))
    names = {
        "embeddings.patch_embedding": "patch_embed.proj",
        "post_layernorm": "norm",
        "head.layernorm": "attn_pool.norm",
        "head.mlp": "attn_pool.mlp",
        "head.attention.out_proj": "attn_pool.proj",
        "head.probe": "attn_pool.latent",
    }
    trunk = _renamed(vision, names) | _blocks(vision)
    trunk["pos_embed"] = vision["embeddings.position_embedding.weight"][None]
    for kind in ("weight", "bias"):
        packed = vision[f"head.attention.in_proj_{kind}"]
        width = len(packed) // 3
        trunk[f"attn_pool.q.{kind}"], trunk[f"attn_pool.kv.{kind}"] = packed.split(
            (width, 2 * width)
        )
    renamed = {f"visual.trunk.{name}": weight for name, weight in trunk.items()}
    renamed |= {f"text.{name}": weight for name, weight in _text(text).items()}
    return renamed | _renamed(weights, {name: name for name in ("logit_scale", "logit_bias")})


def _inside(weights: Mapping[str, Tensor], prefix: str) -> Weights:
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}


def _renamed(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> Weights:
    """Rename the weights, and the weights below the modules, whose old names are keys of ``names``;
    leave out all others."""
    return {
        new + name.removeprefix(old): weight
        for old, new in names.items()
        for name, weight in weights.items()
        if name == old or name.startswith(f"{old}.")
    }


def _blocks(weights: Mapping[str, Tensor], of_open_clip: bool = False) -> Weights:
    """Return the blocks' weights in timm's or open_clip's layout: query, key and value packed."""
    parts: dict[tuple[str, str], Tensor] = {}
    for name, weight in weights.items():
        if match := BLOCK.fullmatch(name):
            part = match[2]
            for pattern, *names in PARTS:
                if re.match(pattern, part):
                    part = re.sub(f"^{pattern}", names[of_open_clip], part)
                    break
            parts[match[1], part] = weight
    blocks, packed = (
        ("transformer.resblocks", "attn.in_proj_") if of_open_clip else ("blocks", "attn.qkv.")
    )
    renamed: Weights = {}
    for (index, part), weight in parts.items():
        layer, _, kind = part.rpartition(".")
        if layer == "attn.q":
            if any((index, f"attn.{letter}.{kind}") not in parts for letter in "kv"):
                raise LabError(
                    f"block {index} has a {kind} of its query, but none of key or value, as in "
                    "transformers' BEiT; only plain ViTs are read"
                )
            weight = torch.cat([parts[index, f"attn.{letter}.{kind}"] for letter in "qkv"])
            renamed[f"{blocks}.{index}.{packed}{kind}"] = weight
        elif layer not in ("attn.k", "attn.v"):
            renamed[f"{blocks}.{index}.{part}"] = weight
    return renamed
