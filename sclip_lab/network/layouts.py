"""Weights in the layouts of other libraries, renamed to open_clip's and timm's.

transformers' CLIP, SigLIP, ViT and DINOv2 are renamed here. For what timm and open_clip convert
themselves (Facebook's DINOv2 and SAM, DINOv3, PE, Apple's MobileCLIP) their own converters are
called, in `sclip_lab.network.fit`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

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
# A block's parts in transformers' layouts, old and new: pattern -> timm's name.
PARTS = (
    (r"(?:attention\.attention|attention|self_attn)\.(q)(?:uery|_proj)", "attn.q"),
    (r"(?:attention\.attention|attention|self_attn)\.(k)(?:ey|_proj)", "attn.k"),
    (r"(?:attention\.attention|attention|self_attn)\.(v)(?:alue|_proj)", "attn.v"),
    (r"(?:attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)", "attn.proj"),
    (r"(?:layernorm_before|layer_norm1|norm1)", "norm1"),
    (r"(?:layernorm_after|layer_norm2|norm2)", "norm2"),
    (r"(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)", "mlp.fc1"),
    (r"(?:output\.dense|mlp\.fc2|mlp\.weights_out)", "mlp.fc2"),
    (r"layer_scale1\.lambda1", "ls1.gamma"),
    (r"layer_scale2\.lambda1", "ls2.gamma"),
)
BLOCK = re.compile(r"(?:encoder\.layers|encoder\.layer|layers)\.(\d+)\.(.+)")
OPEN_CLIP = {
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    **{f"attn.proj.{kind}": f"attn.out_proj.{kind}" for kind in ("weight", "bias")},
    **{
        f"{old}.{kind}": f"{new}.{kind}"
        for old, new in (("norm1", "ln_1"), ("norm2", "ln_2"))
        for kind in ("weight", "bias")
    },
    **{
        f"mlp.{old}.{kind}": f"mlp.{new}.{kind}"
        for old, new in (("fc1", "c_fc"), ("fc2", "c_proj"))
        for kind in ("weight", "bias")
    },
}


def activation(module: Any) -> str:
    """Return the name of an activation, such as ``QuickGELU`` or ``GELU with tanh``."""
    tanh = getattr(module, "approximate", "none") == "tanh" or type(module).__name__ == "GELUTanh"
    return "GELU with tanh" if tanh else type(module).__name__


def of_clip(weights: Mapping[str, Tensor]) -> tuple[Weights, str] | None:
    """Rename weights of transformers' CLIPModel or SiglipModel to open_clip's layout. Returns them
    with the name of their layout, or None for weights in another one."""
    if not any(name.startswith("vision_model.") for name in weights):
        return None
    if "vision_model.head.probe" in weights:
        return _siglip(weights), "transformers' SigLIP"
    return _clip(weights), "transformers' CLIP"


def of_vit(weights: Mapping[str, Tensor]) -> tuple[Weights, str] | None:
    """Rename weights of transformers' ViTModel or Dinov2Model to timm's layout. Returns them with
    the name of their layout, or None for weights in another one."""
    names = {"vit.", "dinov2.", "dinov2_with_registers.", ""}
    prefix = [p for p in names if f"{p}embeddings.patch_embeddings.projection.weight" in weights]
    if not prefix:
        return None
    inner = {n.removeprefix(prefix[0]): w for n, w in weights.items() if n.startswith(prefix[0])}
    renamed = {
        "cls_token": inner["embeddings.cls_token"],
        "pos_embed": inner["embeddings.position_embeddings"],
        **_renamed(inner, {"embeddings.patch_embeddings.projection": "patch_embed.proj"}),
        **_renamed(inner, {"layernorm": "norm"}),
        **_blocks(inner),
    }
    if "embeddings.register_tokens" in inner:
        # timm adds the class token's position embedding to the token itself.
        renamed["reg_token"] = inner["embeddings.register_tokens"]
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
    scaled = any(".ls1." in name for name in renamed)
    return renamed, "transformers' DINOv2 layout" if scaled else VIT


def _clip(weights: Mapping[str, Tensor]) -> Weights:
    vision, text = (_inside(weights, f"{part}_model.") for part in ("vision", "text"))
    renamed = {"visual." + name: weight for name, weight in _open_clip_blocks(vision)}
    for old, new in (
        ("embeddings.class_embedding", "class_embedding"),
        ("embeddings.patch_embedding.weight", "conv1.weight"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
    ):
        if old in vision:
            renamed[f"visual.{new}"] = vision[old]
    renamed |= {
        f"visual.{name}": weight
        for name, weight in _renamed(
            vision, {"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post"}
        ).items()
    }
    renamed |= _text(text)
    for old, new in (("visual_projection", "visual.proj"), ("text_projection", "text_projection")):
        if f"{old}.weight" in weights:
            renamed[new] = weights[f"{old}.weight"].T
    return renamed | {name: weights[name] for name in ("logit_scale",) if name in weights}


def _text(text: Mapping[str, Tensor]) -> Weights:
    if not text:
        return {}
    return {
        **dict(_open_clip_blocks(text)),
        "token_embedding.weight": text["embeddings.token_embedding.weight"],
        "positional_embedding": text["embeddings.position_embedding.weight"],
        **_renamed(text, {"final_layer_norm": "ln_final"}),
    }


def _siglip(weights: Mapping[str, Tensor]) -> Weights:
    vision, text = (_inside(weights, f"{part}_model.") for part in ("vision", "text"))
    trunk = {
        **_blocks(vision),
        **_renamed(vision, {"embeddings.patch_embedding": "patch_embed.proj"}),
        **_renamed(vision, {"post_layernorm": "norm", "head.layernorm": "attn_pool.norm"}),
        **_renamed(vision, {"head.mlp": "attn_pool.mlp"}),
        **_renamed(vision, {"head.attention.out_proj": "attn_pool.proj"}),
        "pos_embed": vision["embeddings.position_embedding.weight"][None],
        "attn_pool.latent": vision["head.probe"],
    }
    for kind in ("weight", "bias"):
        packed = vision[f"head.attention.in_proj_{kind}"]
        width = len(packed) // 3
        trunk[f"attn_pool.q.{kind}"], trunk[f"attn_pool.kv.{kind}"] = packed.split(
            (width, 2 * width)
        )
    renamed = {f"visual.trunk.{name}": weight for name, weight in trunk.items()}
    renamed |= {f"text.{name}": weight for name, weight in _text(text).items()}
    renamed |= {
        f"text.{name}": weight
        for name, weight in _renamed(text, {"head": "text_projection"}).items()
    }
    logit_names = ("logit_scale", "logit_bias")
    return renamed | {name: weights[name] for name in logit_names if name in weights}


def _inside(weights: Mapping[str, Tensor], prefix: str) -> Weights:
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}


def _renamed(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> Weights:
    """Return the weights below some modules under those modules' new names."""
    return {
        f"{new}.{name.removeprefix(f'{old}.')}": weight
        for old, new in names.items()
        for name, weight in weights.items()
        if name.startswith(f"{old}.")
    }


def _blocks(weights: Mapping[str, Tensor]) -> Weights:
    """Return the blocks' weights in timm's layout, with query, key and value packed."""
    renamed: Weights = {}
    for name, weight in weights.items():
        if match := BLOCK.fullmatch(name):
            part = next(
                (
                    re.sub(rf"^{old}", new, match[2])
                    for old, new in PARTS
                    if re.match(old, match[2])
                ),
                match[2],
            )
            renamed[f"blocks.{match[1]}.{part}"] = weight
    packed: Weights = {}
    for name, weight in renamed.items():
        if ".attn.q." in name:
            parts = [renamed[name.replace(".attn.q.", f".attn.{part}.")] for part in "qkv"]
            packed[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
        elif ".attn.k." not in name and ".attn.v." not in name:
            packed[name] = weight
    return packed


def _open_clip_blocks(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, weight in _blocks(weights).items():
        _, index, part = name.split(".", 2)
        yield f"transformer.resblocks.{index}.{OPEN_CLIP.get(part, part)}", weight
