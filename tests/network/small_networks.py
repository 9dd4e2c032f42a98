"""Networks of open_clip and timm by name, made small: two narrow blocks, weights of our own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from open_clip import factory
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.loading import load_backbone
from sclip_lab.network.vit import load_vit

volo_of_any_size = timm.models.volo._create_volo
DEPTH, WIDTH, HEADS = 2, 64, 2
TEXT = {"layers": 1, "width": 64, "heads": 2}


def shrink(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let open_clip build ``name`` small. What else its file says stays."""
    config: dict[str, Any] = deepcopy(factory._MODEL_CONFIGS[name])
    vision = config["vision_cfg"]
    config["embed_dim"] = 48
    if "hf_model_name" not in config["text_cfg"]:
        config["text_cfg"] |= TEXT
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= TEXT
    if "timm_model_name" in vision:
        timm_name = vision["timm_model_name"]
        if vision.get("timm_proj") in (None, "none") and vision.get("timm_pool") == "map":
            config["embed_dim"] = WIDTH  # the pooled tokens themselves
        monkeypatch.setattr(open_clip.timm_model, "timm", SimpleNamespace(create_model=small_timm))
        vision["image_size"] = small_options(timm_name)["img_size"]
    else:
        side = vision["patch_size"]
        vision |= {"layers": DEPTH, "width": WIDTH, "head_width": 32, "image_size": 4 * side}
        vision |= {"attn_pooler_heads": 2} if vision.get("attentional_pool") else {}
    monkeypatch.setitem(factory._MODEL_CONFIGS, name, config)


def publish(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> dict[str, Tensor]:
    """Random weights of the small network, which open_clip takes for a download of any tag."""
    torch.manual_seed(3)
    weights = open_clip.create_model(name, pretrained_text=False).state_dict()
    weights = {
        key: value + 0.05 * torch.randn_like(value) if value.is_floating_point() else value
        for key, value in weights.items()
    }
    torch.save(weights, path)
    monkeypatch.setattr(factory, "download_pretrained", lambda *args, **options: str(path))
    return weights


def small_options(name: str) -> dict[str, Any]:
    """Arguments that make a network of timm small."""
    patch = re.search(r"patch(\d+)", name)
    options: dict[str, Any] = {"depth": DEPTH, "embed_dim": WIDTH, "num_heads": HEADS}
    options["img_size"] = 4 * int(patch[1]) if patch else 64
    if name.startswith("naflexvit") and "_radio_" in name:
        options["pos_embed_grid_size"] = (4, 4)  # instead of 128 x 128
    if "sapiens2" in name:
        options["num_kv_heads"] = 1
    if "vitamin" in name or "_r26_" in name or "_r50_" in name or "resnet" in name:
        del options["embed_dim"], options["num_heads"]  # the convolutions fix them
        options["img_size"] = 128
    if "giant_patch14" in name and ("dinov2" in name or "tipsv2" in name):
        options |= {"embed_dim": 96, "num_heads": 3}  # the gated MLP halves an even number
    if "qwen3_vit" in name:
        options["pos_embed_grid_size"] = 4
    if "gemma4_vit" in name:
        options |= {"head_dim": 32, "intermediate_size": 96, "position_embedding_size": 64}
    if "deepseek_vit" in name:
        options["img_size"] = 6 * 14
    if name.endswith(("_enc", "_merge", "_align")) and "gemma" not in name:
        options["out_features"] = 48  # as wide as a language model
    if "samvit" in name:
        options |= {"window_size": 3, "global_attn_indexes": (1,)}  # of 4 x 4 patches
    if "volo" in name:
        return {"img_size": 64}  # the rest by `small_volo`
    if "mci" in name:
        options["embed_dim"] = 768  # as wide as its convolutions
        options["num_heads"] = 12
    return options


def small_timm(name: str, **options: Any) -> Any:
    """`timm.create_model` of a small network."""
    return timm.create_model(name, **{**small_options(name), **options})


def perturbed(backbone: Backbone) -> Backbone:
    """The same network with other norms, biases and scales, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(0)
    for parameter in backbone.model.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return backbone


def small_volo(variant: str, **options: Any) -> Any:
    """timm lets no option change the sizes of a VOLO."""
    sizes = {"layers": (1,) * 4, "embed_dims": (WIDTH,) * 4, "num_heads": (HEADS,) * 4}
    return volo_of_any_size(variant, **options | sizes)


def small_vit(name: str, **options: Any) -> Backbone:
    """A small network of timm's, loaded by name."""
    with mock.patch.object(timm.models.volo, "_create_volo", small_volo):
        return perturbed(load_vit(name, device="cpu", options=small_options(name) | options))


def small_clip(
    monkeypatch: pytest.MonkeyPatch, name: str, text_folder: Path | None = None
) -> Backbone:
    """A small network of open_clip's, loaded by name."""
    shrink(monkeypatch, name)
    return perturbed(load_backbone(name, text_folder=text_folder, device="cpu"))


def photos(backbone: Backbone) -> Tensor:
    side = min(backbone.image_size, 240)  # Gemma's has no smaller size of its own
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def own_features(backbone: Backbone, images: Tensor) -> tuple[Tensor, Tensor]:
    """Patch and image embeddings by the library's own forward pass."""
    model = backbone.model
    if any(hasattr(model, part) for part in ("encoder", "merger", "aligner", "pooler")):
        return _of_language_model(model, images)
    if not hasattr(model, "visual"):
        tokens = model.forward_features(images)
        tokens = tokens.flatten(2).mT if tokens.ndim == 4 else tokens  # SAM
        tokens = model.fc_norm(tokens) if hasattr(model, "fc_norm") else tokens
        whole = model(images)
        whole = whole[:, 0] if whole.ndim == 3 else whole
        patches = math.prod(side // backbone.patch_size for side in images.shape[-2:])
        return tokens[:, -patches:], whole
    whole = model.encode_image(images, normalize=False).flatten(1)
    if hasattr(model.visual, "trunk"):
        trunk = model.visual.trunk
        tokens = trunk.forward_features(images)[:, backbone.tower.prefix :]
        # Each patch pooled as if it were the only token.
        each = tokens.flatten(0, 1)[:, None]
        with mock.patch.object(trunk, "num_prefix_tokens", 0):
            pooled = model.visual.head(trunk.forward_head(each))
        return pooled.view(*tokens.shape[:2], -1), whole
    behind: list[Tensor] = []
    last = model.visual.transformer.resblocks[-1]
    handle = last.register_forward_hook(lambda module, inputs, out: behind.append(out))
    model.encode_image(images)
    handle.remove()
    visual, tokens = model.visual, behind[0][:, 1:]
    each = tokens.flatten(0, 1)[:, None]
    if visual.attn_pool is not None:
        pooled = visual._pool(each)[0].flatten(1)
    else:
        pooled = visual.ln_post(each[:, 0])
    return (pooled @ visual.proj).view(*tokens.shape[:2], -1), whole


def _of_language_model(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Those of an encoder: each patch as a cell of the projector that it fills alone."""
    encoder = getattr(model, "encoder", model)
    tokens = encoder.forward_features(images)
    tokens = tokens.flatten(1, 2) if tokens.ndim == 4 else tokens
    each, whole = tokens.flatten(0, 1)[:, None], model(images)
    whole = whole if model is not encoder else whole.mean(1)
    joins = getattr(encoder, "merger", None) or getattr(encoder, "aligner", None)
    if joins is not None:
        side = 2 if hasattr(encoder, "merger") else 3
        each = joins(each[:, None].repeat(1, side, side, 1))
    elif encoder.global_pool == "soft":
        side = encoder.pooler.pooling_kernel_size
        places = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        each, _ = encoder.pooler(each.repeat(1, side**2, 1), places.expand(len(each), -1, -1), None)
        if encoder.std_bias is not None:
            each = (each - encoder.std_bias) * encoder.std_scale
    embedded = each[:, 0] if model is encoder else model.forward_head(each)
    return embedded.unflatten(0, tokens.shape[:2]), whole


@contextmanager
def attention_replaced(block: Any, rule: Callable[..., Tensor]) -> Iterator[None]:
    """One block's attention as ``rule(query, key, value, scale)``, inside the library's own forward
    pass: all of them call torch's `scaled_dot_product_attention`."""
    inside = False
    original = F.scaled_dot_product_attention

    def entered(*args: Any) -> None:
        nonlocal inside
        inside = True

    def left(*args: Any) -> None:
        nonlocal inside
        inside = False

    def replaced(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
        if not inside:
            return original(query, key, value, *args, **options)
        return rule(query, key, value, options.get("scale") or query.shape[-1] ** -0.5)

    handles = block.register_forward_pre_hook(entered), block.register_forward_hook(left)
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with mock.patch.object(F, "scaled_dot_product_attention", replaced):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
        for handle in handles:
            handle.remove()


def csa(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """SCLIP's correlative self-attention."""
    weights = sum((scale * x @ x.mT).softmax(-1) for x in (query, key))
    return weights @ value


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def refused(error: LabError) -> str:
    """One line of refusal, which must not be a traceback's."""
    line = str(error)
    assert "\n" not in line
    return line
